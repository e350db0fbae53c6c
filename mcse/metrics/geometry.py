"""Geometry of unit rows: alignment and uniformity (also MCSE's, batch by batch, under its own name), and anisotropy.

P pairs, N rows, D width, K singular values.
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

_EQUAL_ROWS = 1e-6
"""Largest distance from the mean, root mean square, at which float32 rows pass for equal."""


@dataclass(frozen=True, slots=True)
class BatchwiseGeometry:
    """Means over batches. Not comparable with the global values: small, length-sorted batches look less uniform."""

    alignment: float
    uniformity: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How the variance of rows is spread over directions.

    Args:
        top1_share: Variance along the direction that has most of it, of all variance, in (0, 1].
        top10_share: The same of the ten first directions together.
        effective_rank: Number of directions in use, in [1, min(N - 1, D)]: exp of the entropy (nats) of the singular
            values divided by their sum.
    """

    top1_share: float
    top10_share: float
    effective_rank: float


def alignment(left_PD: Rows, right_PD: Rows) -> float:
    """Mean squared distance of positive pairs, in [0, 4]; lower is better.

    Raises:
        ValueError: The shapes differ, or rows are not unit rows.
        UndefinedScoreError: There are no pairs.

    Source: Wang & Isola 2020, with exponent 2, as SimCSE section 5.
    """
    if not len(left_PD) and not len(right_PD):
        raise UndefinedScoreError("alignment needs at least one positive pair")
    return float(squared_distances(left_PD, right_PD).mean())


def squared_distances(left_PD: Rows, right_PD: Rows) -> NDArray[np.float64]:
    """(P,) squared distances in [0, 4], pair by pair.

    Raises:
        ValueError: The shapes differ, or rows are not unit rows.
    """
    if left_PD.shape != right_PD.shape:
        raise ValueError(f"pairs need rows of equal shape, got {left_PD.shape} and {right_PD.shape}")
    distance_P: NDArray[np.float64] = ((_unit(left_PD) - _unit(right_PD)) ** 2).sum(1)
    return distance_P


def uniformity(row_ND: Rows, *, scale: float = 2.0, dtype: type[np.floating] = np.float64) -> float:
    """Logarithm of the mean over pairs i < j of exp(-scale · squared distance), in [-4·scale, 0]; lower is better.

    Rows count as often as they occur, so a sentence that is given twice in the data weighs twice. Cosines and their
    exponentials are taken in ``dtype`` and added up in float64; in float32 the value is the same to 1e-6.

    Raises:
        ValueError: Rows are not unit rows.
        UndefinedScoreError: Fewer than two rows.

    Source: Wang & Isola 2020, t = 2, as SimCSE section 5.
    """
    if len(row_ND) < 2:
        raise UndefinedScoreError(f"uniformity needs at least two rows, got {len(row_ND)}")
    row = _unit(row_ND).astype(dtype)
    total = 0.0
    for start in range(0, len(row), _BLOCK_ROWS):
        block = row[start : start + _BLOCK_ROWS]
        # ‖x - y‖² = 2 - 2·x·y on unit rows; the block's own pairs stand twice, and each row once with itself.
        kernel = np.exp(-scale * (2 - 2 * (block @ row[start:].T)))
        own = kernel[:, : len(block)]
        of_own = own.sum(dtype=np.float64) - np.trace(own, dtype=np.float64)
        total += float(of_own / 2 + kernel[:, len(block) :].sum(dtype=np.float64))
    return math.log(total / (len(row) * (len(row) - 1) / 2))


def uniformity_parts(left_PD: Rows, right_PD: Rows, *, scale: float = 2.0) -> NDArray[np.float64]:
    """(P,) values whose mean is the uniformity of both sides' rows together, one for each pair.

    The mean of a bootstrap draw of them is, to first order in 1/P, the uniformity of the drawn pairs, where copies of a
    pair are not compared with each other: uniformity plus each pair's influence on it.

    Raises:
        ValueError: The shapes differ, or rows are not unit rows.
        UndefinedScoreError: There are no pairs.

    Source: van der Vaart 1998, section 12.1: a U-statistic's projection onto its items.
    """
    if left_PD.shape != right_PD.shape:
        raise ValueError(f"pairs need rows of equal shape, got {left_PD.shape} and {right_PD.shape}")
    if not len(left_PD):
        raise UndefinedScoreError("uniformity needs at least two rows, got 0")
    left, right = _unit(left_PD), _unit(right_PD)
    row_ND = np.concatenate([left, right])
    own_P = np.exp(-scale * (2 - 2 * (left * right).sum(1)))
    # A pair's own two rows meet once from either side.
    sum_P = _kernel_sums(left, row_ND, scale) + _kernel_sums(right, row_ND, scale)
    total = sum_P.sum() / 2
    influence_P = len(left) * (sum_P - own_P) / total
    num_rows = len(row_ND)
    value = math.log(total / (num_rows * (num_rows - 1) / 2))
    parts_P: NDArray[np.float64] = value + influence_P - influence_P.mean()
    return parts_P


