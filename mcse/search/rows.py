"""Embeddings in blocks: grown without copying what is there, and searched exactly in bounded memory.

N embeddings, R of one block, Q queries, K found, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.stored_rows import RANGED, RowKind, check_row_kind, quantize, restore, value_ranges
from mcse.types import FloatArray

# Scores are compared after rounding, so that equal sentences tie however a library adds up their products.
_DECIMALS = 6
_BLOCK_BYTES = 2**24
_QUERIES_AT_ONCE = 256

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(K,) scores and positions, the best first; ties in the order of their positions."""

OVERSAMPLED = 4
"""Times as many embeddings as are wanted are scored anew."""


class RowBlocks:
    """(N, D) embeddings as they are stored. What is added in small pieces is copied once, large pieces are kept.

    Args:
        rows_ND: The first embeddings, if there are any yet.
        kind: How they are stored.
        ranges: (2, D), of ``int8`` and ``uint8``; those of what is added first, by default.
    """

    def __init__(
        self, rows_ND: FloatArray | None = None, *, kind: RowKind = "float32", ranges: FloatArray | None = None
    ) -> None:
        self._closed: list[NDArray[Any]] = []
        self._open: NDArray[Any] | None = None
        self._filled = 0
        self._number = 0
        self.width: int | None = None
        self.kind, self.ranges = kind, ranges
        if rows_ND is not None:
            self.append(rows_ND)

    @classmethod
    def of_stored(cls, stored_NW: NDArray[Any], *, kind: RowKind, width: int, ranges: FloatArray | None) -> RowBlocks:
        """Embeddings that were stored before; they are not copied."""
        rows = cls(kind=kind, ranges=ranges)
        rows.width, rows._number = width, len(stored_NW)
        rows._closed.append(stored_NW)
        return rows

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """The blocks in order, as they are stored: (R, D) each, of ``binary`` (R, ⌈D / 8⌉) bytes."""
        for stored in self._closed:
            yield from in_blocks(stored)
        if self._open is not None:
            yield self._open[: self._filled]

    @property
    def num_bytes(self) -> int:
        """Of the embeddings."""
        return sum(stored.nbytes for stored in self)

    def append(self, rows_ND: FloatArray) -> None:
        """Adds embeddings, of the width of those that are there."""
        self.width = rows_ND.shape[1]
        if self.ranges is None and self.kind in RANGED:
            self.ranges = value_ranges(rows_ND)
        if self.kind == "float32":
            self._append_stored(rows_ND)
            return
        # Quantizing needs several times the rows in floats.
        for block in in_blocks(rows_ND):
            self._append_stored(quantize(block, self.kind, range_2D=self._known_ranges))

    def _append_stored(self, stored: NDArray[Any]) -> None:
        most = _rows_of_a_block(stored)
        self._number += len(stored)
        if len(stored) >= most:
            self._close()
            self._closed.append(stored)
            return
        while len(stored):
            if self._open is None:
                self._open = np.empty((most, stored.shape[1]), dtype=stored.dtype)
            fitting = min(len(stored), most - self._filled)
            self._open[self._filled : self._filled + fitting] = stored[:fitting]
            self._filled += fitting
            stored = stored[fitting:]
            if self._filled == most:
                self._close()

    def restored(self, positions: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """(P, D) float32 numbers that the embeddings at these positions stand for."""
        chosen = np.asarray(positions, dtype=np.int64)
        found = np.empty((len(chosen), self.width or 0), dtype=np.float32)
        start = 0
        for stored in self:
            inside = (chosen >= start) & (chosen < start + len(stored))
            if inside.any():
                rows = stored[chosen[inside] - start]
                found[inside] = restore(rows, self.kind, range_2D=self._known_ranges, from_middle=True)
            start += len(stored)
        return found

    def scores(self, query_QD: FloatArray) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """What gives (Q, R) scores of a block: inner products; of ``binary`` 1 − 2 · (share of bits that differ)."""
        if self.kind == "float32":
            return lambda block: query_QD @ block.T
        if self.kind == "float16":
            return lambda block: query_QD @ block.astype(np.float32).T
        if self.kind == "binary":
            query_QW = _words(quantize(query_QD, "binary", range_2D=self._known_ranges))
            return lambda block: _bit_cosines(query_QW, _words(block), width=query_QD.shape[1])
        # With places p and steps s, the product with a + s p is that with a, and that of query · s with p.
        zero_1D = np.full((1, query_QD.shape[1]), -128 if self.kind == "int8" else 0, dtype=self.kind)
        low_1D, high_1D = (
            restore(zero_1D + step, self.kind, range_2D=self._known_ranges, from_middle=True)
            for step in (np.array(0, zero_1D.dtype), np.array(1, zero_1D.dtype))
        )
        scaled_QD = query_QD * (high_1D - low_1D)
        start_Q1 = query_QD @ low_1D.T - scaled_QD @ zero_1D.astype(np.float32).T
        return lambda block: scaled_QD @ block.astype(np.float32).T + start_Q1

    @property
    def _known_ranges(self) -> FloatArray:
        return np.zeros((2, self.width or 0), dtype=np.float32) if self.ranges is None else self.ranges

    def _close(self) -> None:
        if self._open is not None:
            self._closed.append(self._open[: self._filled])
        self._open, self._filled = None, 0


class IndexRows:
    """Embeddings that are searched, and, where that is asked for, finer ones that score again what was found.

    Of ``binary`` rows without finer ones the query's own numbers score again.

    Args:
        rows: How what is searched is stored.
        rescore: How what scores again is stored; ``None`` for nothing.
        ranges: As for ``RowBlocks``.

    Raises:
        ValueError: ``rescore`` needs no more bytes than ``rows``.
    """

    def __init__(
        self, *, rows: RowKind = "float32", rescore: RowKind | None = None, ranges: FloatArray | None = None
    ) -> None:
        check_row_kind(rows, None, width=0)
        if rescore is not None:
            check_row_kind(rescore, None, width=0)
            if _FINENESS[rescore] <= _FINENESS[rows]:
                raise ValueError(f"rescoring by {rescore} is no finer than the rows, {rows}")
        self.coarse = RowBlocks(kind=rows, ranges=ranges)
        self.fine = None if rescore is None else RowBlocks(kind=rescore, ranges=ranges)

    @classmethod
    def of(cls, coarse: RowBlocks, fine: RowBlocks | None = None) -> IndexRows:
        """Those that are there already."""
        rows = cls()
        rows.coarse, rows.fine = coarse, fine
        return rows

    def __len__(self) -> int:
        return len(self.coarse)

    @property
    def width(self) -> int | None:
        """D; ``None`` before the first embedding."""
        return self.coarse.width

    @property
    def is_bits(self) -> bool:
        """Whether nothing is known of a number but its sign."""
        return self.fine is None and self.coarse.kind == "binary"

    @property
    def ranges(self) -> FloatArray | None:
        """(2, D), of ``int8`` and ``uint8`` rows."""
        return self.coarse.ranges if self.fine is None or self.coarse.ranges is not None else self.fine.ranges

    @property
    def num_bytes(self) -> int:
        """Of all embeddings."""
        return self.coarse.num_bytes + (0 if self.fine is None else self.fine.num_bytes)

    def append(self, rows_ND: FloatArray) -> None:
        """Adds embeddings, of the width of those that are there."""
        self.coarse.append(rows_ND)
        if self.fine is not None:
            self.fine.append(rows_ND)

    def restored(self, positions: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """(P, D) float32 numbers of the embeddings at these positions, as near as they are stored."""
        return (self.coarse if self.fine is None else self.fine).restored(positions)

    def nearest(self, query_QD: FloatArray, *, top_k: int) -> list[Found]:
        """As ``nearest``, of what is stored; what is scored again is taken from four times as many."""
        if self.fine is None and not self.is_bits:
            return nearest(query_QD, self.coarse, top_k=top_k)
        found = nearest(query_QD, self.coarse, top_k=OVERSAMPLED * top_k)
        return [
            self._rescored(query_D, positions, top_k) for query_D, (_, positions) in zip(query_QD, found, strict=True)
        ]

    def _rescored(self, query_D: FloatArray, positions: NDArray[np.int64], top_k: int) -> Found:
        ordered = np.sort(positions)
        rows_PD = self.restored(ordered)
        if self.fine is None:
            rows_PD /= np.sqrt(max(rows_PD.shape[1], 1))  # of length 1, as the query is
        return _best(rows_PD @ query_D, ordered, top_k=top_k)


_FINENESS: Mapping[RowKind, int] = {"binary": 1, "int8": 8, "uint8": 8, "float16": 16, "float32": 32}
"""Bits a number."""


def in_blocks(rows_ND: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows in order, some at a time; nothing is copied."""
    most = _rows_of_a_block(rows_ND)
    for start in range(0, len(rows_ND), most):
        yield rows_ND[start : start + most]


def nearest(query_QD: FloatArray, rows: RowBlocks, *, top_k: int) -> list[Found]:
    """For every query the ``top_k`` embeddings of the largest score.

    Args:
        query_QD: Finite.
        rows: Read once for every 256 queries.
        top_k: At least 1; fewer are found where there are fewer.
    """
    found: list[Found] = []
    for start in range(0, len(query_QD), _QUERIES_AT_ONCE):
        found += _nearest(query_QD[start : start + _QUERIES_AT_ONCE], rows, top_k=top_k)
    return found


def _nearest(query_QD: FloatArray, rows: RowBlocks, *, top_k: int) -> list[Found]:
    nothing = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
    best: list[Found] = [nothing] * len(query_QD)
    # A later embedding loses a tie, so it must be better than the last one that is kept.
    bound_Q = np.full(len(query_QD), -np.inf, dtype=np.float32)
    start, scores_of = 0, rows.scores(query_QD)
    for stored in rows:
        score_QR = scores_of(stored)
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
        start += len(stored)
    return best


def _best(scores: NDArray[np.float32], positions: NDArray[np.int64], *, top_k: int) -> Found:
    """The ``top_k`` of candidates of which, among equal ones, the earlier come first."""
    rounded = np.round(scores, _DECIMALS)
    if len(rounded) > 2 * top_k:
        kept = rounded >= np.partition(rounded, -top_k)[-top_k]
        scores, positions, rounded = scores[kept], positions[kept], rounded[kept]
    order = np.argsort(-rounded, kind="stable")[:top_k]
    return scores[order], positions[order]


def _words(bytes_NW: NDArray[np.uint8]) -> NDArray[Any]:
    """The same bits in the largest words that hold whole rows."""
    kind = next(kind for kind in ("u8", "u4", "u2", "u1") if bytes_NW.shape[1] % np.dtype(kind).itemsize == 0)
    return np.ascontiguousarray(bytes_NW).view(kind)


def _bit_cosines(query_QW: NDArray[Any], row_RW: NDArray[Any], *, width: int) -> FloatArray:
    """(Q, R): 1 − 2 · (share of ``width`` bits that differ)."""
    score_QR = np.empty((len(query_QW), len(row_RW)), dtype=np.float32)
    for query_W, score_R in zip(query_QW, score_QR, strict=True):
        different_R = np.bitwise_count(row_RW ^ query_W).sum(axis=1, dtype=np.int32)
        score_R[:] = 1 - 2 * different_R / width
    return score_QR


def _rows_of_a_block(stored: NDArray[Any]) -> int:
    # Integers and bits are made floats, or compared bit by bit, a block at a time.
    columns: int = stored.shape[1]
    return max(1, _BLOCK_BYTES // (4 * max(1, columns)))
