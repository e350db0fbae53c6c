"""Alignment and uniformity equal their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.geometry import alignment, batchwise_geometry, uniformity


def unit_rows(count: int, width: int = 5, *, seed: int = 0) -> np.ndarray:
    row = np.random.default_rng(seed).normal(size=(count, width))
    return row / np.linalg.norm(row, axis=1, keepdims=True)


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


def test_uniformity_in_float32_is_the_same_to_1e_6():
    """Also of rows that are nearly alike, where float32 has the fewest digits left."""
    for spread in (1.0, 0.01):
        row = 1.0 + spread * np.random.default_rng(0).normal(size=(1500, 64))
        row = (row / np.linalg.norm(row, axis=1, keepdims=True)).astype(np.float32)
        assert uniformity(row, dtype=np.float32) == pytest.approx(uniformity(row), abs=1e-6)


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
