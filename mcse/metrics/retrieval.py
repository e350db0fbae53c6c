"""Retrieval: at which rank the first right answer stands, with ties counted against the encoder.

Q queries, T targets, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import ndcg_score

from mcse.metrics.correlation import UndefinedScoreError

Rows = NDArray[np.floating]
Ranks = NDArray[np.int64]

TIE = 1e-6
"""Similarities closer than this are one: float32 products of equal rows differ by their place in a matrix."""

_BLOCK_CELLS = 2**24
"""Similarities held at a time, about 200 MB with what is compared."""


def best_ranks(
    query_QD: Rows, target_TD: Rows, *, group_Q: ArrayLike, group_T: ArrayLike, own_Q: ArrayLike | None = None
) -> Ranks:
    """(Q,) ranks from 1 of each query's most similar right target: one more than the wrong ones at least as similar.

    Right targets are those of the query's group. Ties count as if every wrong target came first, so that an encoder
    that says the same of everything ranks last, and never first.

    Args:
        query_QD: Unit rows.
        target_TD: Unit rows of the same space.
        group_Q: Number of each query's group.
        group_T: Number of each target's group.
        own_Q: Where queries stand among the targets, the target that is the query itself, which is no answer.

    Raises:
        ValueError: Rows of different width, not one group a row, or a query without a right target.
        UndefinedScoreError: No queries, or rows that are not finite.

    Source: Faghri et al. 2018 (VSE++), section 4, where the rank of an image is that of the best of its captions. Its
    code leaves ties to the sort.
    """
    group_Q, group_T = np.asarray(group_Q), np.asarray(group_T)
    own = None if own_Q is None else np.asarray(own_Q)
    _check(query_QD, target_TD, group_Q, group_T)
    rank_Q = np.empty(len(query_QD), dtype=np.int64)
    step = max(1, _BLOCK_CELLS // len(target_TD))
    for start in range(0, len(query_QD), step):
        part = slice(start, start + step)
        similarity_BT = query_QD[part] @ target_TD.T
        right_BT = group_Q[part, None] == group_T[None, :]
        answer_BT = right_BT
        if own is not None:
            answer_BT = right_BT.copy()
            answer_BT[np.arange(len(answer_BT)), own[part]] = False
        if not answer_BT.any(1).all():
            raise ValueError(f"query {start + int(np.argmin(answer_BT.any(1)))} has no right target")
        best_B = np.max(similarity_BT, axis=1, where=answer_BT, initial=-np.inf)
        rank_Q[part] = 1 + ((similarity_BT >= best_B[:, None] - TIE) & ~right_BT).sum(1)
    return rank_Q


def recall_at(rank_Q: Ranks, k: int) -> float:
    """Share × 100 of the queries that have a right target among their first ``k``.

    Raises:
        UndefinedScoreError: No queries.
    """
    if not len(rank_Q):
        raise UndefinedScoreError("recall needs at least one query")
    return float(100 * (rank_Q <= k).mean())


def median_rank(rank_Q: Ranks) -> float:
    """The smallest K at which at least half of the queries have a right target among their first K.

    Raises:
        UndefinedScoreError: No queries.
    """
    if not len(rank_Q):
        raise UndefinedScoreError("a median rank needs at least one query")
    return float(lower_median(rank_Q))


def lower_median(value_P: ArrayLike) -> float:
    """The smallest of the values that half of them do not exceed: always one of them, unlike NumPy's median."""
    value = np.asarray(value_P, dtype=np.float64)
    middle = (len(value) - 1) // 2
    return float(np.partition(value, middle)[middle])


def _check(query_QD: Rows, target_TD: Rows, group_Q: NDArray[np.int64], group_T: NDArray[np.int64]) -> None:
    if query_QD.ndim != 2 or target_TD.ndim != 2 or query_QD.shape[1] != target_TD.shape[1]:
        raise ValueError(f"retrieval needs rows of equal width, got shapes {query_QD.shape} and {target_TD.shape}")
    if group_Q.shape != query_QD.shape[:1] or group_T.shape != target_TD.shape[:1]:
        shapes = f"{group_Q.shape} for {len(query_QD)} queries and {group_T.shape} for {len(target_TD)} targets"
        raise ValueError(f"retrieval needs one group a row, got groups of shapes {shapes}")
    if not len(query_QD):
        raise UndefinedScoreError("retrieval needs at least one query")
    if not len(target_TD):
        raise ValueError("query 0 has no right target")
    for label, row_ND in (("query", query_QD), ("target", target_TD)):
        # Comparisons with NaN are false, which would pass for the first rank.
        finite_N = np.isfinite(row_ND).all(1)
        if not finite_N.all():
            count = len(row_ND) - int(finite_N.sum())
            raise UndefinedScoreError(
                f"{count} of {len(row_ND)} {label} rows are not finite, first row {int(np.argmin(finite_N))}"
            )


def mean_reciprocal_rank(rank_Q: Ranks) -> float:
    """The mean × 100 of one over the rank.

    Raises:
        UndefinedScoreError: No queries.
    """
    if not len(rank_Q):
        raise UndefinedScoreError("a mean reciprocal rank needs at least one query")
    return float(100 * (1 / rank_Q).mean())


def ranked_answers(
    query_QD: Rows, target_TD: Rows, answers: Sequence[Collection[int]], *, k: int
) -> tuple[Ranks, NDArray[np.float64]]:
    """Where each query's first answer stands, and how well its answers fill the first ``k`` places.

    Ranks are those of ``best_ranks``. Gains are discounted, normalised and, where similarities tie, shared by
    scikit-learn; every answer gains 1.

    Args:
        query_QD: Unit rows.
        target_TD: Unit rows of the same space.
        answers: The right targets of each query, by number; targets may answer several.
        k: Places that count.

    Returns:
        (Q,) ranks from 1, and (Q,) normalised discounted cumulative gains × 100.

    Raises:
        ValueError: A query without an answer.
        UndefinedScoreError: No queries, or rows that are not finite.
    """
    if not len(query_QD):
        raise UndefinedScoreError("retrieval needs at least one query")
    if not (np.isfinite(query_QD).all() and np.isfinite(target_TD).all()):
        raise UndefinedScoreError("rows must be finite")
    rank_Q, gain_Q = np.empty(len(query_QD), dtype=np.int64), np.full(len(query_QD), 100.0)
    for number, own in enumerate(answers):
        if not own:
            raise ValueError(f"query {number} has no right target")
        similarity_T = target_TD @ query_QD[number]
        is_right_T = np.zeros(len(target_TD), dtype=bool)
        is_right_T[list(own)] = True
        rank_Q[number] = 1 + ((similarity_T >= similarity_T[is_right_T].max() - TIE) & ~is_right_T).sum()
        if len(target_TD) > 1:  # scikit-learn refuses a list of one
            gain_Q[number] = 100 * ndcg_score([is_right_T], [similarity_T], k=k)
    return rank_Q, gain_Q
