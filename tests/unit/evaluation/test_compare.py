"""Comparison of two models and of two groups of seeds, kept results, and lists of pairs."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mcse.evaluation import KeptResult, cache_key, compare, load_result, save_result, worst_pairs
from mcse.evaluation.cache import cache_folder
from mcse.evaluation.seen_text import contaminated_pairs
from mcse.metrics.significance import holm
from mcse.types import Sample, Verdict
from tests.fixtures.verdicts import PAIRS, make_verdict

GOOD, BAD = make_verdict("good", noise=0.1), make_verdict("bad", noise=0.4)


def by_key(first: list[Verdict], second: list[Verdict], *, clean: bool = False) -> dict:
    return {score.column.task: score for score in compare(first, second) if score.is_clean == clean}


def test_two_models_differ_by_their_scores_with_a_paired_interval() -> None:
    found = by_key([GOOD], [BAD])
    assert list(found) == ["A", "B", "average"]
    for task in ("A", "B"):
        score = found[task]
        ours, theirs = (verdict.scores["sts"][task]["spearman"] for verdict in (GOOD, BAD))
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
    shifted = make_verdict("good", noise=0.1)
    sample = shifted.samples["sts.A.spearman"]
    nearly = dataclasses.replace(sample, value_P=sample.value_P + np.random.default_rng(0).normal(0, 0.01, PAIRS))
    suite = dataclasses.replace(shifted.suites[0], samples={**shifted.suites[0].samples, "sts.A.spearman": nearly})
    score = by_key([GOOD], [dataclasses.replace(shifted, suites=(suite,))])["A"]
    alone = by_key([GOOD], [make_verdict("other", noise=0.1, seed=9)])["A"]
    assert score.high - score.low < 0.5 * (alone.high - alone.low)


def test_the_same_model_twice_does_not_differ() -> None:
    score = by_key([GOOD], [GOOD])["A"]
    assert (score.difference, score.low, score.high, score.p) == (0, 0, 0, 1)


def test_groups_of_seeds_use_the_variance_of_seeds_and_of_pairs() -> None:
    first = [make_verdict(f"first/{seed}", noise=0.2, seed=seed) for seed in range(4)]
    second = [make_verdict(f"second/{seed}", noise=0.22, seed=seed) for seed in range(3)]
    score = by_key(first, second)["A"]
    values = [[verdict.scores["sts"]["A"]["spearman"] for verdict in group] for group in (first, second)]
    welch = stats.ttest_ind(*values, equal_var=False).confidence_interval()
    assert score.first == pytest.approx(np.mean(values[0]))
    assert score.high - score.low > welch.high - welch.low
    assert "4 and 3 seeds" in score.test
    assert score.smallest > (score.high - score.low) / 2
    assert "seeds' variance is not in it" in by_key(first, [BAD])["A"].test


def test_clean_rows_leave_out_what_either_has_seen() -> None:
    first = make_verdict("first", noise=0.1, seen=[0, 1, 2])
    second = make_verdict("second", noise=0.4, seen=[2, 50])
    stranger = make_verdict("stranger", noise=0.3)
    score = by_key([first], [second], clean=True)["A"]
    kept = [place for place in range(PAIRS) if place not in (0, 1, 2, 50)]
    sample = first.samples["sts.A.spearman"]
    assert sample.gold_P is not None
    assert score.items == len(kept)
    assert score.first == pytest.approx(100 * stats.spearmanr(sample.value_P[kept], sample.gold_P[kept]).statistic)
    assert by_key([first], [stranger], clean=True)["average"].items == 2 * (PAIRS - 3)
    assert not by_key([stranger], [GOOD], clean=True)


def test_different_data_is_refused() -> None:
    sample = GOOD.samples["sts.A.spearman"]
    for changed, message in (
        (Sample(statistic="spearman", value_P=sample.value_P[:-1], gold_P=sample.value_P[:-1]), "150 and 149 items"),
        (dataclasses.replace(sample, gold_P=sample.value_P), "their gold differs"),
    ):
        suite = dataclasses.replace(GOOD.suites[0], samples={**GOOD.samples, "sts.A.spearman": changed})
        with pytest.raises(ValueError, match=message):
            compare([GOOD], [dataclasses.replace(GOOD, suites=(suite,))])
    with pytest.raises(ValueError, match="share no score"):
        compare([GOOD], [dataclasses.replace(GOOD, suites=())])


def test_results_are_kept_and_come_back_the_same(caplog: pytest.LogCaptureFixture) -> None:
    scores = make_verdict("kept", noise=0.2, seen=[3]).suites[0]
    key = cache_key("digest", None, "sts", 1)
    assert load_result(key) is None
    save_result(key, KeptResult(pooling="cls", scores=scores, notes=("covered",)))
    kept = load_result(key)
    assert kept is not None
    assert (kept.pooling, kept.notes) == ("cls", ("covered",))
    for name in ("scores", "protocols", "columns", "subsets", "absent", "means", "pairs"):
        assert str(getattr(kept.scores, name)) == str(getattr(scores, name)), name
    for name, sample in scores.samples.items():
        back = kept.scores.samples[name]
        for part in ("value_P", "gold_P", "clean_P"):
            np.testing.assert_array_equal(getattr(back, part), getattr(sample, part))
        assert back.group_P is None
    assert cache_key("digest", None, "sts", 2) != key
    path = cache_folder() / f"{key}.npz"
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert load_result(key) is None
    assert "damaged and is computed anew" in caplog.text


def test_a_cache_that_cannot_be_written_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.setenv("MCSE_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        save_result("key", KeptResult(pooling="cls", scores=GOOD.suites[0]))
    assert "not kept" in caplog.text


def test_worst_pairs_of_one_and_of_two() -> None:
    sample = GOOD.samples["sts.A.spearman"]
    assert sample.gold_P is not None
    worst = worst_pairs([BAD], number=5)
    assert [pair.errors for pair in worst] == sorted((pair.errors for pair in worst), reverse=True)
    sides = worst_pairs([GOOD, BAD], number=3)
    assert len(sides) == 3
    gaps = [abs(pair.errors[0] - pair.errors[1]) for pair in sides]
    assert gaps == sorted(gaps, reverse=True)
    place = int(sides[0].sentence1.rsplit(" ", 1)[1])
    for verdict, cosine, error in zip((GOOD, BAD), sides[0].cosines, sides[0].errors, strict=True):
        sample = verdict.samples[f"sts.{sides[0].task}.spearman"]
        assert sample.gold_P is not None
        assert cosine == sample.value_P[place]
        ranks = stats.rankdata(sample.value_P)[place], stats.rankdata(sample.gold_P)[place]
        assert error == pytest.approx(100 * abs(ranks[0] - ranks[1]) / PAIRS)
    with pytest.raises(ValueError, match="one model or of two"):
        worst_pairs([GOOD, BAD, GOOD], number=1)
    with pytest.raises(ValueError, match="needs a suite with scored pairs"):
        worst_pairs([dataclasses.replace(GOOD, suites=())], number=1)


def test_contaminated_pairs_are_listed() -> None:
    found = contaminated_pairs(make_verdict("model", noise=0.1, seen=[4, 7]))
    assert [(pair["task"], pair["sentence1"]) for pair in found] == [
        (task, f"{task} left {n}") for task in "AB" for n in (4, 7)
    ]
    assert not contaminated_pairs(GOOD)
