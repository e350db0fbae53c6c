"""Encoding for evaluation: every distinct sentence once, split over processes, and no bad row passes unseen.

N distinct sentences, P pairs, D width.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcse.distributed import fail_together, gather_arrays, rank, world_size
from mcse.files import naming
from mcse.metrics.correlation import UndefinedScoreError
from mcse.stored_rows import unit
from mcse.types import Encoder, FloatArray

logger = logging.getLogger(__name__)

_UNIT_TOLERANCE = 1e-3
_SAME_ROW_SPREAD = 1e-6
"""An encoder that says the same of everything still differs by rounding from batch to batch."""
_NAMED = 3
_BLOCK_SENTENCES = 16384
"""Encoded and written at a time, so that memory does not grow with the sentences."""


def encode_distinct(
    encoder: Encoder, sentences: Sequence[str], *, batch_size: int, normalize: bool = True
) -> FloatArray:
    """(N, D) rows of distinct sentences, each encoded once by one of the processes; every process gets them all.

    A row of zeros (no known word, under averaged word vectors) is kept and logged: a cosine with it is 0.

    Raises:
        ValueError: Not one row a sentence, or rows that are not unit rows though they should be.
        UndefinedScoreError: NaN or infinite rows (the message names the sentences), or one row for all sentences.
    """
    # By length, so that every process has about as many tokens to encode.
    order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
    row = encode_in_turns(
        lambda own: encoder.encode(own, batch_size=batch_size, normalize=normalize),
        [sentences[number] for number in order],
        label="sentences",
    )
    row_ND = np.empty_like(row)
    row_ND[order] = row
    check_rows(row_ND, sentences, label="sentences", must_be_unit=normalize)
    if len(row_ND) > 1 and np.ptp(row_ND, axis=0).max() <= _SAME_ROW_SPREAD:
        raise UndefinedScoreError(f"the encoder gave the same row for all {len(row_ND)} sentences")
    return row_ND


def encode_in_turns(encode: Callable[[list[str]], FloatArray], texts: Sequence[str], *, label: str) -> FloatArray:
    """(N, D) float32 rows of ``texts``, dealt out to the processes in turn; every process gets them all.

    Raises:
        ValueError: ``encode`` does not give one row a text; on every process.
    """

    def encode_own(own: list[str]) -> FloatArray:
        row = encode(own)
        _check_shape(row, len(own), label)
        return row.astype(np.float32, copy=False)

    if world_size() == 1 or len(texts) < world_size():
        return encode_own(list(texts))
    turns = [range(start, len(texts), world_size()) for start in range(world_size())]
    row = gather_arrays(fail_together(lambda: encode_own([texts[number] for number in turns[rank()]])))
    row_ND = np.empty_like(row)
    row_ND[np.concatenate(turns)] = row
    return row_ND


class Rows(Protocol):
    """Rows of sentences that are encoded once, whoever asks for them."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The distinct sentences encoded so far."""

    def encode(self, sentences: Sequence[str]) -> None:
        """Encodes those that are not known yet; all at once is faster than task after task."""

    def raw(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 rows before their norm is taken away, repeats included."""

    def unit(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 unit rows, repeats included; a row of zeros stays one."""


class RowStore:
    """Rows of one encoder's distinct sentences, each encoded once however many suites ask for it.

    Rows lie in a memory-mapped file that goes with the store, so that memory does not grow with the sentences.

    Args:
        encoder: Gives the rows.
        batch_size: Sentences a forward pass.
        normalize: Whether the encoder returns unit rows.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int = 64, normalize: bool = False) -> None:
        self._encoder = encoder
        self._batch_size = batch_size
        self._normalize = normalize
        self._index: dict[str, int] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the store
        self._width = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The distinct sentences encoded so far."""
        return tuple(self._index)

    def raw(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 rows as the encoder gives them, repeats included.

        Raises:
            ValueError, UndefinedScoreError: As for ``encode_distinct``.
        """
        self.encode(sentences)
        row_ND = self._mapped()
        return np.asarray(row_ND[[self._index[sentence] for sentence in sentences]])

    def unit(self, sentences: Sequence[str]) -> FloatArray:
        """(P, D) float32 unit rows, repeats included; a row of zeros stays one."""
        return unit(self.raw(sentences))

    def encode(self, sentences: Sequence[str]) -> None:
        """Encodes those that the store does not hold yet; all at once is faster than task after task."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._index]
        new.sort(key=len)  # so that a block pads as little as all of them would
        for start in range(0, len(new), _BLOCK_SENTENCES):
            self._append(new[start : start + _BLOCK_SENTENCES])

    def _append(self, new: Sequence[str]) -> None:
        row_ND = encode_distinct(self._encoder, new, batch_size=self._batch_size, normalize=self._normalize)
        if self._index and row_ND.shape[1] != self._width:
            raise ValueError(f"the encoder gave rows of width {self._width}, then of width {row_ND.shape[1]}")
        self._width = row_ND.shape[1]
        with naming(Path(tempfile.gettempdir()) / "embeddings of the test sentences"):
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(row_ND).tobytes())
            self._file.flush()
        start = len(self._index)
        self._index.update((sentence, start + number) for number, sentence in enumerate(new))

    def _mapped(self) -> FloatArray:
        return np.memmap(self._file, dtype=np.float32, mode="r", shape=(len(self._index), self._width))


def cosines(left_PD: FloatArray, right_PD: FloatArray) -> NDArray[np.float64]:
    """(P,) cosines, pair by pair; 0 for a row of zeros, and exactly 1 for equal rows, so that they tie."""
    left, right = left_PD.astype(np.float64), right_PD.astype(np.float64)
    norm_P = np.sqrt((left * left).sum(1) * (right * right).sum(1))
    cosine_P: NDArray[np.float64] = (left * right).sum(1) / np.where(norm_P == 0, 1.0, norm_P)
    return cosine_P


def check_rows(row_ND: FloatArray, names: Sequence[str], *, label: str, must_be_unit: bool = True) -> None:
    """Refuses rows that are not finite or not of unit norm; rows of zeros pass and are logged.

    It looks at all rows at once, so that every process raises the same error and none waits for another.

    Raises:
        ValueError: Another number of rows than ``names``, or another norm than 1.
        UndefinedScoreError: Rows that are not finite.
    """
    _check_shape(row_ND, len(names), label)
    square_N = np.einsum("nd,nd->n", row_ND, row_ND, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(square_N))
    if len(broken):
        raise UndefinedScoreError(f"the encoder gave NaN or infinite rows for {_named(broken, names, label)}")
    zero_N = square_N == 0
    if zero_N.any():
        which = _named(np.flatnonzero(zero_N), names, label)
        logger.warning("rows of zeros for %s: cosines with them are 0; word similarity leaves such pairs out", which)
    stretched = np.flatnonzero(~zero_N & (np.abs(np.sqrt(square_N) - 1) > _UNIT_TOLERANCE))
    if must_be_unit and len(stretched):
        norm = float(np.sqrt(square_N[stretched[0]]))
        which = _named(stretched, names, label)
        raise ValueError(f"the encoder gave rows of other than unit norm ({norm:g}) for {which}")


def _check_shape(row_ND: FloatArray, number: int, label: str) -> None:
    if row_ND.ndim != 2 or len(row_ND) != number:
        raise ValueError(f"the encoder returned shape {row_ND.shape} for {number} {label}, expected one row each")


def _named(numbers: NDArray[np.intp], names: Sequence[str], label: str) -> str:
    shown = ", ".join(repr(names[number][:60]) for number in numbers[:_NAMED])
    more = ", …" if len(numbers) > _NAMED else ""
    return f"{len(numbers)} of {len(names)} {label}: {shown}{more}"
