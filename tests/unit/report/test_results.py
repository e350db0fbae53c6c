"""Scores as tables and files: one model, several, and two that are compared."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

from mcse.evaluation.compare import compare
from mcse.reading import parse_json
from mcse.report.results import (
    EarlierResults,
    compared_tables,
    comparison_json,
    contest_tables,
    model_tables,
    results_json,
)
from mcse.report.seed_groups import System
from mcse.report.tables import ScoreTable, table_cells
from mcse.types import ModelScores, ScoreKey
from tests.fixtures.model_scores import key, make_scores

DOMAIN = ScoreKey("sts_domains", "captions", "spearman")


def with_domain(model: ModelScores, value: float) -> ModelScores:
    (suite,) = model.suites
    scores = {**suite.scores, DOMAIN: value, DOMAIN.ends[0]: value - 1, DOMAIN.ends[1]: value + 1}
    return dataclasses.replace(model, suites=(dataclasses.replace(suite, scores=scores),))


def alone(model: ModelScores) -> System:
    return System(model.name, (model,))


def texts(table: ScoreTable) -> dict[str, list[str]]:
    return {name: [cell.text for cell in cells] for name, cells in table_cells(table)}


def test_a_model_has_its_domains_with_intervals_and_a_contest_side_by_side() -> None:
    first, second = (with_domain(make_scores(name, noise=0.2), value) for name, value in (("a", 66.0), ("b", 77.0)))
    (domains,) = [table for table in model_tables(first) if table.title == "STS by domain"]
    assert texts(domains) == {"a (cls)": ["66.00"], "95 % low": ["65.00"], "95 % high": ["67.00"]}
    (domains,) = [table for table in contest_tables([alone(first), alone(second)]) if table.title == "STS by domain"]
    assert texts(domains) == {"a (cls)": ["66.00"], "b (cls)": ["77.00"]}
    assert [cells[0].is_best for _, cells in table_cells(domains)] == [False, True]
    assert not [table for table in model_tables(make_scores("a", noise=0.2)) if table.title == "STS by domain"]


def test_seeds_are_a_mean_with_the_best_of_them_and_no_intervals() -> None:
    group = System("g", tuple(make_scores(f"g/seed{seed}", noise=0.2, seed=seed) for seed in range(3)))
    rows = texts(contest_tables([group])[0])
    assert list(rows) == ["g (cls, 3 seeds)", f"  best of them: {Path(best_of(group)).name}"]
    found = comparison_json([group], ())["models"][0]
    assert [seed["model"] for seed in found["seeds"]] == ["g/seed0", "g/seed1", "g/seed2"]
    assert found["scores"]["sts"].keys() == found["sd"]["sts"].keys() == {"A", "B", "average"}
    json.dumps(found)


def best_of(group: System) -> str:
    return max(group.seeds, key=lambda seed: seed.all.scores[key("average")]).name


def test_a_comparison_says_whose_training_text_is_unknown() -> None:
    known = alone(make_scores("known", noise=0.1, seen=[0, 1]))
    other = alone(make_scores("other", noise=0.3, seen=[1, 2]))
    unknown = alone(make_scores("unknown", noise=0.3))
    for second, words in (
        (other, "over the items that no training text of either side holds"),
        (unknown, "over the items that no known training text holds (that of unknown is not known)"),
    ):
        compared = compare(known.seeds, second.seeds)
        every, clean = compared_tables([known, second], compared)
        assert every.title.endswith("over all items")
        assert clean.title == f"known (first) − {second.name} (second), {words}"
        scores = comparison_json([known, second], compared)["comparison"]["scores"]
        assert [score["suite"] for score in scores] == ["sts"] * 3 + ["sts_clean"] * 3
        assert [score["task"] for score in scores[:3]] == ["A", "B", "average"]
        assert all(score["metric"] == "spearman" and score["higher_is_better"] for score in scores)
        json.dumps(scores)


def test_a_suite_whose_clean_part_is_unknown_is_said_though_another_is_known() -> None:
    """As where one suite's result was kept from a day on which the training text could be read."""
    known = alone(make_scores("known", noise=0.1, seen=[0, 1]))
    half = make_scores("half", noise=0.3, seen=[1, 2])
    samples = {**half.suites[0].samples, key("B"): replace(half.suites[0].samples[key("B")], clean_P=None)}
    second = alone(replace(half, suites=(replace(half.suites[0], samples=samples),)))
    _, clean = compared_tables([known, second], compare(known.seeds, second.seeds))
    assert clean.title.endswith("over the items that no known training text holds (that of half is not known)")


def test_results_of_the_same_weights_stay_beside_the_new_ones() -> None:
    first, second = make_scores("m", noise=0.2, tasks=("A",)), make_scores("m", noise=0.2, tasks=("B",))
    earlier = results_json(first, digest="d", precision="float32", earlier=None)
    assert earlier["higher_is_better"]["sts.A.spearman"] is True
    kept = parse_json(json.dumps(earlier), EarlierResults, where="results.json")
    both = results_json(second, digest="d", precision="float32", earlier=kept)
    assert both["scores"]["sts"].keys() == {"A", "B", "average"}
    assert both["higher_is_better"].keys() >= {"sts.A.spearman", "sts.B.spearman"}
    for change in ({"digest": "other"}, {"precision": "bfloat16"}, {"digest": ""}):
        options = {"digest": "d", "precision": "float32", **change}
        assert "A" not in results_json(second, earlier=kept, **options)["scores"]["sts"]