def mean_cosine(row_ND: Rows) -> float:
    """Mean cosine over all pairs i < j, in [-1/(N - 1), 1]: what pairs drawn at random have on average.

    0 if rows point in all directions equally; the more they share one direction, the larger.

    Raises:
        ValueError: Rows are not unit rows.
        UndefinedScoreError: Fewer than two rows.

    Source: Ethayarajh 2019, section 4.1, over all pairs where it draws some.
    """
    return float(mean_cosine_parts(row_ND).mean())


def mean_cosine_parts(row_ND: Rows) -> NDArray[np.float64]:
    """(N,) values whose mean is ``mean_cosine``, one for each row; bootstrap draws as for ``uniformity_parts``.

    Raises:
        ValueError, UndefinedScoreError: As for ``mean_cosine``.
    """
    if len(row_ND) < 2:
        raise UndefinedScoreError(f"a mean cosine needs at least two rows, got {len(row_ND)}")
    row = _unit(row_ND)
    with_others_N = (row @ row.sum(0) - (row**2).sum(1)) / (len(row) - 1)
    parts_N: NDArray[np.float64] = 2 * with_others_N - with_others_N.mean()
    return parts_N


def spectrum(row_ND: Rows) -> Spectrum:
    """Of the rows about their mean: the direction that all share is ``mean_cosine``'s matter.

    Raises:
        ValueError: Rows are not unit rows.
        UndefinedScoreError: Fewer than two rows, or all rows are equal.

    Source: Roy & Vetterli 2007, definition 1, for the effective rank (entropy of the singular values, not of their
    squares); of centred rows, which is our choice.
    """
    if len(row_ND) < 2:
        raise UndefinedScoreError(f"a spectrum needs at least two rows, got {len(row_ND)}")
    row = _unit(row_ND)
    singular_K = np.linalg.svd(row - row.mean(0), compute_uv=False)
    if singular_K[0] <= _EQUAL_ROWS * math.sqrt(len(row)):
        raise UndefinedScoreError(f"all {len(row)} rows are equal: they have no spectrum")
    variance_K = singular_K**2 / (singular_K**2).sum()
    share_K = singular_K[singular_K > 0] / singular_K.sum()
    return Spectrum(
        top1_share=float(variance_K[0]),
        top10_share=float(variance_K[:10].sum()),
        effective_rank=float(np.exp(-(share_K * np.log(share_K)).sum())),
    )


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


def _kernel_sums(row_PD: NDArray[np.float64], row_ND: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(P,) sums of exp(-scale · squared distance) over the N rows, which hold each of the P once: not with itself."""
    blocks = [row_PD[start : start + _BLOCK_ROWS] for start in range(0, len(row_PD), _BLOCK_ROWS)]
    with_itself = np.concatenate([np.exp(-scale * (2 - 2 * (block @ row_ND.T))).sum(1) for block in blocks])
    sum_P: NDArray[np.float64] = with_itself - np.exp(-scale * (2 - 2 * (row_PD**2).sum(1)))
    return sum_P


def _unit(row_ND: Rows) -> NDArray[np.float64]:
    row = np.asarray(row_ND, dtype=np.float64)
    if row.ndim != 2:
        raise ValueError(f"expected rows of shape (N, D), got {row.shape}")
    norm = np.sqrt((row**2).sum(1))
    worst = int(np.argmax(np.abs(norm - 1)))
    if not abs(norm[worst] - 1) <= _UNIT_TOLERANCE:
        raise ValueError(f"alignment and uniformity need unit rows; row {worst} has norm {norm[worst]:g}")
    return row
