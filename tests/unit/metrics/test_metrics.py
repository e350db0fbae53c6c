"""Correlations and geometry equal their definitions, and refuse what has no value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman
from mcse.metrics.geometry import alignment, batchwise_geometry, uniformity


def unit_rows(count: int, width: int = 5, *, seed: int = 0) -> np.ndarray:
    row = np.random.default_rng(seed).normal(size=(count, width))
    return row / np.linalg.norm(row, axis=1, keepdims=True)


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


def test_alignment_equals_its_definition():
    left, right = unit_rows(7), unit_rows(7, seed=1)
    expected = np.mean([sum((a - b) ** 2) for a, b in zip(left, right, strict=True)])
    assert alignment(left, right) == pytest.approx(expected, rel=1e-12)
    assert alignment(left, left) == 0
    assert alignment(left, -left) == pytest.approx(4)


@pytest.mark.parametrize("count", [2, 3, 1024, 1030])  # one block, its edge, and across blocks
def test_uniformity_equals_its_definition(count):
    row = unit_rows(count, 3)
    squared = ((row[:, None] - row[None]) ** 2).sum(-1)
    upper = np.triu_indices(count, 1)
    assert uniformity(row) == pytest.approx(math.log(np.exp(-2 * squared[upper]).mean()), rel=1e-10)


def test_uniformity_bounds():
    row = unit_rows(1)
    assert uniformity(np.concatenate([row, row])) == pytest.approx(0)
    assert uniformity(np.concatenate([row, -row])) == pytest.approx(-8)


def test_geometry_refuses_bad_input():
    left = unit_rows(3)
    with pytest.raises(ValueError, match="row 1 has norm 2"):
        alignment(left * np.array([[1.0], [2.0], [1.0]]), left)
    with pytest.raises(ValueError, match="norm nan"):
        uniformity(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="equal shape"):
        alignment(left, left[:2])
    with pytest.raises(UndefinedScoreError, match="at least one positive"):
        alignment(left[:0], left[:0])
    with pytest.raises(UndefinedScoreError, match="at least two rows"):
        uniformity(left[:1])
    with pytest.raises(ValueError, match="equal shapes"):
        batchwise_geometry(left, left, gold_P=[1.0])


def test_batchwise_geometry_is_the_mean_over_batches():
    left, right = unit_rows(10), unit_rows(10, seed=1)
    gold = np.array([5, 4, 1, 0, 1, 2, 3, 0, 4.5, 4])  # the second batch has no positive and counts as 0
    found = batchwise_geometry(left, right, gold_P=gold, batch_size=4)
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    expected = (alignment(left[:2], right[:2]) + 0.0 + alignment(left[8:], right[8:])) / 3
    assert found.alignment == pytest.approx(expected)
    both = [uniformity(np.concatenate([left[part], right[part]])) for part in parts]
    assert found.uniformity == pytest.approx(np.mean(both))
    assert found.uniformity != pytest.approx(uniformity(np.concatenate([left, right])), abs=1e-4)
