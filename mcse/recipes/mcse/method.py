"""MCSE: SimCSE's text term plus λ · sentence→image InfoNCE on the sentences that have an image.

B queries of this process.

Source: Zhang, Mosbach, Adelani, Hedderich and Klakow 2022, "MCSE: Multimodal Contrastive Learning of Sentence
Embeddings", NAACL.
"""

from __future__ import annotations

from torch import Tensor, nn

from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes.image_side import open_paired_images
from mcse.recipes.mcse.config import Config, LossConfig
from mcse.recipes.taught import build_taught_text, paired_feed, paired_run
from mcse.recipes.terms.joint import joint_contrast
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, PairBatch, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one MCSE run."""
    taught = build_taught_text(config, runtime)
    text, teachers = taught.side, taught.teachers
    images = open_paired_images(config.data)
    feed = paired_feed(config, taught, images, runtime, teaches_sentences=True)
    model = GroundedModel(text.model, image_dim=images.width, joint_dim=config.loss.joint_dim, tower=images.module)
    heads = {"grounding_head": model.grounding_head, "image_head": model.image_head}

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        batch = teachers.with_rows(batch)
        rows: GroundedRows = model(batch)
        terms = dict(taught.terms(rows.text, batch))
        if isinstance(batch, PairBatch):
            terms["text_image"] = image_term(rows, batch.image_id_B, config.loss)
        return terms

    return paired_run(config, taught, images, feed, model=model, step=step, heads=heads)


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
