"""The trigram models of benchmarks/mlm_trigram.py: by the project's own, by sums to one, and by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.mlm_trigram import KneserNey, fit_weights, neighbours, posterior, trigram_probabilities
from mcse.metrics.perplexity import TrigramModel

BASE, EDGE = 13, 12
DRAW = np.random.default_rng(0)
ROWS = [DRAW.zipf(1.5, DRAW.integers(3, 12)) % 12 for _ in range(60)]


def test_probabilities_are_those_of_the_trigram_model() -> None:
    known = TrigramModel(ROWS, size=12)
    u_N, v_N, w_N, *_ = neighbours(ROWS, edge=EDGE)
    found = KneserNey(u_N, v_N, w_N, base=BASE, size=12)
    asked = list(itertools.product([EDGE, 0, 1, 5], [EDGE, 0, 1, 7], range(12)))
    expected = [known.probability(tuple(-1 if p == EDGE else p for p in (a, b)), w) for a, b, w in asked]
    np.testing.assert_allclose(found(*map(np.asarray, zip(*asked, strict=True))), expected, rtol=1e-12)


def test_every_model_is_a_distribution_over_the_pieces_that_can_be_hidden() -> None:
    special = [0, 1]
    for u, v, x, y in ((2, 3, 4, 5), (EDGE, 0, 1, EDGE), (9, 9, 9, 9)):
        asked = np.array([[u, v, w, x, y] for w in range(2, 12)]).T
        found = trigram_probabilities(ROWS, asked, special=special, vocabulary=12, base=BASE)
        assert len(found) == 6
        for name, p_M in found.items():
            assert p_M.min() > 0
            assert p_M.sum() == pytest.approx(1), name


def test_the_posterior_is_the_forward_model_s_over_whole_sentences() -> None:
    model = KneserNey(*neighbours(ROWS, edge=EDGE)[:3], base=BASE, size=12)
    row = ROWS[0]
    padded = [EDGE, EDGE, *row.tolist(), EDGE, EDGE]

    def likelihood(word: int) -> float:
        changed = [*padded[:4], word, *padded[5:-2]]
        return float(np.prod([model(*map(np.asarray, changed[k : k + 3])) for k in range(len(changed) - 2)]))

    every = np.array([likelihood(word) for word in range(12)])
    given = (np.array([value]) for value in padded[2:7])
    assert posterior(model, *given, np.arange(12))[0] == pytest.approx(every[padded[4]] / every.sum())


def test_weights_are_those_of_the_greatest_likelihood() -> None:
    p_KM = np.random.default_rng(1).uniform(0.01, 1, (2, 50))
    weight_K = fit_weights(p_KM, rounds=2000)
    grid = np.linspace(0, 1, 1001)
    best = grid[np.argmax([np.log(g * p_KM[0] + (1 - g) * p_KM[1]).sum() for g in grid])]
    assert weight_K[0] == pytest.approx(best, abs=2e-3)
    assert weight_K.sum() == pytest.approx(1)
