"""Contrastive losses: pure functions of rows, summed over this process's queries.

B queries of this process, b of them in a block, N keys of all processes, M candidates of a query (keys and hard
negatives), D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32

_SHORTEST = 1e-12
"""Length from which on a row has a direction: the epsilon of ``F.normalize``."""

LOGITS_AT_ONCE = 2**22
"""Logits held at a time (16 MiB in float32): a global batch of 65,536 rows never has its 17 GB of them in memory."""


def info_nce(
    query_BD: Tensor,
    key_ND: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    query_id_B: Tensor | None = None,
    key_id_N: Tensor | None = None,
    is_query_B: Tensor | None = None,
    is_key_N: Tensor | None = None,
    left_out_BN: Tensor | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy of every query against all keys; key ``offset + i`` is query i's positive.

    Args:
        query_BD: Unit-norm queries.
        key_ND: Unit-norm keys; the other N - 1 rows are the query's negatives.
        temperature: Divides the cosine; dimensionless, > 0 (SimCSE: 0.05).
        offset: Row of ``key_ND`` paired with ``query_BD[0]`` (see ``mcse.distributed.gather_rows``).
        query_id_B: What each query shows, such as its image; (B, K) for K kinds of ids. A key that has one of them at
            the same place is no negative of the query; its own positive always counts. Given together with
            ``key_id_N`` or not at all.
        key_id_N: What each key shows; (N, K) for K kinds.
        is_query_B: False on rows whose loss does not count; their own keys must not be keys either.
        is_key_N: False on rows that are nobody's negative. Given together with ``is_query_B`` or not at all: rows are
            left out so, and not by an index, since the host would wait for a GPU to learn how many there are.
        left_out_BN: True where a key is no negative of a query; its own positive always counts.
        logits_at_once: Above this many logits, blocks of queries take turns. Same loss and gradient, but for rounding.

    Returns:
        Scalar sum over the B queries, in nats, in float32 or wider.

    Raises:
        ValueError: ``temperature`` is not positive, a positive lies outside ``key_ND``, or one of two that belong
            together is missing.

    Source: Gao et al. 2021 (SimCSE), eq. 1; Zhang et al. 2022 (MCSE), eq. 4 with images as keys.
    """
    _check(query_BD, key_ND, temperature=temperature, offset=offset)
    if (query_id_B is None) != (key_id_N is None):
        raise ValueError("query_id_B and key_id_N are given together or not at all")
    if (is_query_B is None) != (is_key_N is None):
        raise ValueError("is_query_B and is_key_N are given together or not at all")
    rule = _Rule(
        temperature=temperature,
        offset=offset,
        query_id_B=query_id_B,
        key_id_N=key_id_N,
        is_query_B=is_query_B,
        is_key_N=is_key_N,
        left_out_BN=left_out_BN,
    )
    return _cross_entropy(query_BD, key_ND, rule, logits_at_once=logits_at_once)


