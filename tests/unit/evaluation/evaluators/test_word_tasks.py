"""Predictions on word features as a dev set."""

from __future__ import annotations

import pytest

from mcse.evaluation.evaluators.word_tasks import AccuracyEvaluator, SpanF1Evaluator


def test_evaluators_of_words():
    gold = [("B-A", "O"), ("O", "B-B", "I-B")]
    assert SpanF1Evaluator(gold, lambda: gold, name="dev")()["dev.f1"].value == 100
    missed = [("O", "O"), ("O", "B-B", "I-B")]
    assert SpanF1Evaluator(gold, lambda: missed, name="dev")()["dev.f1"].value == pytest.approx(200 / 3)
    assert AccuracyEvaluator([1, 0, 2, 2], lambda: [1, 1, 2, 2], name="test")()["test.accuracy"].value == 75
    with pytest.raises(ValueError, match="no sentences"):
        AccuracyEvaluator([], lambda: [], name="dev")
