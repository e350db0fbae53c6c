"""Lists of pairs: those that models misjudge most, and those that stand in the training text."""

from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

from mcse.evaluation.seen_text import contaminated_pairs
from mcse.evaluation.worst_pairs import worst_pairs
from tests.fixtures.model_scores import PAIRS, key, make_scores

GOOD, BAD = make_scores("good", noise=0.1), make_scores("bad", noise=0.4)


def test_worst_pairs_of_one_and_of_two() -> None:
    sample = GOOD.all.samples[key("A")]
    assert sample.gold_P is not None
    worst = worst_pairs([BAD], number=5)
    assert [pair.errors for pair in worst] == sorted((pair.errors for pair in worst), reverse=True)
    sides = worst_pairs([GOOD, BAD], number=3)
    assert len(sides) == 3
    gaps = [abs(pair.errors[0] - pair.errors[1]) for pair in sides]
    assert gaps == sorted(gaps, reverse=True)
    place = int(sides[0].sentence1.rsplit(" ", 1)[1])
    for model, cosine, error in zip((GOOD, BAD), sides[0].cosines, sides[0].errors, strict=True):
        sample = model.all.samples[key(sides[0].task)]
        assert sample.gold_P is not None
        assert cosine == sample.value_P[place]
        ranks = stats.rankdata(sample.value_P)[place], stats.rankdata(sample.gold_P)[place]
        assert error == pytest.approx(100 * abs(ranks[0] - ranks[1]) / PAIRS)
    with pytest.raises(ValueError, match="one model or of two"):
        worst_pairs([GOOD, BAD, GOOD], number=1)
    with pytest.raises(ValueError, match="needs scored or labelled pairs"):
        worst_pairs([dataclasses.replace(GOOD, suites=())], number=1)


def test_contaminated_pairs_are_listed() -> None:
    found = contaminated_pairs(make_scores("model", noise=0.1, seen=[4, 7]))
    assert [(pair["task"], pair["sentence1"]) for pair in found] == [
        (task, f"{task} left {n}") for task in "AB" for n in (4, 7)
    ]
    assert not contaminated_pairs(GOOD)
