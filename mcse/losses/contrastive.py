"""Contrastive losses: pure functions of rows, summed over this process's queries.

B queries of this process, b of them in a block, N keys of all processes, M candidates of a query (keys and what else
is no answer), D width, F width of a teacher's rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.blocks import LOGITS_AT_ONCE, sum_in_blocks
from mcse.losses.precision import at_least_float32

_SHORTEST = 1e-12
"""Length from which on a row has a direction: the epsilon of ``F.normalize``."""

_FLAT = 1e-12
"""Least squared sine, so that the slope of an angle at exactly 0 or π is 0 and not infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows:
    """What a teacher holds of queries and keys: the products of its rows are its cosines. They have no gradient.

    Attributes:
        query_BF: Of the queries of this process.
        key_NF: Of the keys of all processes.
    """

    query_BF: Tensor
    key_NF: Tensor

    def cosines(self, start: int, size: int) -> Tensor:
        """(b, N) cosines of ``size`` queries from row ``start`` on, in float32 at least."""
        # Autocast would compare in bf16.
        with torch.no_grad(), torch.autocast(self.query_BF.device.type, enabled=False):
            query_bF = at_least_float32(self.query_BF[start : start + size])
            return query_bF @ at_least_float32(self.key_NF).T


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """Angles by which logits are made harder: training goes on where cosines would do already.

    With θ the angle between a query and a key, and α a teacher's cosine of the two (0 without a teacher):
    cos(θ + positive) stands for the positive's cosine, and cos(θ − (1 − α) · negative) for that of a negative with
    θ > negative. Both are computed without arccos, whose slope is lost where rows are nearly equal.

    Attributes:
        negative: In radians, in [0, π/2] (KDMCSE: 0.15).
        positive: In radians, in [0, π/2] (ArcCSE: 10°).
        teacher: Gives the similarity of a query and a key.

    Source: Nguyen et al. 2024 (KDMCSE; the released code compares θ with the whole margin, not with (1 − α) of it);
    Zhang et al. 2022 (ArcCSE).
    """

    negative: float = 0.0
    positive: float = 0.0
    teacher: TeacherRows | None = None

    def __post_init__(self) -> None:
        for name in ("negative", "positive"):
            if not 0 <= getattr(self, name) <= math.pi / 2:
                raise ValueError(f"margin.{name}: must be between 0 and π/2 radians, got {getattr(self, name)}")

    def moved(self, cosine_bM: Tensor, own_bM: Tensor, *, start: int) -> Tensor:
        """(b, M) cosines after the margins; ``own_bM`` is true at positives."""
        sine_bM = (1 - cosine_bM.square()).clamp(min=_FLAT).sqrt()
        angle_bM: Tensor | float = self.negative
        if self.teacher is not None:
            alike_bN = self.teacher.cosines(start, len(cosine_bM))
            angle_bM = (1 - _widened(alike_bN, cosine_bM.shape[1])) * self.negative
        cos_bM, sin_bM = _cos_sin(angle_bM, like=cosine_bM)
        harder_bM = cosine_bM * cos_bM + sine_bM * sin_bM
        farther_bM = cosine_bM * math.cos(self.positive) - sine_bM * math.sin(self.positive)
        is_moved_bM = (cosine_bM.detach() < math.cos(self.negative)) & ~own_bM
        return torch.where(own_bM, farther_bM, torch.where(is_moved_bM, harder_bM, cosine_bM))


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFilter:
    """A key is no negative of a query if a teacher finds them too similar; the positive always counts.

    Attributes:
        teacher: Of queries and keys.
        threshold: Cosine above which a key is left out, for all queries; ``None`` goes by the positive.
        margin: Without a threshold: how far below the teacher's cosine of a query and its own positive it begins. Of a
            sentence that is its own positive that cosine is 1.

    Source: Solatorio 2024 (GISTEmbed; of its margins the absolute one); Nguyen et al. 2024 (KDMCSE; a threshold, here
    on cosines and not on products of rows of any length).
    """

    teacher: TeacherRows
    threshold: float | None = None
    margin: float = 0.0

    def left_out(self, *, start: int, size: int, offset: int) -> Tensor:
        """(b, N), true where a key is left out; also at positives, which the loss puts back."""
        cosine_bN = self.teacher.cosines(start, size)
        if self.threshold is not None:
            return cosine_bN > self.threshold
        row_b = torch.arange(size, device=cosine_bN.device)
        own_b1 = cosine_bN.gather(1, (row_b + offset + start)[:, None])
        return cosine_bN > own_b1 - self.margin


