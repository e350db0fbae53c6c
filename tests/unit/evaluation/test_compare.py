"""Comparison of two models and of two groups of seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from mcse.evaluation.compare import compare, mean_interval
from mcse.evaluation.uncertainty import Replicates, point_score, replicate
from mcse.metrics.significance import group_interval, holm, interval
from mcse.types import ModelScores, Sample, ScoreKey
from tests.fixtures.model_scores import PAIRS, key, make_scores

GOOD, BAD = make_scores("good", noise=0.1), make_scores("bad", noise=0.4)


def by_key(first: list[ModelScores], second: list[ModelScores], *, clean: bool = False) -> dict:
    part = "clean" if clean else None
    return {score.column.key.task: score for score in compare(first, second) if score.column.key.part == part}


def test_two_models_differ_by_their_scores_with_a_paired_interval() -> None:
    found = by_key([GOOD], [BAD])
    assert list(found) == ["A", "B", "average"]
    for task in ("A", "B"):
        score = found[task]
        ours, theirs = (model.all.scores[key(task)] for model in (GOOD, BAD))
        assert (score.first, score.second) == (ours, theirs)
        assert score.difference == pytest.approx(ours - theirs)
        assert score.low < score.difference < score.high
        assert score.p < 0.01
        assert score.items == PAIRS
    assert found["average"].difference == pytest.approx(np.mean([found[task].difference for task in "AB"]))
    assert found["average"].p_holm is None
    assert {task: found[task].p_holm for task in "AB"} == holm({task: found[task].p for task in "AB"})
    back = by_key([BAD], [GOOD])
    assert (back["A"].low, back["A"].high) == pytest.approx((-found["A"].high, -found["A"].low))
    assert by_key([GOOD], [BAD])["A"] == found["A"]  # seeded


def test_pairing_items_makes_the_interval_narrower_than_two_intervals_apart() -> None:
    shifted = make_scores("good", noise=0.1)
    sample = shifted.all.samples[key("A")]
    nearly = dataclasses.replace(sample, value_P=sample.value_P + np.random.default_rng(0).normal(0, 0.01, PAIRS))
    suite = dataclasses.replace(shifted.suites[0], samples={**shifted.suites[0].samples, key("A"): nearly})
    score = by_key([GOOD], [dataclasses.replace(shifted, suites=(suite,))])["A"]
    alone = by_key([GOOD], [make_scores("other", noise=0.1, seed=9)])["A"]
    assert score.high - score.low < 0.5 * (alone.high - alone.low)


def test_the_same_model_twice_does_not_differ() -> None:
    score = by_key([GOOD], [GOOD])["A"]
    assert (score.difference, score.low, score.high, score.p) == (0, 0, 0, 1)


def test_groups_of_seeds_use_the_variance_of_seeds_and_of_pairs() -> None:
    first = [make_scores(f"first/{seed}", noise=0.2, seed=seed) for seed in range(4)]
    second = [make_scores(f"second/{seed}", noise=0.22, seed=seed) for seed in range(3)]
    score = by_key(first, second)["A"]
    values = [[model.all.scores[key("A")] for model in group] for group in (first, second)]
    welch = stats.ttest_ind(*values, equal_var=False).confidence_interval()
    assert score.first == pytest.approx(np.mean(values[0]))
    assert score.high - score.low > welch.high - welch.low
    assert "4 and 3 seeds" in score.test
    assert score.smallest > (score.high - score.low) / 2
    assert "seeds' variance is not in it" in by_key(first, [BAD])["A"].test


def test_clean_rows_leave_out_what_either_has_seen() -> None:
    first = make_scores("first", noise=0.1, seen=[0, 1, 2])
    second = make_scores("second", noise=0.4, seen=[2, 50])
    stranger = make_scores("stranger", noise=0.3)
    score = by_key([first], [second], clean=True)["A"]
    kept = [place for place in range(PAIRS) if place not in (0, 1, 2, 50)]
    sample = first.all.samples[key("A")]
    assert sample.gold_P is not None
    assert score.items == len(kept)
    assert score.first == pytest.approx(100 * stats.spearmanr(sample.value_P[kept], sample.gold_P[kept]).statistic)
    assert by_key([first], [stranger], clean=True)["average"].items == 2 * (PAIRS - 3)
    assert not by_key([stranger], [GOOD], clean=True)


def test_different_data_is_refused() -> None:
    sample = GOOD.all.samples[key("A")]
    for changed, message in (
        (Sample(statistic="spearman", value_P=sample.value_P[:-1], gold_P=sample.value_P[:-1]), "150 and 149 items"),
        (dataclasses.replace(sample, gold_P=sample.value_P), "their gold differs"),
    ):
        suite = dataclasses.replace(GOOD.suites[0], samples={**GOOD.all.samples, key("A"): changed})
        with pytest.raises(ValueError, match=message):
            compare([GOOD], [dataclasses.replace(GOOD, suites=(suite,))])
    with pytest.raises(ValueError, match="share no score"):
        compare([GOOD], [dataclasses.replace(GOOD, suites=())])


def test_chosen_scores_are_compared_alone_and_drawn_as_asked() -> None:
    drawn: list[str] = []

    def draw(sample: Sample, name: ScoreKey) -> Replicates:
        drawn.append(name.task)
        return replicate(sample, name)

    whole = by_key([GOOD], [BAD])
    [found] = compare([GOOD], [BAD], only=[key("B")], draw=draw)
    assert found == dataclasses.replace(whole["B"], p_holm=whole["B"].p)
    assert drawn == ["B", "B"]
    [average] = compare([GOOD], [BAD], only=[key("average")], draw=draw)
    assert average == whole["average"]


def test_the_interval_of_a_mean_is_over_seeds_and_items_and_of_one_model_over_items() -> None:
    column = next(column for column in GOOD.all.columns if column.key == key("average"))
    seeds = [make_scores(str(seed), noise=0.3, seed=seed, seen=[1, seed]) for seed in range(3)]
    for part in (None, "clean"):
        values, draws = [], []
        for model in seeds:
            parts = []
            for task in "AB":
                sample = model.all.samples[key(task)]
                kept_P = np.array([place not in (0, 1, 2) for place in range(PAIRS)])
                parts.append(sample if part is None else dataclasses.replace(sample.part(kept_P), clean_P=None))
            values.append(np.mean([point_score(sample) for sample in parts]))
            draws.append(
                np.mean([replicate(sample, key(task)) for sample, task in zip(parts, "AB", strict=True)], axis=0)
            )
        asked = dataclasses.replace(column, key=dataclasses.replace(column.key, part=part))
        assert mean_interval(seeds, asked) == pytest.approx(group_interval(values, np.mean(draws, axis=0)))
        assert mean_interval(seeds[:1], column) == pytest.approx(
            interval(np.mean([replicate(seeds[0].all.samples[key(task)], key(task)) for task in "AB"], axis=0))
        )
