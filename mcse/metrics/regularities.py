"""Arithmetic with images in a joint space: queries, the nearest images, and their share of right ones.

Q queries, N images, W words of one query, K images found, D joint width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.retrieval import TIE

Rows = NDArray[np.floating]
Positions = NDArray[np.int64]
Marks = NDArray[np.bool_]

_BLOCK_CELLS = 2**22
"""Similarities sorted at a time."""


def arithmetic_row(row_D: Rows, *, minus_WD: Rows, plus_WD: Rows) -> NDArray[np.float32]:
    """(D,) ``row - sum(minus) + sum(plus)``, divided by its length.

    Args:
        row_D: The image, or the sentence, to start from; a unit row.
        minus_WD: Unit rows of the words to take away; none is (0, D).
        plus_WD: Unit rows of the words to add.

    Raises:
        ValueError: Rows of other widths.
        UndefinedScoreError: What is left has no direction: a row of zeros, or one that is not finite.

    Source: Kiros et al. 2014 (arXiv 1411.2539), section 3.2; there one word is taken away and one added.
    """
    for name, word_WD in (("minus", minus_WD), ("plus", plus_WD)):
        if word_WD.ndim != 2 or word_WD.shape[1:] != row_D.shape:
            raise ValueError(f"arithmetic: {name} has shape {word_WD.shape}, the row {row_D.shape}")
    sum_D = row_D.astype(np.float64) - minus_WD.sum(0, dtype=np.float64) + plus_WD.sum(0, dtype=np.float64)
    length = float(np.linalg.norm(sum_D))
    if not np.isfinite(length) or length < TIE:
        raise UndefinedScoreError(f"arithmetic: the words cancel the query, which leaves a row of length {length:g}")
    unit_D: NDArray[np.float32] = (sum_D / length).astype(np.float32)
    return unit_D


def nearest(
    query_QD: Rows, image_ND: Rows, *, top: int, own_Q: Positions | None = None, right_QN: Marks | None = None
) -> Positions:
    """(Q, K) positions of each query's most similar images, the most similar first; K is ``top``.

    Similarities closer than ``TIE`` are one. Among them wrong images come first, where ``right_QN`` says which are
    right, so that a constant encoder finds none; then earlier ones.

    Args:
        query_QD: Unit rows.
        image_ND: Unit rows.
        top: How many are wanted.
        own_Q: The image that each query starts from, which is not to be found.
        right_QN: Which images are right.

    Raises:
        ValueError: Rows of different width, or fewer than ``top`` images to be found.
        UndefinedScoreError: Rows that are not finite.
    """
    _check(query_QD, image_ND, top=top, others=0 if own_Q is None else 1)
    found_QK = np.empty((len(query_QD), top), dtype=np.int64)
    step = max(1, _BLOCK_CELLS // len(image_ND))
    for start in range(0, len(query_QD), step):
        similarity_BN = query_QD[start : start + step] @ image_ND.T
        for row, similarity_N in enumerate(similarity_BN, start=start):
            own = None if own_Q is None else int(own_Q[row])
            found_QK[row] = _first(similarity_N, top, own=own, right_N=None if right_QN is None else right_QN[row])
    return found_QK


def rerank(found_QK: Positions, image_ND: Rows, *, right_QN: Marks | None = None) -> Positions:
    """(Q, K) the same images of each query, the closest to the centroid of their K unit rows first; ties as above.

    How many are found (K here, the paper's N) and how many of them are then looked at is the caller's to choose.

    Source: Kiros et al. 2014, section 3.2: the nearest images are sorted anew by their closeness to their mean. Its
    released demo has one number for how many are found and how many are shown, so that nothing drops out.
    """
    again_QK = np.empty_like(found_QK)
    for row, found_K in enumerate(found_QK):
        image_KD = image_ND[found_K].astype(np.float64)
        similarity_K = image_KD @ image_KD.mean(0)
        right_K = None if right_QN is None else right_QN[row, found_K]
        again_QK[row] = found_K[_first(similarity_K, len(found_K), own=None, right_N=right_K)]
    return again_QK


def precision_at(found_QK: Positions, right_QN: Marks, *, k: int) -> NDArray[np.float64]:
    """(Q,) share × 100 of right images among each query's first ``k``.

    Raises:
        ValueError: ``k`` is below 1, or fewer are found.
        UndefinedScoreError: No queries.
    """
    if not 1 <= k <= found_QK.shape[1]:
        raise ValueError(f"precision: k must be from 1 to the {found_QK.shape[1]} found, got {k}")
    if not len(found_QK):
        raise UndefinedScoreError("precision needs at least one query")
    precision_Q: NDArray[np.float64] = 100 * np.take_along_axis(right_QN, found_QK[:, :k], axis=1).mean(1)
    return precision_Q


def _first(similarity_N: Rows, top: int, *, own: int | None, right_N: Marks | None) -> Positions:
    level_N = np.floor(similarity_N.astype(np.float64) / TIE + 0.5)
    if own is not None:
        level_N[own] = -np.inf
    worst = np.partition(level_N, -top)[-top]
    position_C = np.flatnonzero(level_N >= worst)
    is_right_C = np.zeros(len(position_C)) if right_N is None else right_N[position_C]
    return position_C[np.lexsort((position_C, is_right_C, -level_N[position_C]))[:top]]


def _check(query_QD: Rows, image_ND: Rows, *, top: int, others: int) -> None:
    if query_QD.ndim != 2 or image_ND.ndim != 2 or query_QD.shape[1] != image_ND.shape[1]:
        raise ValueError(f"rows of equal width are needed, got shapes {query_QD.shape} and {image_ND.shape}")
    if not 1 <= top <= len(image_ND) - others:
        raise ValueError(f"top must be from 1 to the {len(image_ND) - others} images to be found, got {top}")
    for label, row_ND in (("query", query_QD), ("image", image_ND)):
        finite_N = np.isfinite(row_ND).all(1)
        if not finite_N.all():
            first = int(np.argmin(finite_N))
            raise UndefinedScoreError(f"{label} rows: row {first} of {len(row_ND)} is not finite")
