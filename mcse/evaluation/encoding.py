"""Encoding for evaluation: every distinct sentence once, split over processes, and no bad row passes unseen.

N distinct sentences, P pairs, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.distributed import gather_arrays, rank, world_size
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import Encoder, FloatArray

logger = logging.getLogger(__name__)

_UNIT_TOLERANCE = 1e-3
_SAME_ROW_SPREAD = 1e-6
"""An encoder that says the same of everything still differs by rounding from batch to batch."""
_NAMED_SENTENCES = 3


@dataclass(frozen=True, slots=True, eq=False)
class DistinctRows:
    """Unit rows of distinct sentences, and which row a sentence has."""

    index: Mapping[str, int]
    row_ND: FloatArray

    def __getitem__(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) rows, one for each of ``sentences``, repeats included."""
        return self.row_ND[[self.index[sentence] for sentence in sentences]]


def encode_distinct(encoder: Encoder, sentences: Iterable[str], *, batch_size: int) -> DistinctRows:
    """Unit rows of the distinct sentences, each encoded once by one of the processes; every process gets them all.

    A row of zeros (no known word, under averaged word vectors) is kept and logged: its cosines are 0.

    Raises:
        ValueError: Not one row a sentence, or rows that are not unit rows.
        UndefinedScoreError: NaN or infinite rows (the message names the sentences), or one row for all sentences.
    """
    distinct = list(dict.fromkeys(sentences))
    index = {sentence: number for number, sentence in enumerate(distinct)}
    # By length and in turns, so that every process has about as many tokens to encode.
    order = sorted(range(len(distinct)), key=lambda number: len(distinct[number]))
    if world_size() > 1 and len(distinct) >= world_size():
        turn = [order[start :: world_size()] for start in range(world_size())]
        row = gather_arrays(_encode(encoder, [distinct[number] for number in turn[rank()]], batch_size=batch_size))
        order = [number for part in turn for number in part]
    else:
        row = _encode(encoder, [distinct[number] for number in order], batch_size=batch_size)
    row_ND = np.empty_like(row)
    row_ND[order] = row
    _check_rows(row_ND, distinct)
    return DistinctRows(index=index, row_ND=row_ND)


def cosines(left_PD: FloatArray, right_PD: FloatArray) -> NDArray[np.float64]:
    """(P,) cosines, pair by pair; 0 for a row of zeros, and exactly 1 for equal rows, so that they tie."""
    left, right = left_PD.astype(np.float64), right_PD.astype(np.float64)
    norm_P = np.sqrt((left * left).sum(1) * (right * right).sum(1))
    cosine_P: NDArray[np.float64] = (left * right).sum(1) / np.where(norm_P == 0, 1.0, norm_P)
    return cosine_P


def _encode(encoder: Encoder, sentences: list[str], *, batch_size: int) -> FloatArray:
    row = encoder.encode(sentences, batch_size=batch_size, normalize=True)
    if row.ndim != 2 or len(row) != len(sentences):
        raise ValueError(
            f"the encoder returned shape {row.shape} for {len(sentences)} sentences, expected one row each"
        )
    return row.astype(np.float32, copy=False)


def _check_rows(row_ND: FloatArray, sentences: Sequence[str]) -> None:
    """Checked on all rows at once, so that every process raises the same error and none waits for another."""
    square = np.einsum("nd,nd->n", row_ND, row_ND, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(square))
    if len(broken):
        raise UndefinedScoreError(f"the encoder gave NaN or infinite rows for {_named(broken, sentences)}")
    zero = square == 0
    if zero.any():
        logger.warning("rows of zeros, whose cosines are 0, for %s", _named(np.flatnonzero(zero), sentences))
    stretched = np.flatnonzero(~zero & (np.abs(np.sqrt(square) - 1) > _UNIT_TOLERANCE))
    if len(stretched):
        norm = float(np.sqrt(square[stretched[0]]))
        raise ValueError(f"the encoder gave rows of other than unit norm ({norm:g}) for {_named(stretched, sentences)}")
    if len(row_ND) > 1 and np.ptp(row_ND, axis=0).max() <= _SAME_ROW_SPREAD:
        raise UndefinedScoreError(f"the encoder gave the same row for all {len(row_ND)} sentences")


def _named(numbers: NDArray[np.intp], sentences: Sequence[str]) -> str:
    shown = ", ".join(repr(sentences[number][:60]) for number in numbers[:_NAMED_SENTENCES])
    more = ", …" if len(numbers) > _NAMED_SENTENCES else ""
    return f"{len(numbers)} of {len(sentences)} sentences: {shown}{more}"
