"""Correlation of scores with gold, and its refusals: a correlation that is undefined is an error, never 0 or NaN.

P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_CONSTANT_SPREAD = 1e-12
"""Spread relative to the largest value below which the differences are rounding noise of float64."""


class UndefinedScoreError(ValueError):
    """The inputs are well formed but the score does not exist for them: constant or NaN values, nothing to average."""


def spearman(score_P: ArrayLike, gold_P: ArrayLike) -> float:
    """Rank correlation in [-1, 1]; ties share their mean rank.

    Raises:
        ValueError: Different lengths, or fewer than two pairs.
        UndefinedScoreError: Either side is constant, or holds NaN or infinity.
    """
    score, gold = _checked(score_P, gold_P)
    return _pearson(stats.rankdata(score), stats.rankdata(gold))


def pearson(score_P: ArrayLike, gold_P: ArrayLike) -> float:
    """Linear correlation in [-1, 1].

    Raises:
        ValueError: Different lengths, or fewer than two pairs.
        UndefinedScoreError: Either side is constant, or holds NaN or infinity.
    """
    return _pearson(*_checked(score_P, gold_P))


def _pearson(left_P: NDArray[np.float64], right_P: NDArray[np.float64]) -> float:
    return float(stats.pearsonr(left_P, right_P).statistic)


def _checked(score_P: ArrayLike, gold_P: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    score, gold = np.asarray(score_P, dtype=np.float64), np.asarray(gold_P, dtype=np.float64)
    if score.ndim != 1 or score.shape != gold.shape:
        raise ValueError(f"scores of shape {score.shape} and gold of shape {gold.shape} must be lists of equal length")
    if len(score) < 2:
        raise ValueError(f"a correlation needs at least two pairs, got {len(score)}")
    for label, values in (("scores", score), ("gold values", gold)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            first = f"the first is {values[bad[0]]} at pair {bad[0]}"
            raise UndefinedScoreError(f"{len(bad)} of {len(values)} {label} are not finite; {first}")
        if np.ptp(values) <= _CONSTANT_SPREAD * np.abs(values).max():
            raise UndefinedScoreError(f"all {len(values)} {label} are {values[0]:g}: their correlation is undefined")
    return score, gold
