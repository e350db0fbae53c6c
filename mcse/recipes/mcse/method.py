"""MCSE: SimCSE's text term plus λ · sentence→image InfoNCE on the sentences that have an image.

B queries of this process.

Source: Zhang, Mosbach, Adelani, Hedderich and Klakow 2022, "MCSE: Multimodal Contrastive Learning of Sentence
Embeddings", NAACL.
"""

from __future__ import annotations

from torch import Tensor, nn

from mcse.config_fields import plain
from mcse.data.images.training import NamedImages
from mcse.data.load import load_pairs
from mcse.data.mixing import carried_part
from mcse.data.shards.pairs import ShardImages
from mcse.data.streams import PairStream, Share
from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes import export, shared
from mcse.recipes.image_side import (
    Images,
    build_parted_optimizer,
    open_paired_images,
)
from mcse.recipes.mcse.config import Config, LossConfig
from mcse.recipes.teachers import Teachers, open_teachers
from mcse.recipes.terms.joint import joint_contrast
from mcse.recipes.terms.text import build_text_terms
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, PairBatch, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MCSE run."""
    text = shared.build_text_side(
        config.encoder,
        config.data,
        mlm=config.loss.mlm_weight > 0,
        own_positive=True,
        clean_view=config.loss.off_dropout is not None,
    )
    text_terms = build_text_terms(config.loss, text.model)
    share = shared.share_of(runtime, batch_size=config.train.batch_size)
    images = open_paired_images(config.data)
    teachers = open_teachers(config, text)
    pairs = _pair_feed(config, text, share, images, teachers)
    feed = shared.mixed_feed(
        config.data, text, pairs, mix=config.mix, share=share, seed=config.seed, teachers=teachers.stored
    )
    model = GroundedModel(text.model, image_dim=images.width, joint_dim=config.loss.joint_dim, tower=images.module)
    heads = {"grounding_head": model.grounding_head, "image_head": model.image_head}
    dev = shared.build_dev_evaluator(config.data, text, precision=config.train.precision)

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        batch = teachers.with_rows(batch)
        rows: GroundedRows = model(batch)
        terms = dict(text_terms(rows.text, batch))
        if isinstance(batch, PairBatch):
            terms["text_image"] = image_term(rows, batch.image_id_B, config.loss)
        return terms

    return Run(
        model=model,
        step=step,
        stream=feed.stream,
        carried=carried_part(feed.stream),
        optimizer=build_parted_optimizer(
            [
                (model.text, None),
                (nn.ModuleList(heads.values()), config.image.head_learning_rate),
                (images.trained_tower, images.learning_rate),
            ],
            config.optim,
        ),
        export=export.sentence_exporter(
            config,
            text,
            feed.files,
            images=images.stored(feed.files[-1]),
            heads=heads,
            image_tower=images.trained_tower,
        ),
        evaluators=(dev.evaluator,),
        metrics=dev.metrics,
        state=text_terms.state,
        facts={**text.facts, **teachers.facts, **feed.facts},
        data=(*feed.files, *images.tower_files, *text.files, *teachers.files, *dev.files),
    )


def image_term(rows: GroundedRows, image_id_B: Tensor, loss: LossConfig) -> LossTerm:
    """Sentence→image InfoNCE of both dropout views against the images of all processes."""
    assert rows.grounded_query_BH is not None
    assert rows.grounded_positive_BH is not None
    assert rows.image_BH is not None
    return joint_contrast(
        [rows.grounded_query_BH, rows.grounded_positive_BH],
        rows.image_BH,
        image_id_B,
        temperature=loss.image_temperature,
        weight=loss.image_weight,
        reduction=loss.image_reduction,
    )


def _pair_feed(
    config: Config,
    text: shared.TextSide,
    share: Share,
    images: Images[NamedImages | ShardImages],
    teachers: Teachers,
) -> shared.Feed:
    """Captions with their images."""
    seed = shared.pair_seed(config.seed)
    pairs = load_pairs(config.data, text.tokenizer, controls=config.controls, seed=seed, images=images.rows)
    order, masker = pairs.order(share, seed), text.masker(seed=seed)
    stream = PairStream(
        pairs.captions,
        pairs.image_of_caption,
        images.rows,
        order,
        pad_id=text.tokenizer.pad_id,
        masker=masker,
        repeater=text.repeater(config.data, seed=seed),
        teachers=pairs.teacher_rows(teachers.stored),
    )
    return shared.Feed(
        stream,
        (*pairs.files, images.file(pairs.image_of_caption)),
        {
            "pairs": len(pairs.captions),
            "images": pairs.num_images,
            **({"images left out": pairs.num_left_out} if pairs.num_left_out else {}),
            **images.facts,
            "images shown": plain(config.controls.images),
        },
    )
