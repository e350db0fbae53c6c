"""The report of an evaluation: what stands in it, that it fetches nothing, and the breakdown that it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mcse.metrics.breakdown import (
    binned_spearman,
)
from mcse.report.evaluation_html import write_evaluation_report
from mcse.report.seed_groups import System, numbered, short_names
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
    assert "Rings: over the clean items" in hostile_report
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
    assert "Rings" not in text


def test_seeds_are_one_system(tmp_path):
    path = tmp_path / "report.html"
    seeds = tuple(model_scores(f"runs/mcse/seed{n}", seed=n, alignment=0.2 + 0.1 * n) for n in range(2))
    curves = [Curve(seed.name, (0, 1), (1.0, 2.0 + n), panel="dev") for n, seed in enumerate(seeds)]
    write_evaluation_report(path, systems=[System("runs/mcse", seeds)], tables=[], curves=curves)
    text = path.read_text(encoding="utf-8")
    assert "2 seeds" in text
    assert "Of several seeds the mean, and every seed as a small dot." in text
    assert "Lines are 95 %" not in text
    assert text.count('<svg class="density"') == 2  # the first seed's two tasks
    assert len(re.findall(r'<svg class="dot".*?</svg>', text)) == 4
    assert len(re.findall(r'<circle cx="[^"]+" cy="8" r="1.7"', text)) == 8  # two tasks, two seeds, clean too
    labels = re.findall(r"<text[^>]*>([^<]*mcse[^<]*)</text>", text)
    assert labels == ["mcse"] * 4  # the legends of geometry, two breakdowns and the curve
    with pytest.raises(ValueError, match="at least one model"):
        numbered([])


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
