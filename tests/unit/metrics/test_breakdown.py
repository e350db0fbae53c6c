"""Rank correlation by length and by overlap equals its definition."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from mcse.metrics.breakdown import (
    binned_spearman,
    first_places,
    mean_length,
    quartile_edges,
    spearman_error,
    word_overlap,
)
from mcse.metrics.correlation import UndefinedScoreError


def test_overlap_and_length_by_hand():
    # {a, man, plays} and {a, man, sings, well}: two shared of five.
    assert word_overlap("A man plays.", "a MAN sings well") == pytest.approx(2 / 5)
    assert word_overlap("don’t go", "go don’t") == 1.0
    assert word_overlap("...", "") == 1.0
    assert word_overlap("cat", "") == 0.0
    assert mean_length("A man plays.", "a MAN sings well") == 3.5


def test_quartiles():
    assert quartile_edges(range(1, 9)).tolist() == [2, 4, 6]
    assert quartile_edges([1, 1, 1, 1, 1, 9]).tolist() == [1]
    assert quartile_edges([3, 3]).tolist() == []
    with pytest.raises(UndefinedScoreError, match="at least one value"):
        quartile_edges([])


def test_first_places():
    assert first_places([("a", "b"), ("b", "a"), ("a", "b")]).tolist() == [True, True, False]


def test_binned_spearman_equals_the_definition():
    generator = np.random.default_rng(0)
    task_P = np.repeat([0, 1, 2], [80, 40, 9])  # nine are too few
    gold_P = generator.normal(size=129) + 10 * task_P  # another scale a task
    value_P = gold_P - 10 * task_P + generator.normal(size=129)
    by_P = generator.permutation(129).astype(float)
    edges = quartile_edges(by_P)
    found = binned_spearman(value_P, gold_P, task_P=task_P, by_P=by_P, edges=edges)
    assert len(found) == 4
    for bin_score, (low, high) in zip(found, pairwise([-math.inf, *edges, math.inf]), strict=True):
        total, count = 0.0, 0
        for task in (0, 1):
            here = [n for n in range(129) if task_P[n] == task and low < by_P[n] <= high]
            if len(here) >= 10:
                total += len(here) * stats.spearmanr(value_P[here], gold_P[here]).statistic
                count += len(here)
        assert bin_score.score == pytest.approx(100 * total / count)
        assert bin_score.pairs == count
        assert low < bin_score.smallest <= bin_score.largest <= high
        assert bin_score.error > 0


def test_bins_without_a_score_have_none():
    constant = binned_spearman(np.arange(12.0), np.ones(12), task_P=np.zeros(12), by_P=np.arange(12.0), edges=[20.0])
    assert [one.score for one in constant] == [None, None]
    assert [one.pairs for one in constant] == [0, 0]
    assert math.isnan(constant[1].smallest)
    with pytest.raises(ValueError, match=r"one length, got \(2,\), \(2,\), \(1,\), \(2,\)"):
        binned_spearman([1, 2], [1, 2], task_P=[0], by_P=[1, 2], edges=[])


def test_the_standard_error_covers_what_samples_show():
    generator = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        x_P = generator.normal(size=100)
        draws.append(stats.spearmanr(x_P, 0.7 * x_P + generator.normal(size=100) * math.sqrt(0.51)).statistic)
    assert spearman_error(float(np.mean(draws)), 100) == pytest.approx(np.std(draws), rel=0.12)