def count_left_out(filtering: TeacherFilter, *, offset: int, logits_at_once: int = LOGITS_AT_ONCE) -> Tensor:
    """How many negatives of this process's queries a filter leaves out: a scalar, without gradient."""
    query_BF, key_NF = filtering.teacher.query_BF, filtering.teacher.key_NF

    def count(start: int, query_bF: Tensor, _: Tensor) -> Tensor:
        left_out_bN = filtering.left_out(start=start, size=len(query_bF), offset=offset)
        own_b = torch.arange(len(query_bF), device=left_out_bN.device) + (offset + start)
        return left_out_bN.scatter(1, own_b[:, None], False).sum().float()

    return sum_in_blocks(count, [query_BF.detach()], [key_NF.detach()], logits_at_once=logits_at_once)


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
    positive_B: Tensor | None = None,
    negative_QD: Tensor | None = None,
    query_weight_B: Tensor | None = None,
    margin: Margin | None = None,
    filtering: TeacherFilter | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy of every query against all keys; key ``offset + i`` is query i's positive.

    Args:
        query_BD: Unit-norm queries.
        key_ND: Unit-norm keys; the other N - 1 rows are the query's negatives.
        temperature: Divides the cosine; dimensionless, > 0 (SimCSE: 0.05).
        offset: Row of ``key_ND`` paired with ``query_BD[0]`` (see ``mcse.distributed.gather_rows``).
        query_id_B: What each query shows, such as its image; (B, K) for K kinds of ids. A key that has one of them at
            the same place is no negative of the query, but its own positive always counts. With ``key_id_N`` or not.
        key_id_N: What each key shows; (N, K) for K kinds.
        is_query_B: False on rows whose loss does not count; their own keys must not be keys either.
        is_key_N: False on rows that are no query's negative. Given together with ``is_query_B`` or not at all: an index
            of rows would make the host wait for a GPU.
        positive_B: Stands for the cosine of a query and its positive, where that is of other rows than negatives are.
        negative_QD: More unit-norm negatives of every query.
        query_weight_B: Multiplies the loss of each query; without gradient.
        margin: Makes logits harder.
        filtering: Leaves out keys that a teacher holds to be too near.
        logits_at_once: Above this many logits, blocks of queries take turns. Same loss and gradient, but for rounding.

    Returns:
        Scalar sum over the B queries, in nats, in float32 or wider.

    Raises:
        ValueError: ``temperature`` is not positive, a positive lies outside ``key_ND``, or one of two that belong
            together is missing.

    Source: Gao et al. 2021 (SimCSE), eq. 1; Zhang et al. 2022 (MCSE), eq. 4 with images as keys.
    """
    _check(query_BD, key_ND, temperature=temperature, offset=offset)
    rule = _Rule(
        temperature=temperature,
        offset=offset,
        query_id_B=query_id_B,
        key_id_N=key_id_N,
        is_query_B=is_query_B,
        is_key_N=is_key_N,
        query_weight_B=query_weight_B,
        margin=margin,
        filtering=filtering,
    )
    candidate_MD = key_ND if negative_QD is None else torch.cat([key_ND, negative_QD])
    return _cross_entropy(query_BD, candidate_MD, rule, positive_B=positive_B, logits_at_once=logits_at_once)


def info_nce_with_hard_negatives(
    query_BD: Tensor,
    key_ND: Tensor,
    negative_ND: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    hard_negative_weight: float = 0.0,
    margin: Margin | None = None,
    filtering: TeacherFilter | None = None,
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
        margin: Makes logits harder; contradictions are negatives that no teacher knows.
        filtering: Leaves out positives of others that a teacher holds to be too near.
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
        margin=margin,
        filtering=filtering,
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
    """How logits are made of cosines: which candidate is the positive, which are left out, which are made harder."""

    temperature: float
    offset: int
    own_negative: int | None = None
    own_negative_weight: float = 0.0
    query_id_B: Tensor | None = None
    key_id_N: Tensor | None = None
    is_query_B: Tensor | None = None
    is_key_N: Tensor | None = None
    query_weight_B: Tensor | None = None
    margin: Margin | None = None
    filtering: TeacherFilter | None = None

    def __post_init__(self) -> None:
        for one, other in (("query_id_B", "key_id_N"), ("is_query_B", "is_key_N")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} are given together or not at all")

    def loss(self, start: int, query_bD: Tensor, *others: Tensor) -> Tensor:
        """The sum over the queries from row ``start`` on; ``others`` are their positives, if given, and candidates."""
        *positive, candidate_MD = others
        logit_bM, target_b = self._logits(start, query_bD, candidate_MD, positive_b=positive[0] if positive else None)
        if self.is_query_B is None and self.query_weight_B is None:
            return F.cross_entropy(logit_bM, target_b, reduction="sum")
        inside = slice(start, start + len(query_bD))
        loss_b = F.cross_entropy(logit_bM, target_b, reduction="none")
        if self.query_weight_B is not None:
            loss_b = loss_b * self.query_weight_B[inside].detach()
        if self.is_query_B is not None:
            loss_b = loss_b.masked_fill(~self.is_query_B[inside], 0.0)
        return loss_b.sum()

    def _logits(
        self, start: int, query_bD: Tensor, candidate_MD: Tensor, *, positive_b: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(b, M) logits and (b,) positives of the queries from row ``start`` on."""
        row_b = torch.arange(len(query_bD), device=query_bD.device)
        target_b = row_b + (self.offset + start)
        # Autocast would put this product back into bf16.
        with torch.autocast(query_bD.device.type, enabled=False):
            cosine_bM = query_bD @ candidate_MD.T
        if positive_b is not None:
            cosine_bM = cosine_bM.scatter(1, target_b[:, None], positive_b[:, None])
        if self.margin is not None:
            own_bM = torch.zeros_like(cosine_bM, dtype=torch.bool).scatter(1, target_b[:, None], True)
            cosine_bM = self.margin.moved(cosine_bM, own_bM, start=start)
        logit_bM = cosine_bM / self.temperature
        if self.own_negative is not None and self.own_negative_weight:
            added_bM = torch.zeros_like(logit_bM)
            added_bM.scatter_(1, (row_b + (self.own_negative + start))[:, None], self.own_negative_weight)
            logit_bM = logit_bM + added_bM
        if excluded := self._excluded(start, len(query_bD)):
            excluded_bM = _widened(torch.stack(excluded).any(0), len(candidate_MD))
            # Setting chosen elements by an index would make the host wait for a GPU.
            excluded_bM = excluded_bM.scatter(1, target_b[:, None], False)
            logit_bM = logit_bM.masked_fill(excluded_bM, -torch.inf)
        return logit_bM, target_b

    def _excluded(self, start: int, size: int) -> list[Tensor]:
        """(b, N) each: which keys are no negatives, for each reason."""
        excluded, inside = [], slice(start, start + size)
        if self.query_id_B is not None and self.key_id_N is not None:
            same_bN = self.query_id_B[inside, None] == self.key_id_N
            excluded.append(same_bN.any(2) if same_bN.ndim == 3 else same_bN)
        if self.is_key_N is not None:
            excluded.append((~self.is_key_N).expand(size, -1))
        if self.filtering is not None:
            excluded.append(self.filtering.left_out(start=start, size=size, offset=self.offset))
        return excluded


def _cross_entropy(
    query_BD: Tensor,
    candidate_MD: Tensor,
    rule: _Rule,
    *,
    positive_B: Tensor | None = None,
    logits_at_once: int,
) -> Tensor:
    rows = [at_least_float32(query_BD), *([] if positive_B is None else [at_least_float32(positive_B)])]
    return sum_in_blocks(rule.loss, rows, [at_least_float32(candidate_MD)], logits_at_once=logits_at_once)


def _widened(value_bN: Tensor, width: int) -> Tensor:
    """(b, M) of zeros behind what is said of keys: what else is no answer is nothing that a teacher or an id knows."""
    return F.pad(value_bN, (0, width - value_bN.shape[1]))


def _cos_sin(angle: Tensor | float, *, like: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(angle, float):
        angle = like.new_full((), angle)
    return angle.cos(), angle.sin()


def _check(query_BD: Tensor, key_ND: Tensor, *, temperature: float, offset: int) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if offset < 0 or offset + len(query_BD) > len(key_ND):
        raise ValueError(
            f"positives end at row {offset + len(query_BD)} (offset {offset}), but there are {len(key_ND)} keys"
        )
