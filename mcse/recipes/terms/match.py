"""How much each pair of a caption and an image counts in the image term: by a learned head, or by a teacher.

B pairs of this process, N of all processes, K width of the rows that are matched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcse.distributed import gather_ids, gather_rows
from mcse.losses.contrastive import unit_rows
from mcse.losses.pair_matching import matching_loss
from mcse.losses.precision import at_least_float32
from mcse.models.sentence_model import GroundedModel, GroundedRows
from mcse.recipes.terms.config import GuidedWeight, LearnedWeight, MatchWeight
from mcse.types import LossTerm, PairBatch

_LEAST = -30.0
"""Logit below which weights no longer shrink: a batch without any weight would have no mean."""


def match_head_of(model: GroundedModel, rule: MatchWeight | None) -> tuple[nn.Module, float] | None:
    """The head that learns weights, with its peak rate, if there is one."""
    if model.match_head is None or not isinstance(rule, LearnedWeight):
        return None
    return model.match_head, rule.learning_rate


def pair_weights(
    rows: GroundedRows, batch: PairBatch, rule: MatchWeight | None
) -> tuple[Tensor | None, dict[str, LossTerm]]:
    """(B,) weights in (0, 1), without gradient, and the terms that come with them; without a rule neither.

    The terms are ``matching``, of a head that learns, and for the log ``pair_weight.right``, the mean weight of pairs.
    Where a control knows which images are wrong, it is that of the others, and ``pair_weight.wrong`` that of these.
    """
    if rule is None:
        return None, {}
    terms: dict[str, LossTerm] = {}
    if isinstance(rule, LearnedWeight):
        logit_B, terms["matching"] = _judged(rows, batch.image_id_B, weight=rule.weight)
    else:
        logit_B = _guided(rows, batch, rule)
    weight_B = logit_B.detach().clamp(min=_LEAST).sigmoid()
    wrong_B = torch.zeros_like(weight_B, dtype=torch.bool) if batch.is_wrong_B is None else batch.is_wrong_B
    sides = {"right": ~wrong_B} if batch.is_wrong_B is None else {"right": ~wrong_B, "wrong": wrong_B}
    for name, is_side_B in sides.items():
        terms[f"pair_weight.{name}"] = LossTerm((weight_B * is_side_B).sum(), count=is_side_B.sum(), is_loss=False)
    return weight_B, terms


def _judged(rows: GroundedRows, image_id_B: Tensor, *, weight: float) -> tuple[Tensor, LossTerm]:
    """(B,) logits of pairs, and the head's term: pairs as they are against a caption with the next pair's image.

    The next one in the batch of all processes; the same image once more is no wrong one.

    Source: Xu et al. 2022 (MAF), eq. 8, whose wrong pairs are swapped ones.
    """
    assert rows.text_match_BK is not None
    assert rows.image_match_BK is not None
    # The weights of the head are all in the texts' rows.
    text_BK, image_BK = at_least_float32(rows.text_match_BK), at_least_float32(rows.image_match_BK.detach())
    image_NK, offset = gather_rows(image_BK)
    next_B = (torch.arange(len(image_BK), device=image_BK.device) + offset + 1) % len(image_NK)
    is_wrong_B = gather_ids(image_id_B).index_select(0, next_B) != image_id_B
    logit_B = (text_BK * image_BK).sum(1)
    shifted_B = (text_BK * image_NK.index_select(0, next_B)).sum(1)
    total = matching_loss(
        torch.cat([logit_B, shifted_B]),
        torch.cat([torch.ones_like(logit_B), torch.zeros_like(shifted_B)]),
        is_judged_M=torch.cat([torch.ones_like(is_wrong_B), is_wrong_B]),
    )
    return logit_B, LossTerm(total, count=len(logit_B) + is_wrong_B.sum(), weight=weight)


def _guided(rows: GroundedRows, batch: PairBatch, rule: GuidedWeight) -> Tensor:
    """(B,) logits of pairs: the teacher's cosine of caption and image, from the threshold on, in widths."""
    assert rows.feature_BF is not None
    assert batch.teacher_BF is not None
    cosine_B = (unit_rows(rows.feature_BF.detach()) * at_least_float32(batch.teacher_BF)).sum(1)
    return (cosine_B - rule.threshold) / rule.width
