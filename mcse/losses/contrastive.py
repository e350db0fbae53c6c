"""Contrastive losses: pure functions of rows, summed over this process's queries.

B queries of this process, N keys of all processes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    query_BD: Tensor,
    key_ND: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    excluded_BN: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of every query against all keys; key ``offset + i`` is query i's positive.

    Args:
        query_BD: Unit-norm queries.
        key_ND: Unit-norm keys; the other N - 1 rows are the query's negatives.
        temperature: Divides the cosine; dimensionless, > 0 (SimCSE: 0.05).
        offset: Row of ``key_ND`` paired with ``query_BD[0]`` (see ``mcse.distributed.gather_rows``).
        excluded_BN: True where a key must not count as a negative; a query's own positive always counts.

    Returns:
        Scalar sum over the B queries, in nats, in float32 or wider.

    Raises:
        ValueError: ``temperature`` is not positive, or a positive lies outside ``key_ND``.

    Source: Gao et al. 2021 (SimCSE), eq. 1; Zhang et al. 2022 (MCSE), eq. 4 with images as keys.
    """
    _check(query_BD, key_ND, temperature=temperature, offset=offset)
    logit_BN = _cosine_logits(query_BD, key_ND, temperature=temperature)
    target_B = torch.arange(len(query_BD), device=query_BD.device) + offset
    if excluded_BN is not None:
        own_BN = F.one_hot(target_B, len(key_ND)).bool()
        logit_BN = logit_BN.masked_fill(excluded_BN & ~own_BN, -torch.inf)
    return F.cross_entropy(logit_BN, target_B, reduction="sum")


def info_nce_with_hard_negatives(
    query_BD: Tensor,
    key_ND: Tensor,
    negative_ND: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    hard_negative_weight: float = 0.0,
) -> Tensor:
    """``info_nce`` over positives and contradictions: every contradiction of the batch is a negative of every query.

    Args:
        query_BD: Unit-norm queries.
        key_ND: Unit-norm positives.
        negative_ND: Unit-norm contradictions; row ``offset + i`` is query i's own.
        temperature: Divides the cosine; dimensionless, > 0.
        offset: Row of ``key_ND`` and ``negative_ND`` that belongs to ``query_BD[0]``.
        hard_negative_weight: Added to the logit of a query's own contradiction alone, so that its exponential is
            multiplied by e to this power; 0 (the published value) leaves it as any other negative.

    Returns:
        Scalar sum over the B queries, in nats, in float32 or wider.

    Raises:
        ValueError: As ``info_nce``, or positives and contradictions differ in number.

    Source: Gao et al. 2021 (SimCSE), eq. 5 and section 4.2 (their alpha is e to the weight here).
    """
    _check(query_BD, key_ND, temperature=temperature, offset=offset)
    if len(negative_ND) != len(key_ND):
        raise ValueError(
            f"{len(key_ND)} positives but {len(negative_ND)} hard negatives: every query needs one of each"
        )
    positive_logit_BN = _cosine_logits(query_BD, key_ND, temperature=temperature)
    negative_logit_BN = _cosine_logits(query_BD, negative_ND, temperature=temperature)
    target_B = torch.arange(len(query_BD), device=query_BD.device) + offset
    own_BN = F.one_hot(target_B, len(key_ND)).to(negative_logit_BN.dtype)
    logit_B2N = torch.cat([positive_logit_BN, negative_logit_BN + hard_negative_weight * own_BN], dim=1)
    return F.cross_entropy(logit_B2N, target_B, reduction="sum")


def unit_rows(row_BD: Tensor) -> Tensor:
    """Rows divided by their length, in float32 at least: a bf16 cosine is too coarse for a temperature of 0.05."""
    row_BD = row_BD if row_BD.dtype == torch.float64 else row_BD.float()
    return F.normalize(row_BD, dim=-1)


def _cosine_logits(query_BD: Tensor, key_ND: Tensor, *, temperature: float) -> Tensor:
    # Autocast would put this product back into bf16.
    with torch.autocast(query_BD.device.type, enabled=False):
        return query_BD @ key_ND.T / temperature


def _check(query_BD: Tensor, key_ND: Tensor, *, temperature: float, offset: int) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if offset < 0 or offset + len(query_BD) > len(key_ND):
        raise ValueError(
            f"positives end at row {offset + len(query_BD)} (offset {offset}), but there are {len(key_ND)} keys"
        )
