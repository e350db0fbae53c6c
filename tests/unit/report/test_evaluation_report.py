"""The report of an evaluation: what stands in it, that it fetches nothing, and the breakdown that it shows."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

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
from mcse.report.evaluation_html import write_evaluation_report
from mcse.report.plots import Point, Profile, plot_points, plot_profiles
from mcse.report.seed_groups import System, numbered, short_names
from mcse.report.svg import Scale, pair_density, score_bar
from mcse.report.tables import Curve, ScoreColumn, ScoreRow, ScoreTable
from mcse.types import Column, ModelScores, PairList, Sample, ScoreKey, SuiteScores, keyed_scores

HOSTILE = "runs/<script>alert(1)</script>\"'&$x_{$ --> ]]>"


def sts_suite(*, tasks: tuple[str, ...], pairs: int, seed: int, is_clean: bool) -> SuiteScores:
    generator = np.random.default_rng(seed)
    samples, lists, scores = {}, {}, {"sts_domains.captions.spearman": 66.6}
    scores |= {"sts_domains.captions.spearman_low": 60.0, "sts_domains.captions.spearman_high": 70.0}
    for task in tasks:
        gold_P = np.round(generator.uniform(0, 5, pairs), 1)
        samples[ScoreKey("sts", task, "spearman")] = Sample(
            statistic="spearman", value_P=gold_P / 5 + generator.normal(0, 0.2, pairs), gold_P=gold_P
        )
        lengths = generator.integers(1, 12, pairs)
        lists[ScoreKey("sts", task, "spearman")] = PairList(
            sentence1=tuple(f"{task} {place} " + "a b c d e f g h i j k l"[: 2 * n] for place, n in enumerate(lengths)),
            sentence2=tuple(f"{task} {place} a b c" for place in range(pairs)),
        )
        scores |= {f"sts.{task}.spearman": 71.5, f"sts.{task}.spearman_low": 70.25, f"sts.{task}.spearman_high": 73.0}
        scores |= {f"sts_clean.{task}.spearman": 68.25, f"sts_clean.{task}.pairs": 9} if is_clean else {}
    return SuiteScores(
        scores={ScoreKey.parse(name): value for name, value in scores.items()},
        protocols={f"sts.{task}": "all pairs together" for task in tasks},
        columns=tuple(Column(label=task, key=ScoreKey("sts", task, "spearman")) for task in tasks),
        absent={"average": "no average: six tasks are missing"},
        samples=samples,
        pairs=lists,
    )


def geometry_suite(alignment: float) -> SuiteScores:
    return SuiteScores(
        scores=keyed_scores("geometry", {"STSBenchmark": {"alignment": alignment, "uniformity": -2.5}}),
        protocols={},
        columns=(Column(label="alignment", key=ScoreKey("geometry", "STSBenchmark", "alignment")),),
    )


def transfer_suite() -> SuiteScores:
    return SuiteScores(
        scores=keyed_scores("transfer", {"MR": {"accuracy": 80.0}}),
        protocols={},
        columns=(Column(label="MR", key=ScoreKey("transfer", "MR", "accuracy")),),
    )


def model_scores(
    model: str,
    *,
    tasks: tuple[str, ...] = ("STS12", "STSBenchmark"),
    pairs: int = 60,
    seed: int = 0,
    is_clean: bool = True,
    alignment: float | None = 0.2,
) -> ModelScores:
    suites = [sts_suite(tasks=tasks, pairs=pairs, seed=seed, is_clean=is_clean)]
    if alignment is not None:
        suites.append(geometry_suite(alignment))
    return ModelScores(name=model, pooling="cls", suites=tuple(suites), notes=("reads <b>256</b> tokens",))


def alone(model: ModelScores) -> System:
    return System(model.name, (model,))


def table(*names: str) -> ScoreTable:
    rows = tuple(ScoreRow(name, ((70.0,),)) for name in names)
    return ScoreTable(title="Scores", columns=(ScoreColumn("STS12"),), rows=rows)


class Page(HTMLParser):
    """Headings, tags, everything that would be fetched, and the tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data") and value]
        assert not [key for key, _ in attrs if key.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    systems = [alone(model_scores(HOSTILE)), alone(model_scores("_hidden\x00", seed=1, is_clean=False, alignment=0.3))]
    curve = Curve(HOSTILE, (0, 10), (1.0, 2.0), panel="$loss_{$")
    write_evaluation_report(path, systems=systems, tables=[table(HOSTILE, "b")], curves=[curve], notes=["a & <i>b</i>"])
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_fetches_nothing(hostile_report):
    page = Page(hostile_report)
    assert not {"script", "a", "link", "iframe", "img", "base", "form"} & set(page.tags)
    assert page.sources
    assert all(source.startswith("#") for source in page.sources)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", hostile_report))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert not re.search(r"@import|url\((?!#)", hostile_report)
    assert "default-src 'none'" in hostile_report
    assert "prefers-color-scheme: dark" in hostile_report
    assert not re.search(r"#0[0-9a-f]{5}\b", hostile_report)  # no stand-in of a plot is left


def test_hostile_names_are_text(hostile_report):
    assert "<script" not in hostile_report
    assert "<b>256" not in hostile_report
    assert "a &amp; &lt;i&gt;b&lt;/i&gt;" in hostile_report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile_report
    assert "$loss_{$" in hostile_report
    (short, hidden) = short_names([HOSTILE, "_hidden\x00"])
    drawn = [element for element in re.findall(r"<svg.*?</svg>", hostile_report, re.DOTALL) if "matplotlib" in element]
    words = " ".join("".join(ElementTree.fromstring(element).itertext()) for element in drawn)
    assert short in words
    assert hidden in words  # a leading underscore would have hidden it from the legend


def test_every_section_is_there(hostile_report):
    assert Page(hostile_report).headings == [
        "Scores",
        "Task by task",
        "Alignment and uniformity",
        "Where the score comes from",
        "Cosine against gold",
        "Learning curves",
        "Missing",
        "Protocols",
    ]
    rows = re.findall(r'<div class="row( clean)?"><span class="name".*?</div>', hostile_report)
    assert rows.count(" clean") == 2  # the first model's two tasks
    assert rows.count("") == 4
    assert hostile_report.count('<svg class="density"') == 4
    assert '<span class="number">68.25</span>' in hostile_report
    assert "Pale: over the clean items" in hostile_report
    assert hostile_report.count("six tasks are missing") == 1  # said of both, once
    assert "sts.STS12, sts.STSBenchmark</dt>" in hostile_report


def test_absent_suites_leave_their_sections_out(tmp_path):
    path = tmp_path / "report.html"
    write_evaluation_report(
        path,
        systems=[alone(ModelScores(name="m", pooling="cls", suites=(transfer_suite(),)))],
        tables=[table("m")],
    )
    text = path.read_text(encoding="utf-8")
    assert Page(text).headings == ["Scores", "Task by task"]
    assert "matplotlib" not in text
    assert "95 %" not in text
    assert "Pale" not in text


def test_seeds_are_one_system(tmp_path):
    path = tmp_path / "report.html"
    seeds = tuple(model_scores(f"runs/mcse/seed{n}", seed=n, alignment=0.2 + 0.1 * n) for n in range(2))
    curves = [Curve(seed.name, (0, 1), (1.0, 2.0 + n), panel="dev") for n, seed in enumerate(seeds)]
    write_evaluation_report(path, systems=[System("runs/mcse", seeds)], tables=[], curves=curves)
    text = path.read_text(encoding="utf-8")
    assert "2 seeds" in text
    assert "Of several seeds the mean, and every seed as a dot." in text
    assert "Lines are 95 %" not in text
    assert text.count('<svg class="density"') == 2  # the first seed's two tasks
    assert len(re.findall(r'<svg class="bar".*?</svg>', text)) == 4
    assert text.count('<circle cx="71.5%"') == 4  # two tasks, two seeds
    labels = re.findall(r"<text[^>]*>([^<]*mcse[^<]*)</text>", text)
    assert labels == ["mcse"] * 4  # the legends of geometry, two breakdowns and the curve
    with pytest.raises(ValueError, match="at least one model"):
        numbered([])


def test_size_of_the_drawn_pairs():
    generator = np.random.default_rng(0)
    gold_P = generator.uniform(0, 5, 10_000)
    scale = {"cosines": Scale(-1, 1), "golds": Scale(0, 5), "series": 0}
    # Spread over all cells, as no encoder's are: 3 models × 8 tasks of the worst case stay under a megabyte.
    svg = pair_density(generator.uniform(-1, 1, 10_000), gold_P, **scale)
    ElementTree.fromstring(svg)
    assert 3 * 8 * len(svg) < 1_000_000
    few = pair_density(np.array([0.1, 0.5]), np.array([0.0, 5.0]), **scale)
    assert few.count("h0") == 2  # a dot each


def test_cells_count_every_pair_where_it_lies():
    corner = np.repeat([0.0, 1.0], 300)
    svg = pair_density(corner, 5 * corner, cosines=Scale(0, 1), golds=Scale(0, 5), series=1)
    cells = re.findall(r"M(\d+) (\d+)h4v4h-4z", svg)
    assert len(cells) == 2
    (right, top), (left, bottom) = sorted(((int(x), int(y)) for x, y in cells), key=lambda cell: -cell[0])
    assert right > left
    assert top < bottom  # cosine upwards
    assert "var(--series-2)" in svg


def test_bars_start_at_zero_and_show_their_interval():
    bar = score_bar(-25.0, scale=Scale(-100, 100), series=7, interval=(-50.0, 0.0))
    assert '<rect x="37.5%" y="3" width="12.5%"' in bar
    assert '<line x1="25%" x2="50%" y1="8" y2="8"' in bar
    assert "var(--series-2)" in bar
    assert '<rect x="0%" y="3" width="100%"' in score_bar(300.0, scale=Scale(0, 100), series=0)


def test_plots_of_points_and_profiles():
    series = {"a": 0, "b": 1}
    points = plot_points(
        [Point(label="a", x=-2.0, y=0.2, x_interval=(-2.1, -1.9)), Point(label="b", x=-2.5, y=0.3)],
        x_label="x",
        y_label="y",
        series=series,
    )
    profiles = plot_profiles(
        [
            Profile(label="a", values=(70.0, None), reaches=(1.0, None)),
            Profile(label="b", values=(60.0, 65.0), reaches=(None, None)),
        ],
        ticks=("1 – 5", "6 – 9"),
        x_label="x",
        y_label="y",
        series=series,
    )
    for svg in (points, profiles):
        ElementTree.fromstring(svg)
        assert {"var(--series-1)", "var(--series-2)"} <= set(re.findall(r"var\(--series-\d\)", svg))
        assert "metadata" not in svg
    assert "6 – 9" in profiles


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["sentence-transformers/all-MiniLM-L6-v2"], ["all-MiniLM-L6-v2"]),
        (["runs/mcse/seed0"], ["mcse/seed0"]),
        (["runs/mcse", "runs/simcse/"], ["mcse", "simcse"]),
        (["a/x/seed0", "b/x/seed0", "hub/other"], ["a/x/seed0", "b/x/seed0", "other"]),
        (["/", "."], ["model", "."]),
        (["x" * 40, "x" * 41], ["xxxxxxxxxx…xxxxxxxxxxx", "xxxxxxxx…xxxxxxxxx (2)"]),
    ],
)
def test_short_names_are_distinct(names, short):
    assert short_names(names) == short
    assert all(len(name) <= 22 for name in short)


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


def test_a_pair_of_two_tasks_counts_once(tmp_path, monkeypatch):
    """SICK's 4,927 pairs stand in its 9,927 too."""
    shared = model_scores("m", pairs=40, alignment=None)
    first = shared.all.pairs[ScoreKey("sts", "STS12", "spearman")]
    doubled = ModelScores(
        name="m",
        pooling="cls",
        suites=(
            SuiteScores(
                scores={},
                protocols={},
                columns=(),
                samples=shared.all.samples,
                pairs={ScoreKey("sts", task, "spearman"): first for task in ("STS12", "STSBenchmark")},
            ),
        ),
    )
    counted: list[int] = []

    def spy(*lists, **options):
        counted.append(len(lists[0]))
        return binned_spearman(*lists, **options)

    monkeypatch.setattr("mcse.report.evaluation_html.binned_spearman", spy)
    for scores in (shared, doubled):
        write_evaluation_report(tmp_path / "report.html", systems=[alone(scores)], tables=[])
    assert counted == [80, 80, 40, 40]


def test_a_failure_keeps_the_old_report(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="at least one model"):
        write_evaluation_report(path, systems=[], tables=[])
    assert path.read_text() == "old"
