"""Correlations equal their definitions; what is undefined is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman


def brute_pearson(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    cross = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return cross / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def brute_ranks(x: np.ndarray) -> np.ndarray:
    return np.array([1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2 for a in x])


def test_correlations_equal_their_definitions_with_ties():
    generator = np.random.default_rng(1)
    score, gold = generator.normal(size=40).round(1), generator.integers(0, 6, size=40).astype(float)
    assert len(set(gold)) < len(gold)  # ties, so that a rank without averaging would show
    assert pearson(score, gold) == pytest.approx(brute_pearson(score, gold), abs=1e-12)
    assert spearman(score, gold) == pytest.approx(brute_pearson(brute_ranks(score), brute_ranks(gold)), abs=1e-12)


def test_spearman_sees_only_order():
    gold = np.array([0.0, 1.0, 2.5, 4.0])
    assert spearman(np.exp(3 * gold), gold) == pytest.approx(1.0, abs=1e-12)
    assert spearman(-gold, gold) == pytest.approx(-1.0, abs=1e-12)
    assert pearson(np.exp(3 * gold), gold) < 0.9


@pytest.mark.parametrize("correlation", [spearman, pearson])
def test_undefined_correlations_are_said_not_returned(correlation):
    gold = np.arange(3.0)
    with pytest.raises(UndefinedScoreError, match=r"all 3 scores are 0\.5"):
        correlation([0.5] * 3, gold)
    with pytest.raises(UndefinedScoreError, match="all 3 gold values are 2"):
        correlation(gold, [2.0] * 3)
    with pytest.raises(UndefinedScoreError, match="1 of 3 scores are not finite; the first is nan at pair 1"):
        correlation([0.1, float("nan"), 0.3], gold)
    with pytest.raises(UndefinedScoreError, match="gold values are not finite"):
        correlation(gold, [0.1, float("inf"), 0.3])
    with pytest.raises(UndefinedScoreError, match="all 3 scores"):  # rounding noise is not information
        correlation([1.0, 1.0 + 1e-15, 1.0], gold)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        correlation([1.0, 2.0], gold)
    with pytest.raises(ValueError, match="at least two"):
        correlation([1.0], [1.0])


def test_random_scores_are_near_zero():
    generator = np.random.default_rng(2)
    assert abs(spearman(generator.normal(size=4000), generator.normal(size=4000))) < 0.05
