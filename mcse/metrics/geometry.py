"""Alignment and uniformity of unit rows: the global definitions, and MCSE's estimate batch by batch under its own name.

P pairs, N rows, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcse.metrics.correlation import UndefinedScoreError

Rows = NDArray[np.floating]

_UNIT_TOLERANCE = 1e-3
_BLOCK_ROWS = 1024
"""Rows compared with all others at a time, so that memory grows with N and not with N²."""


@dataclass(frozen=True, slots=True)
class BatchwiseGeometry:
    """Means over batches. Not comparable with the global values: small, length-sorted batches look less uniform."""

    alignment: float
    uniformity: float


def alignment(left_PD: Rows, right_PD: Rows) -> float:
    """Mean squared distance of positive pairs, in [0, 4]; lower is better.

    Raises:
        ValueError: The shapes differ, or rows are not unit rows.
        UndefinedScoreError: There are no pairs.

    Source: Wang & Isola 2020, with exponent 2, as SimCSE section 5.
    """
    if left_PD.shape != right_PD.shape:
        raise ValueError(f"pairs need rows of equal shape, got {left_PD.shape} and {right_PD.shape}")
    if not len(left_PD):
        raise UndefinedScoreError("alignment needs at least one positive pair")
    left, right = _unit(left_PD), _unit(right_PD)
    return float(((left - right) ** 2).sum(1).mean())


def uniformity(row_ND: Rows, *, scale: float = 2.0) -> float:
    """Logarithm of the mean over pairs i < j of exp(-scale · squared distance), in [-4·scale, 0]; lower is better.

    Rows count as often as they occur, so a sentence that stands twice in the data weighs twice.

    Raises:
        ValueError: Rows are not unit rows.
        UndefinedScoreError: Fewer than two rows.

    Source: Wang & Isola 2020, t = 2, as SimCSE section 5.
    """
    if len(row_ND) < 2:
        raise UndefinedScoreError(f"uniformity needs at least two rows, got {len(row_ND)}")
    row = _unit(row_ND)
    total = 0.0
    for start in range(0, len(row), _BLOCK_ROWS):
        block = row[start : start + _BLOCK_ROWS]
        # ‖x - y‖² = 2 - 2·x·y on unit rows; the block's own pairs stand twice, and each row once with itself.
        kernel = np.exp(-scale * (2 - 2 * (block @ row[start:].T)))
        own = kernel[:, : len(block)]
        total += float((own.sum() - np.trace(own)) / 2 + kernel[:, len(block) :].sum())
    return math.log(total / (len(row) * (len(row) - 1) / 2))


def batchwise_geometry(
    left_PD: Rows, right_PD: Rows, *, gold_P: ArrayLike, batch_size: int = 128, threshold: float = 4.0
) -> BatchwiseGeometry:
    """MCSE's published variant: each value is the mean over consecutive batches of that batch's own value.

    A pair is positive at gold >= ``threshold`` (the global definition takes gold > 4), a batch without positives counts
    as alignment 0, and a batch's uniformity is over the rows of both sides. Order matters: MCSE reads STS12–16 sorted
    by length.

    Raises:
        ValueError: The shapes differ, there are no pairs, or rows are not unit rows.

    Source: MCSE, SentEval/senteval/sts.py lines 31–43 and 102–152.
    """
    gold = np.asarray(gold_P, dtype=np.float64)
    if left_PD.shape != right_PD.shape or gold.shape != left_PD.shape[:1] or not len(gold):
        raise ValueError(f"pairs need equal shapes, got {left_PD.shape}, {right_PD.shape} and gold {gold.shape}")
    alignments, uniformities = [], []
    for start in range(0, len(gold), batch_size):
        part = slice(start, start + batch_size)
        positive = gold[part] >= threshold
        alignments.append(alignment(left_PD[part][positive], right_PD[part][positive]) if positive.any() else 0.0)
        uniformities.append(uniformity(np.concatenate([left_PD[part], right_PD[part]])))
    return BatchwiseGeometry(alignment=float(np.mean(alignments)), uniformity=float(np.mean(uniformities)))


def _unit(row_ND: Rows) -> NDArray[np.float64]:
    row = np.asarray(row_ND, dtype=np.float64)
    if row.ndim != 2:
        raise ValueError(f"expected rows of shape (N, D), got {row.shape}")
    norm = np.sqrt((row**2).sum(1))
    worst = int(np.argmax(np.abs(norm - 1)))
    if not abs(norm[worst] - 1) <= _UNIT_TOLERANCE:
        raise ValueError(f"alignment and uniformity need unit rows; row {worst} has norm {norm[worst]:g}")
    return row
