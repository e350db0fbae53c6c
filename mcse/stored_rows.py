"""Rows as an index stores them: fewer bytes a number, and the numbers that they stand for; the one owner of that.

N rows, D width.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

RowKind = Literal["float32", "float16", "int8", "uint8", "binary"]
"""``binary``: one bit a number, eight to a byte."""

Floats: TypeAlias = NDArray[np.float32]

RANGED: tuple[RowKind, ...] = ("int8", "uint8")
"""Kinds that are calibrated on ranges."""

_STEPS = 255


def unit(row_ND: NDArray[np.floating[Any]]) -> Floats:
    """(N, D) float32 rows of unit norm; a row of zeros stays one."""
    norm_N1 = np.linalg.norm(row_ND, axis=1, keepdims=True)
    return (row_ND / np.where(norm_N1 == 0, 1, norm_N1)).astype(np.float32)


def check_row_kind(kind: RowKind, range_2D: Floats | None, *, width: int) -> None:
    """Refuses what is no kind of row, and ranges that do not fit it or ``width``.

    Raises:
        ValueError: No such kind; ranges of other columns, not finite, or where the kind has none.
    """
    if kind not in get_args(RowKind):
        raise ValueError(f"dtype must be one of {', '.join(get_args(RowKind))}, got {kind!r}")
    if range_2D is None:
        return
    if kind not in RANGED:
        raise ValueError(f"ranges are for {' and '.join(RANGED)}; {kind} has none")
    if range_2D.shape != (2, width) or not np.isfinite(range_2D).all() or (range_2D[0] > range_2D[1]).any():
        raise ValueError(f"ranges must be the least and the greatest value of {width} columns, got {range_2D.shape}")


def value_ranges(row_ND: Floats) -> Floats:
    """(2, D) the least and the greatest value of each column: what ``int8`` and ``uint8`` are calibrated on.

    Zeros of no rows.
    """
    if not len(row_ND):
        return np.zeros((2, row_ND.shape[1]), dtype=np.float32)
    return np.stack([row_ND.min(axis=0), row_ND.max(axis=0)]).astype(np.float32)


def quantize(row_ND: Floats, kind: RowKind, *, range_2D: Floats) -> NDArray[Any]:
    """(N, D) rows as they are stored; of ``binary`` (N, ⌈D / 8⌉) bytes, a bit being 1 where the number is positive.

    ``int8`` and ``uint8`` cut each column's range into 255 steps; what lies outside gets the nearest end.

    Source: ``sentence_transformers.util.quantize_embeddings``, whose ``ubinary`` is ``binary`` here.
    """
    if kind == "binary":
        bits: NDArray[np.uint8] = np.packbits(row_ND > 0, axis=-1)
        return bits
    if kind in ("float32", "float16"):
        return row_ND.astype(kind)
    place_ND: Floats = np.clip(np.floor((row_ND - range_2D[0]) / _step(range_2D)), 0, _STEPS)
    return (place_ND if kind == "uint8" else place_ND - 128).astype(kind)


def restore(stored: NDArray[Any], kind: RowKind, *, range_2D: Floats, from_middle: bool = False) -> Floats:
    """(N, D) float32 numbers that stored rows stand for; of ``binary`` 1 and −1.

    A cosine of ``binary`` rows is then 1 − 2 · (share of bits that differ).

    Args:
        stored: What ``quantize`` gave.
        kind: Of these rows.
        range_2D: What they were stored with.
        from_middle: Takes the middle of each step of ``int8`` and ``uint8``, not its lower end: half the error, and
            storing such numbers again changes nothing.
    """
    if kind == "binary":
        bit_ND = np.unpackbits(stored, axis=-1, count=range_2D.shape[1])
        return 2 * bit_ND.astype(np.float32) - 1
    if kind in ("float32", "float16"):
        return stored.astype(np.float32)
    place_ND = stored.astype(np.float32) + ((0 if kind == "uint8" else 128) + (0.5 if from_middle else 0.0))
    restored: Floats = place_ND * _step(range_2D) + range_2D[0]
    return restored


def _step(range_2D: Floats) -> Floats:
    step_D = (range_2D[1] - range_2D[0]) / _STEPS
    return np.where(step_D == 0, 1, step_D).astype(np.float32)
