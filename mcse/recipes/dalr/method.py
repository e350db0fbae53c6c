"""DALR: MCSE's terms with margins, and four by which similarities follow those of frozen teachers.

With Q a teacher's distribution over the batch and P the student's, h sentences and s images: L = L_text + λ L_image +
matching + cross_kl + list_mle + similarity_kl, where ``matching`` is the cosine embedding loss of pairs and shifted
pairs; ``cross_kl`` is ½ Σ [KL(Q of sentences ‖ P of sentences to images) + KL(Q of images ‖ P of images to
sentences)]; and the last two make the sentences of a batch follow the teachers' order and distribution.

What differs from the paper and from the released code, whose paired branch cannot run: similarities across modalities
are taken in the joint space of sentences and images, and not of text rows with image features of equal width; the
projections of ``matching`` have no batch norm; a shifted pair with the same image is none; the temperatures are one
of the student and one of the teachers, and not one divided by another; margins are in the two contrasts alone; the
code's term of token rows, which the paper has not, is left out; rows of all processes are compared.

B queries of this process, N rows of all processes, H joint width.

Source: He, Ding, Wang, Li, Teng and Ji 2025, "DALR: Dual-level Alignment Learning for Multimodal Sentence
Representation Learning", Findings of ACL, and its released code.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from mcse.config import ConfigError
from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import Margin, TeacherRows, unit_rows
from mcse.losses.distillation import similarity_kl
from mcse.losses.matching import cosine_embedding
from mcse.models.aligned_model import AlignedModel, AlignedRows
from mcse.models.sentence_model import GroundedModel
from mcse.recipes import shared
from mcse.recipes.dalr.config import Config, CrossKL, LossConfig, Matching
from mcse.recipes.image_side import open_paired_images
from mcse.recipes.taught import build_taught_text, paired_feed, paired_run
from mcse.recipes.terms.joint import joint_contrast
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types import LossTerm, LossTerms, PairBatch, SentenceBatch


def build(config: Config, runtime: Runtime) -> Run:
    """Model, stream, step, evaluator and export of one DALR run."""
    loss = config.loss
    taught = build_taught_text(config, runtime)
    text, teachers = taught.side, taught.teachers
    # Source: without ``teach_sentences``, sentences without images have no lists, as in the released code.
    alone = loss if loss.teach_sentences else replace(loss, list_mle=None, similarity_kl=None)
    sentence_terms = taught.terms.of(alone)
    size = shared.share_of(runtime, batch_size=config.train.batch_size).global_batch_size
    if loss.matching is not None and loss.matching.shift >= size:
        raise ConfigError(
            f"loss.matching.shift: a batch of {size} pairs has no other image {loss.matching.shift} "
            "places on; give fewer"
        )
    images = open_paired_images(config.data)
    feed = paired_feed(config, taught, images, runtime, teaches_sentences=bool(alone.reads_teachers))
    grounded = GroundedModel(text.model, image_dim=images.width, joint_dim=loss.joint_dim, tower=images.module)
    match_dim = None if loss.matching is None else loss.joint_dim
    model = AlignedModel(grounded, image_dim=images.width, match_dim=match_dim)
    heads = {"grounding_head": grounded.grounding_head, "image_head": grounded.image_head}
    matching = [head for head in (model.text_match, model.image_match) if head is not None]

    def step(model: nn.Module, batch: SentenceBatch | PairBatch) -> LossTerms:
        if isinstance(batch, PairBatch) or alone.reads_teachers:
            batch = teachers.with_rows(batch)
        rows: AlignedRows = model(batch)
        if isinstance(batch, SentenceBatch):
            return sentence_terms(rows.grounded.text, batch)
        return {**taught.terms(rows.grounded.text, batch), **image_terms(rows, batch, loss)}

    return paired_run(config, taught, images, feed, model=model, step=step, heads=heads, more_heads=matching)


def image_terms(rows: AlignedRows, batch: PairBatch, loss: LossConfig) -> LossTerms:
    """``text_image``, and ``matching`` and ``cross_kl`` where they are asked for."""
    grounded = rows.grounded
    assert grounded.feature_BF is not None
    assert grounded.image_BH is not None
    assert grounded.grounded_query_BH is not None
    assert grounded.grounded_positive_BH is not None
    feature_BF = unit_rows(grounded.feature_BF.detach())
    alike = TeacherRows(query_BF=feature_BF, key_NF=gather_rows(feature_BF)[0])
    terms = {
        "text_image": joint_contrast(
            [grounded.grounded_query_BH, grounded.grounded_positive_BH],
            grounded.image_BH,
            batch.image_id_B,
            temperature=loss.image_temperature,
            weight=loss.image_weight,
            margin=Margin(negative=loss.image_margin, teacher=alike),
        )
    }
    if loss.matching is not None:
        terms["matching"] = _matching(rows, batch, loss.matching)
    if loss.cross_kl is not None:
        terms["cross_kl"] = _cross_kl(rows, batch, alike, loss.cross_kl)
    return terms


def _matching(rows: AlignedRows, batch: PairBatch, rule: Matching) -> LossTerm:
    """A wrong pair is a sentence and the image ``shift`` places on in the batch of all processes."""
    assert rows.text_match_BH is not None
    assert rows.image_match_BH is not None
    image_BH = unit_rows(rows.image_match_BH)
    image_NH, offset = gather_rows(image_BH)
    image_id_N = gather_ids(batch.image_id_B)
    place_B = torch.arange(len(image_BH), device=image_BH.device)
    other_B = (place_B + offset + rule.shift) % len(image_NH)
    total = cosine_embedding(
        unit_rows(rows.text_match_BH),
        image_BH,
        image_NH.index_select(0, other_B),
        image_id_N.index_select(0, other_B) != batch.image_id_B,
        margin=rule.margin,
    )
    return LossTerm(total, count=len(image_BH), weight=rule.weight)


def _cross_kl(rows: AlignedRows, batch: PairBatch, alike: TeacherRows, rule: CrossKL) -> LossTerm:
    assert batch.teacher_BF is not None
    assert rows.grounded.grounded_query_BH is not None
    assert rows.grounded.image_BH is not None
    text_BH, image_BH = unit_rows(rows.grounded.grounded_query_BH), unit_rows(rows.grounded.image_BH)
    (text_NH, _), (image_NH, _) = gather_rows(text_BH), gather_rows(image_BH)
    taught = TeacherRows(query_BF=batch.teacher_BF, key_NF=gather_rows(batch.teacher_BF)[0])
    sides = ((text_BH, image_NH, taught), (image_BH, text_NH, alike))
    totals = [
        similarity_kl(
            query_BH, key_NH, teacher, temperature=rule.temperature, teacher_temperature=rule.teacher_temperature
        )
        for query_BH, key_NH, teacher in sides
    ]
    return LossTerm(torch.stack(totals).mean(), count=len(text_BH), weight=rule.weight)
