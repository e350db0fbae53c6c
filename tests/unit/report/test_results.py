"""Scores as tables and files: one model, several, and two that are compared."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mcse.evaluation.compare import compare
from mcse.reading import parse_json
from mcse.report.differences import better_side, difference_plots
from mcse.report.evaluation_files import write_comparison
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
from mcse.report.terminal import print_table
from mcse.types import Column, ComparedScore, ModelScores, ScoreKey
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


def test_a_p_below_a_thousandth_is_printed_as_such_in_every_format(tmp_path: Path) -> None:
    """The bootstrap gives no p below 2/1001, Welch's test does; both columns of p, in four formats."""
    groups = [
        System(name, tuple(make_scores(f"{name}/seed{seed}", noise=noise, seed=seed) for seed in range(3)))
        for name, noise in (("good", 0.05), ("bad", 0.8))
    ]
    compared = compare(groups[0].seeds, groups[1].seeds)
    assert all(score.p < 0.0005 for score in compared)
    tables = compared_tables(groups, compared)
    write_comparison(groups, tmp_path, tables=tables, compared=compared)
    printed = io.StringIO()
    for table in tables:
        print_table(table, console=Console(file=printed, width=80))
    numbers = len(compared) + sum(score.p_holm is not None for score in compared)
    for text, word in (
        (printed.getvalue(), "< 0.001"),
        ((tmp_path / "comparison.md").read_text(), "< 0.001"),
        ((tmp_path / "comparison.tex").read_text(), "$<$ 0.001"),
        ((tmp_path / "report.html").read_text(), ">&lt; 0.001</td>"),
    ):
        assert text.count(word) == numbers
        assert not re.search(r"\b0\.000\b", text)


def test_the_forest_has_a_line_a_difference_in_the_colour_of_the_better(tmp_path: Path) -> None:
    first, second = (alone(make_scores(name, noise=noise)) for name, noise in (("good", 0.1), ("bad", 0.6)))
    equal = alone(make_scores("good", noise=0.1))
    (plot,) = difference_plots([first, second], compare(first.seeds, second.seeds))
    assert plot.name == "differences"
    words = re.findall(r"<text[^>]*>([^<]+)</text>", plot.image)
    assert [word for word in words if word in ("A", "B", "average")] == ["A", "B", "average"]
    assert "good is better" in words
    assert "not clear" not in words
    (turned,) = difference_plots([second, first], compare(second.seeds, first.seeds))
    assert "good is better" in turned.image
    assert set(re.findall(r"--series-\d", turned.image)) == {"--series-2"}  # the second's colour
    (none,) = difference_plots([first, equal], compare(first.seeds, equal.seeds))
    assert "not clear" in none.image
    assert not re.findall(r"--series-\d", none.image)


def test_a_difference_where_lower_is_better_has_the_colour_of_the_lower() -> None:
    key = ScoreKey("geometry", "STS-B", "alignment")
    score = ComparedScore(
        column=Column(label="alignment", key=key, higher_is_better=False),
        first=0.1,
        second=0.3,
        difference=-0.2,
        low=-0.3,
        high=-0.1,
        p=0.01,
        p_holm=None,
        smallest=0.1,
        item_sd=0.1,
        first_sd=None,
        second_sd=None,
        test="t",
        items=9,
    )
    assert better_side(score) == 0
    assert better_side(replace(score, difference=0.2, low=0.1, high=0.3)) == 1
    assert better_side(replace(score, low=-0.3, high=0.1)) is None


def test_clean_items_that_are_all_items_are_not_shown_twice() -> None:
    every, some = ([alone(make_scores(name, noise=0.2, seen=seen)) for name in "ab"] for seen in ([], [3, 5]))
    titles = [table.title for table in compared_tables(some, compare(some[0].seeds, some[1].seeds))]
    assert len(titles) == 2
    (table,) = compared_tables(every, compare(every[0].seeds, every[1].seeds))
    assert "none occurs in a known training text" in table.caption
