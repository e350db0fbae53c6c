"""Scored pairs as a dev set while training."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy import stats

from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from tests.fixtures.stub_encoders import CROSS, TRIO, FixedEncoder, HashEncoder, make_pairs, plain_cosines


def dev_pairs() -> ScoredPairs:
    pairs = make_pairs(50)
    assert 0 < (pairs.gold > 4).sum() < (pairs.gold >= 4).sum()
    return pairs


def test_dev_evaluator_gives_correlation_alignment_and_uniformity():
    pairs, encoder = dev_pairs(), HashEncoder()
    scores = ScoredPairsEvaluator(pairs, encoder, name="stsb_dev")()
    assert {name: score.higher_is_better for name, score in scores.items()} == {
        "stsb_dev.spearman": True,
        "stsb_dev.alignment": False,
        "stsb_dev.uniformity": False,
    }
    left, right = encoder.encode(pairs.sentence1).astype(float), encoder.encode(pairs.sentence2).astype(float)
    both = np.concatenate([left, right])
    squared = ((left - right) ** 2).sum(1)
    apart = ((both[:, None] - both[None]) ** 2).sum(-1)[np.triu_indices(len(both), 1)]
    expected = 100 * stats.spearmanr(plain_cosines(encoder, pairs), pairs.gold).statistic
    assert scores["stsb_dev.spearman"].value == pytest.approx(expected, abs=1e-4)
    assert scores["stsb_dev.alignment"].value == pytest.approx(squared[pairs.gold > 4].mean(), rel=1e-5)
    assert scores["stsb_dev.uniformity"].value == pytest.approx(np.log(np.exp(-2 * apart).mean()), rel=1e-5)


def test_dev_evaluator_draws_nothing_at_random():
    torch.manual_seed(5)
    np.random.seed(5)
    evaluator = ScoredPairsEvaluator(dev_pairs(), HashEncoder())
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluator()
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_dev_evaluator_leaves_out_what_does_not_exist_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert ScoredPairsEvaluator(TRIO, FixedEncoder({}, default=[1.0, 0.0]), name="dev")() == {}
        assert ScoredPairsEvaluator(TRIO, FixedEncoder({}, default=[np.nan, 0.0]), name="dev")() == {}
        opposite = FixedEncoder(CROSS)
        assert set(ScoredPairsEvaluator(TRIO, opposite, name="dev")()) == {"dev.uniformity"}  # no gold above 4 either
    assert "the same row for all 4 sentences" in caplog.text
    assert "NaN or infinite rows" in caplog.text
    assert "dev.spearman: no score: all 3 scores are 0" in caplog.text
    flat = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ("dev.csv",))
    with pytest.raises(ValueError, match=r"dev\.csv: all gold scores are 1"):
        ScoredPairsEvaluator(flat, HashEncoder())
