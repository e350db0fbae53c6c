"""Losses that give a student the order, or the distribution, of a teacher's cosines within a batch.

B queries of this process, b of them in a block, N keys of all processes, D width. Query i is key ``offset + i``. All
are sums over the B queries, in nats, in float32 or wider; the student's rows have unit norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.blocks import LOGITS_AT_ONCE, sum_in_blocks
from mcse.losses.contrastive import TeacherRows
from mcse.losses.precision import at_least_float32


def list_net(
    query_BD: Tensor,
    key_ND: Tensor,
    teacher: TeacherRows,
    *,
    temperature: float,
    teacher_temperature: float,
    offset: int = 0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy of the student's distribution over the other keys under the teacher's.

    A query's own key is left out on both sides.

    Args:
        query_BD: The student's queries.
        key_ND: The student's keys.
        teacher: Its rows of the same texts.
        temperature: Divides the student's cosines (RankCSE: 0.05).
        teacher_temperature: Divides the teacher's (RankCSE's paper: half the student's; its released code: as much).
        offset: Row of ``key_ND`` that is query 0's own.
        logits_at_once: As in ``info_nce``.

    Source: Liu et al. 2023 (RankCSE), ListNet.
    """

    def loss(start: int, logit_bN: Tensor) -> Tensor:
        teacher_bN = teacher.cosines(start, len(logit_bN)) / teacher_temperature
        own_bN = _own(logit_bN, start + offset)
        log_bN = logit_bN.masked_fill(own_bN, -torch.inf).log_softmax(1)
        wanted_bN = teacher_bN.masked_fill(own_bN, -torch.inf).softmax(1)
        # 0 · −∞ is no number.
        return -(wanted_bN * log_bN.masked_fill(own_bN, 0.0)).sum()

    return _over_logits(loss, query_BD, key_ND, temperature=temperature, logits_at_once=logits_at_once)


def list_mle(
    query_BD: Tensor,
    key_ND: Tensor,
    teacher: TeacherRows,
    *,
    temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Minus the log-probability, under the student, of the order that the teacher puts all keys in.

    With π the keys from the teacher's nearest on: Σ_k [log Σ_{l ≥ k} exp S(π(l)) − S(π(k))]. Equal cosines of the
    teacher are in the order of the batch. A row is a sum of N parts, log N! where all logits are equal: hundreds of
    nats beside the few of ``info_nce``.

    Args:
        query_BD: The student's queries.
        key_ND: The student's keys; a query's own is among them, and the teacher's first.
        teacher: Its rows of the same texts.
        temperature: Divides the student's cosines (RankCSE: 0.05).
        logits_at_once: As in ``info_nce``.

    Source: Liu et al. 2023 (RankCSE), ListMLE; the released code adds 1e-7 inside the logarithm, and draws the order
    of equal cosines.
    """

    def loss(start: int, logit_bN: Tensor) -> Tensor:
        order_bN = teacher.cosines(start, len(logit_bN)).argsort(dim=1, descending=True, stable=True)
        ordered_bN = logit_bN.gather(1, order_bN)
        rest_bN = ordered_bN.flip(1).logcumsumexp(1).flip(1)
        return (rest_bN - ordered_bN).sum()

    return _over_logits(loss, query_BD, key_ND, temperature=temperature, logits_at_once=logits_at_once)


def similarity_kl(
    query_BD: Tensor,
    key_ND: Tensor,
    teacher: TeacherRows,
    *,
    temperature: float,
    teacher_temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """KL(teacher ‖ student) of their distributions over all keys.

    Args:
        query_BD: The student's queries.
        key_ND: The student's keys; a query's own is among them.
        teacher: Its rows of queries and keys, such as both of the texts or both of the images.
        temperature: Divides the student's cosines.
        teacher_temperature: Divides the teacher's.
        logits_at_once: As in ``info_nce``.

    Source: He et al. 2025 (DALR), the parts of L_CMA and L_IMA.
    """

    def loss(start: int, logit_bN: Tensor) -> Tensor:
        wanted_bN = (teacher.cosines(start, len(logit_bN)) / teacher_temperature).log_softmax(1)
        return F.kl_div(logit_bN.log_softmax(1), wanted_bN, reduction="sum", log_target=True)

    return _over_logits(loss, query_BD, key_ND, temperature=temperature, logits_at_once=logits_at_once)


def consistency(
    query_BD: Tensor,
    positive_BD: Tensor,
    query_ND: Tensor,
    positive_ND: Tensor,
    *,
    temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Jensen–Shannon divergence between the two views' distributions: of z over all z', and of z' over all z.

    It lies between 0, where they are equal, and log 2 a row.

    Args:
        query_BD: First views of this process.
        positive_BD: Second views of this process.
        query_ND: First views of all processes.
        positive_ND: Second views of all processes.
        temperature: Divides cosines (RankCSE: 0.05).
        logits_at_once: As in ``info_nce``.

    Source: Liu et al. 2023 (RankCSE). The released code clamps a logarithm, which is never positive, to 1e-7 from
    below, so that what it adds is minus an entropy.
    """

    def loss(_: int, query_bD: Tensor, positive_bD: Tensor, positive_ND: Tensor, query_ND: Tensor) -> Tensor:
        with torch.autocast(query_bD.device.type, enabled=False):
            left_bN = (query_bD @ positive_ND.T / temperature).log_softmax(1)
            right_bN = (positive_bD @ query_ND.T / temperature).log_softmax(1)
        middle_bN = torch.logaddexp(left_bN, right_bN) - math.log(2)
        sides = [F.kl_div(middle_bN, one_bN, reduction="sum", log_target=True) for one_bN in (left_bN, right_bN)]
        return torch.stack(sides).mean()

    rows = [at_least_float32(query_BD), at_least_float32(positive_BD)]
    keys = [at_least_float32(positive_ND), at_least_float32(query_ND)]
    return sum_in_blocks(loss, rows, keys, logits_at_once=logits_at_once)


def _over_logits(
    loss: Callable[[int, Tensor], Tensor], query_BD: Tensor, key_ND: Tensor, *, temperature: float, logits_at_once: int
) -> Tensor:
    """The sum of ``loss(start, logit_bN)`` over blocks of queries."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    def of_rows(start: int, query_bD: Tensor, key_ND: Tensor) -> Tensor:
        # Autocast would put this product back into bf16.
        with torch.autocast(query_bD.device.type, enabled=False):
            return loss(start, query_bD @ key_ND.T / temperature)

    rows, keys = [at_least_float32(query_BD)], [at_least_float32(key_ND)]
    return sum_in_blocks(of_rows, rows, keys, logits_at_once=logits_at_once)


def _own(logit_bN: Tensor, start: int) -> Tensor:
    """(b, N), true at each query's own key."""
    own_b = torch.arange(len(logit_bN), device=logit_bN.device) + start
    return torch.zeros_like(logit_bN, dtype=torch.bool).scatter(1, own_b[:, None], True)
