"""Rows as an index stores them: fewer bytes a number, and the numbers that they stand for.

N rows, D width.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

RowKind = Literal["float32", "float16", "int8", "uint8", "binary"]
"""``binary``: one bit a number, eight to a byte."""

Floats: TypeAlias = NDArray[np.float32]

_STEPS = 255


def value_ranges(row_ND: Floats) -> Floats:
    """(2, D) the least and the greatest value of each column: what ``int8`` and ``uint8`` are calibrated on."""
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


def restore(stored: NDArray[Any], kind: RowKind, *, range_2D: Floats) -> Floats:
    """(N, D) float32 numbers that stored rows stand for; of ``binary`` 1 and −1.

    A cosine of ``binary`` rows is then 1 − 2 · (share of bits that differ).
    """
    if kind == "binary":
        bit_ND = np.unpackbits(stored, axis=-1, count=range_2D.shape[1])
        return 2 * bit_ND.astype(np.float32) - 1
    if kind in ("float32", "float16"):
        return stored.astype(np.float32)
    place_ND = stored.astype(np.float32) + (0 if kind == "uint8" else 128)
    restored: Floats = place_ND * _step(range_2D) + range_2D[0]
    return restored


def _step(range_2D: Floats) -> Floats:
    step_D = (range_2D[1] - range_2D[0]) / _STEPS
    return np.where(step_D == 0, 1, step_D).astype(np.float32)