def info_nce_with_hard_negatives(
    query_BD: Tensor,
    key_ND: Tensor,
    negative_ND: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    hard_negative_weight: float = 0.0,
    logits_at_once: int = LOGITS_AT_ONCE,
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
        logits_at_once: As in ``info_nce``.

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
    rule = _Rule(
        temperature=temperature,
        offset=offset,
        own_negative=len(key_ND) + offset,
        own_negative_weight=hard_negative_weight,
    )
    return _cross_entropy(query_BD, torch.cat([key_ND, negative_ND]), rule, logits_at_once=logits_at_once)


def unit_rows(row_BD: Tensor) -> Tensor:
    """Rows divided by their length, in float32 at least.

    A row shorter than 1e-12 has no direction. It becomes a row of zeros with a gradient of zero: the derivative of
    ``F.normalize`` there is 1e12 times what comes from above, and one such row would be all that is left of the batch's
    gradient after clipping.
    """
    row_BD = at_least_float32(row_BD)
    norm_B1 = torch.linalg.vector_norm(row_BD.detach(), dim=-1, keepdim=True)
    return F.normalize(row_BD.masked_fill(norm_B1 < _SHORTEST, 1.0), dim=-1).masked_fill(norm_B1 < _SHORTEST, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """How logits are made of cosines: which candidate is the positive, which are left out, which is made harder."""

    temperature: float
    offset: int
    own_negative: int | None = None
    own_negative_weight: float = 0.0
    query_id_B: Tensor | None = None
    key_id_N: Tensor | None = None
    is_query_B: Tensor | None = None
    is_key_N: Tensor | None = None
    left_out_BN: Tensor | None = None

    def counted(self, loss_b: Tensor, *, start: int) -> Tensor:
        """(b,) losses or (b, M) slopes of the queries from row ``start`` on, those that do not count at zero."""
        if self.is_query_B is None:
            return loss_b
        left_out_b = ~self.is_query_B[start : start + len(loss_b)]
        return loss_b.masked_fill(left_out_b.view(-1, *[1] * (loss_b.ndim - 1)), 0.0)

    def logits(self, query_bD: Tensor, candidate_MD: Tensor, *, start: int) -> tuple[Tensor, Tensor]:
        """(b, M) logits and (b,) positives of the queries from row ``start`` on."""
        row_b = torch.arange(len(query_bD), device=query_bD.device)
        target_b = row_b + (self.offset + start)
        # Autocast would put this product back into bf16.
        with torch.autocast(query_bD.device.type, enabled=False):
            logit_bM = query_bD @ candidate_MD.T / self.temperature
        if self.own_negative is not None and self.own_negative_weight:
            added_bM = torch.zeros_like(logit_bM)
            added_bM.scatter_(1, (row_b + (self.own_negative + start))[:, None], self.own_negative_weight)
            logit_bM = logit_bM + added_bM
        excluded = []
        if self.query_id_B is not None and self.key_id_N is not None:
            same_bM = self.query_id_B[start : start + len(query_bD), None] == self.key_id_N
            excluded.append(same_bM.any(2) if same_bM.ndim == 3 else same_bM)
        if self.is_key_N is not None:
            excluded.append((~self.is_key_N).expand(len(query_bD), -1))
        if self.left_out_BN is not None:
            excluded.append(self.left_out_BN[start : start + len(query_bD)])
        if excluded:
            excluded_bM = torch.stack(excluded).any(0)
            # Setting chosen elements by an index would make the host wait for a GPU.
            excluded_bM.scatter_(1, target_b[:, None], False)
            logit_bM = logit_bM.masked_fill(excluded_bM, -torch.inf)
        return logit_bM, target_b


def _cross_entropy(query_BD: Tensor, candidate_MD: Tensor, rule: _Rule, *, logits_at_once: int) -> Tensor:
    query_BD, candidate_MD = at_least_float32(query_BD), at_least_float32(candidate_MD)
    if query_BD.shape[0] * candidate_MD.shape[0] <= logits_at_once:
        logit_BM, target_B = rule.logits(query_BD, candidate_MD, start=0)
        if rule.is_query_B is None:
            return F.cross_entropy(logit_BM, target_B, reduction="sum")
        return rule.counted(F.cross_entropy(logit_BM, target_B, reduction="none"), start=0).sum()
    loss: Tensor = _BlockedCrossEntropy.apply(query_BD, candidate_MD, rule, logits_at_once)
    return loss


class _BlockedCrossEntropy(torch.autograd.Function):
    """The same sum, block after block of queries; the gradient is made on the way, so that no logits are kept."""

    @staticmethod
    def forward(ctx: Any, query_BD: Tensor, candidate_MD: Tensor, rule: _Rule, logits_at_once: int) -> Tensor:
        size = max(1, logits_at_once // len(candidate_MD))
        loss = query_BD.new_zeros(())
        query_grad_BD, candidate_grad_MD = torch.zeros_like(query_BD), torch.zeros_like(candidate_MD)
        for start in range(0, len(query_BD), size):
            query_bD = query_BD[start : start + size]
            logit_bM, target_b = rule.logits(query_bD, candidate_MD, start=start)
            loss += rule.counted(F.cross_entropy(logit_bM, target_b, reduction="none"), start=start).sum()
            # d loss / d logit = softmax - one at the positive.
            slope_bM = logit_bM.softmax(1)
            slope_bM[torch.arange(len(query_bD), device=slope_bM.device), target_b] -= 1
            slope_bM /= rule.temperature
            slope_bM = rule.counted(slope_bM, start=start)
            with torch.autocast(query_BD.device.type, enabled=False):
                query_grad_BD[start : start + size] = slope_bM @ candidate_MD
                candidate_grad_MD.addmm_(slope_bM.T, query_bD)
        ctx.save_for_backward(query_grad_BD, candidate_grad_MD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query_grad_BD, candidate_grad_MD = ctx.saved_tensors
        return query_grad_BD * grads[0], candidate_grad_MD * grads[0], None, None


def _check(query_BD: Tensor, key_ND: Tensor, *, temperature: float, offset: int) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if offset < 0 or offset + len(query_BD) > len(key_ND):
        raise ValueError(
            f"positives end at row {offset + len(query_BD)} (offset {offset}), but there are {len(key_ND)} keys"
        )
