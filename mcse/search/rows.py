"""Embeddings in blocks: grown without copying what is there, and searched exactly in bounded memory.

N embeddings, R of one block, Q queries, K found, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from mcse.types import FloatArray

# Scores are compared after rounding, so that equal sentences tie however a library adds up their products.
_DECIMALS = 6
_BLOCK_BYTES = 2**24
_QUERIES_AT_ONCE = 256

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(K,) scores and positions, the best first; ties in the order of their positions."""


class RowBlocks:
    """(N, D) float32 embeddings. What is added in small pieces is copied once, large pieces are kept as they are."""

    def __init__(self, rows_ND: FloatArray | None = None) -> None:
        self._closed: list[FloatArray] = []
        self._open_RD: FloatArray | None = None
        self._filled = 0
        self._number = 0
        self.width: int | None = None
        if rows_ND is not None:
            self.append(rows_ND)

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[FloatArray]:
        """The blocks in order, (R, D) each."""
        for rows_ND in self._closed:
            yield from in_blocks(rows_ND)
        if self._open_RD is not None:
            yield self._open_RD[: self._filled]

    def append(self, rows_ND: FloatArray) -> None:
        """Adds embeddings, of the width of those that are there."""
        most = _rows_of_a_block(rows_ND.shape[1])
        self.width = rows_ND.shape[1]
        self._number += len(rows_ND)
        if len(rows_ND) >= most:
            self._close()
            self._closed.append(rows_ND)
            return
        while len(rows_ND):
            if self._open_RD is None:
                self._open_RD = np.empty((most, self.width), dtype=np.float32)
            fitting = min(len(rows_ND), most - self._filled)
            self._open_RD[self._filled : self._filled + fitting] = rows_ND[:fitting]
            self._filled += fitting
            rows_ND = rows_ND[fitting:]
            if self._filled == most:
                self._close()

    def _close(self) -> None:
        if self._open_RD is not None:
            self._closed.append(self._open_RD[: self._filled])
        self._open_RD, self._filled = None, 0


def in_blocks(rows_ND: FloatArray) -> Iterator[FloatArray]:
    """The rows in order, some at a time; nothing is copied."""
    most = _rows_of_a_block(rows_ND.shape[1])
    for start in range(0, len(rows_ND), most):
        yield rows_ND[start : start + most]


def nearest(query_QD: FloatArray, blocks: Iterable[FloatArray], *, top_k: int) -> list[Found]:
    """For every query the ``top_k`` embeddings of the largest inner product.

    Args:
        query_QD: Finite.
        blocks: (R, D) each, in order; read once for every 256 queries.
        top_k: At least 1; fewer are found where there are fewer.
    """
    found: list[Found] = []
    for start in range(0, len(query_QD), _QUERIES_AT_ONCE):
        found += _nearest(query_QD[start : start + _QUERIES_AT_ONCE], blocks, top_k=top_k)
    return found


def _nearest(query_QD: FloatArray, blocks: Iterable[FloatArray], *, top_k: int) -> list[Found]:
    nothing = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
    best: list[Found] = [nothing] * len(query_QD)
    # A later embedding loses a tie, so it must be better than the last one that is kept.
    bound_Q = np.full(len(query_QD), -np.inf, dtype=np.float32)
    start = 0
    for rows_RD in blocks:
        score_QR = query_QD @ rows_RD.T
        for query in np.flatnonzero(score_QR.max(axis=1) > bound_Q):
            position_C = np.flatnonzero(score_QR[query] > bound_Q[query])
            scores, positions = best[query]
            best[query] = scores, positions = _best(
                np.concatenate([scores, score_QR[query, position_C]]),
                np.concatenate([positions, position_C + start]),
                top_k=top_k,
            )
            if len(scores) == top_k:
                bound_Q[query] = scores[-1]
        start += len(rows_RD)
    return best


def _best(scores: NDArray[np.float32], positions: NDArray[np.int64], *, top_k: int) -> Found:
    """The ``top_k`` of candidates of which, among equal ones, the earlier come first."""
    rounded = np.round(scores, _DECIMALS)
    if len(rounded) > 2 * top_k:
        kept = rounded >= np.partition(rounded, -top_k)[-top_k]
        scores, positions, rounded = scores[kept], positions[kept], rounded[kept]
    order = np.argsort(-rounded, kind="stable")[:top_k]
    return scores[order], positions[order]


def _rows_of_a_block(width: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * max(1, width)))
