"""KDMCSE: SimCSE's term with a margin, plus λ times InfoNCE of sentences with images and with the teacher's captions.

With θ the angle of a sentence and another pair's image, and α the teacher's cosine of that image and the sentence's
own: cos(θ − (1 − α) · m) stands for cos θ where θ > m. The same of the teacher's rows of captions, with their
cosines.

The teacher is frozen: its rows of images are ``data.images``, those of captions the key ``teachers``. A live image
encoder may replace stored rows.

What differs from the released code: rows of all processes are compared; captions of a query's own image are no
negatives; the teacher's captions come as unit rows into their head; and the filter, which no published script
switches on, is of unit rows, and the share that it leaves out is logged.

B queries of this process, N rows of all processes, F width of the teacher's rows.

Source: Nguyen, Nguyen, Wu and Luu 2024, "KDMCSE: Knowledge Distillation Multimodal Sentence Embeddings with Adaptive
Angular margin Contrastive Learning", NAACL, and its released code.
"""

from __future__ import annotations

from torch import Tensor, nn

from mcse.config import ConfigError
from mcse.distributed import gather_rows
from mcse.losses.contrastive import Margin, TeacherFilter, TeacherRows, count_left_out, unit_rows
from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes.image_side import open_paired_images
from mcse.recipes.kdmcse.config import Config, LossConfig
from mcse.recipes.taught import build_taught_text, check_one_space, paired_feed, paired_run
from mcse.recipes.terms.config import LearnedWeight
from mcse.recipes.terms.joint import joint_contrast
from mcse.recipes.terms.match import match_head_of, pair_weights
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, PairBatch, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one KDMCSE run."""
    loss = config.loss
    taught = build_taught_text(config, runtime)
    text, teachers = taught.side, taught.teachers
    images = open_paired_images(config.data)
    for key in loss.compares_sides:
        check_one_space(key, teachers, images)
    if teachers.live and config.train.cached_chunk_size is not None:
        raise ConfigError(
            "train.cached_chunk_size: the model reads the teacher's rows chunk by chunk, and a live teacher gives them "
            "to whole batches; store them (mcse extract-features --texts …) and give store in place of encoder"
        )
    # Sentences need the teacher's rows only where a term of theirs reads them.
    feed = paired_feed(config, taught, images, runtime, teaches_sentences=bool(loss.reads_teachers))
    model = GroundedModel(
        text.model,
        image_dim=images.width,
        joint_dim=loss.joint_dim,
        tower=images.module,
        teacher_dim=teachers.width,
        judges=isinstance(loss.match_weight, LearnedWeight),
    )
    heads: dict[str, nn.Module] = {"grounding_head": model.grounding_head, "image_head": model.image_head}
    teacher_head = [model.caption_head] if model.caption_head is not None else []

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        if isinstance(batch, PairBatch) or loss.reads_teachers:
            batch = teachers.with_rows(batch)
        rows: GroundedRows = model(batch)
        terms = dict(taught.terms(rows.text, batch))
        if isinstance(batch, PairBatch):
            terms |= teacher_terms(rows, batch, loss)
        return terms

    return paired_run(
        config,
        taught,
        images,
        feed,
        model=model,
        step=step,
        heads=heads,
        more_heads=teacher_head,
        match_head=match_head_of(model, loss.match_weight),
    )


def teacher_terms(rows: GroundedRows, batch: PairBatch, loss: LossConfig) -> LossTerms:
    """``text_image`` and ``text_caption``, with a filter the shares of negatives that it leaves out of each.

    Weights of pairs are of images alone: a caption is the teacher's own, whatever image stands beside it.
    """
    assert rows.feature_BF is not None
    assert batch.teacher_BF is not None
    image_BF, caption_BF = unit_rows(rows.feature_BF.detach()), batch.teacher_BF
    (image_NF, offset), (caption_NF, _) = gather_rows(image_BF), gather_rows(caption_BF)
    caption_weight = loss.image_weight if loss.caption_weight is None else loss.caption_weight
    sides = {
        "text_image": (rows.image_BH, loss.image_weight, image_BF, image_NF, caption_BF),
        "text_caption": (rows.caption_BH, caption_weight, caption_BF, caption_NF, image_BF),
    }
    pair_weight_B, terms = pair_weights(rows, batch, loss.match_weight)
    for name, (key_BH, weight, own_BF, own_NF, other_BF) in sides.items():
        assert key_BH is not None
        filtering = None
        if loss.cross_filter is not None:
            # A caption says which other images are near to it, and an image which other captions are.
            across = TeacherRows(query_BF=other_BF, key_NF=own_NF)
            filtering = TeacherFilter(teacher=across, threshold=loss.cross_filter.threshold)
            left_out = count_left_out(filtering, offset=offset)
            terms[f"left_out.{name}"] = LossTerm(left_out, count=len(own_BF) * (len(own_NF) - 1), is_loss=False)
        terms[name] = joint_contrast(
            _views(rows),
            key_BH,
            batch.image_id_B,
            temperature=loss.image_temperature,
            weight=weight,
            margin=Margin(negative=loss.image_margin, teacher=TeacherRows(query_BF=own_BF, key_NF=own_NF)),
            filtering=filtering,
            pair_weight_B=pair_weight_B if name == "text_image" else None,
        )
    return terms


def _views(rows: GroundedRows) -> list[Tensor]:
    assert rows.grounded_query_BH is not None
    assert rows.grounded_positive_BH is not None
    return [rows.grounded_query_BH, rows.grounded_positive_BH]
