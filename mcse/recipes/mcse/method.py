"""MCSE: SimCSE's text term plus λ · sentence→image InfoNCE on the sentences that have an image.

B queries of this process.

Source: Zhang, Mosbach, Adelani, Hedderich and Klakow 2022, "MCSE: Multimodal Contrastive Learning of Sentence
Embeddings", NAACL.
"""

from __future__ import annotations

from torch import nn

from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes.image_side import open_paired_images
from mcse.recipes.mcse.config import Config, LossConfig
from mcse.recipes.taught import build_taught_text, check_one_space, paired_feed, paired_run
from mcse.recipes.terms.config import LearnedWeight
from mcse.recipes.terms.joint import joint_contrast
from mcse.recipes.terms.match import match_head_of, pair_weights
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerms, PairBatch, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MCSE run."""
    loss = config.loss
    taught = build_taught_text(config, runtime)
    text, teachers = taught.side, taught.teachers
    images = open_paired_images(config.data)
    for key in loss.guided:
        check_one_space(key, teachers, images)
    # Sentences need the teachers' rows only where a term of theirs reads them.
    feed = paired_feed(config, taught, images, runtime, teaches_sentences=bool(loss.reads_teachers))
    model = GroundedModel(
        text.model,
        image_dim=images.width,
        joint_dim=loss.joint_dim,
        tower=images.module,
        judges=isinstance(loss.match_weight, LearnedWeight),
    )
    heads = {"grounding_head": model.grounding_head, "image_head": model.image_head}

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        if isinstance(batch, PairBatch) or loss.reads_teachers:
            batch = teachers.with_rows(batch)
        rows: GroundedRows = model(batch)
        terms = dict(taught.terms(rows.text, batch))
        if isinstance(batch, PairBatch):
            terms |= image_terms(rows, batch, loss)
        return terms

    match_head = match_head_of(model, loss.match_weight)
    return paired_run(config, taught, images, feed, model=model, step=step, heads=heads, match_head=match_head)


def image_terms(rows: GroundedRows, batch: PairBatch, loss: LossConfig) -> LossTerms:
    """``text_image``: sentence→image InfoNCE of both dropout views against the images of all processes.

    Beside it, with weights of pairs, their own terms.
    """
    assert rows.grounded_query_BH is not None
    assert rows.grounded_positive_BH is not None
    assert rows.image_BH is not None
    pair_weight_B, terms = pair_weights(rows, batch, loss.match_weight)
    terms["text_image"] = joint_contrast(
        [rows.grounded_query_BH, rows.grounded_positive_BH],
        rows.image_BH,
        batch.image_id_B,
        temperature=loss.image_temperature,
        weight=loss.image_weight,
        reduction=loss.image_reduction,
        pair_weight_B=pair_weight_B,
    )
    return terms
