"""Tables, the HTML report, and ``evaluate.py`` from the command line to the files."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from mcse.report.demo_page import write_demo_report
from mcse.report.latex import latex_table
from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.plots import plot_curves, plot_seeds
from mcse.report.tables import (
    Caption,
    Curve,
    Gallery,
    ScoreColumn,
    ScoreRow,
    ScoreTable,
    cell_text,
    table_cells,
)
from mcse.report.terminal import print_table
from tests.fixtures.tiny_models import build_tiny_bert

TABLE = ScoreTable(
    title="Scores",
    columns=(ScoreColumn("STS-B"), ScoreColumn("alignment", higher_is_better=False), ScoreColumn("rsum")),
    rows=(
        ScoreRow("SimCSE", ((70.0, 72.0, 74.0), (0.2,), ())),
        ScoreRow("MCSE | ours", ((79.004,), (0.25,), (12.0,))),
        ScoreRow("MCSE <shuffled>", ((79.001,), (0.2,), ())),
    ),
    caption="Test images are unseen.",
)


def test_cells_are_mean_and_sample_deviation():
    assert cell_text((70.0, 72.0, 74.0), decimals=2) == "72.00 ± 2.00"  # sample, not population (1.63)
    assert cell_text((77.145,), decimals=1) == "77.1"
    assert cell_text((), decimals=2) == "–"


def test_best_rows_follow_the_direction_and_share_ties():
    best = [[cell.is_best for cell in cells] for _, cells in table_cells(TABLE)]
    first, second, third = zip(*best, strict=True)
    assert first == (False, True, True)  # equal as printed
    assert second == (True, False, True)  # lower is better
    assert not any(third)  # one system alone wins nothing


def test_a_probability_is_never_printed_as_zero():
    table = ScoreTable(
        title="",
        columns=(ScoreColumn("p", decimals=3, is_probability=True), ScoreColumn("diff.", decimals=3)),
        rows=(ScoreRow("a", ((0.0004,), (0.0004,))), ScoreRow("b", ((0.0006,), (0.0,)))),
        is_contest=False,
    )
    assert [[cell.text for cell in cells] for _, cells in table_cells(table)] == [
        ["< 0.001", "0.000"],
        ["0.001", "0.000"],
    ]
    assert r"a & $<$ 0.001 & 0.000" in latex_table(table)


def test_table_refuses_rows_of_the_wrong_length():
    with pytest.raises(ValueError, match="row 'x' has 1 cells for 2 columns"):
        ScoreTable(title="", columns=(ScoreColumn("a"), ScoreColumn("b")), rows=(ScoreRow("x", ((1.0,),)),))
    with pytest.raises(ValueError, match="curve 'x' has 2 steps and 1 values"):
        Curve("x", (1, 2), (1.0,))


def test_markdown_table():
    assert markdown_table(TABLE) == (
        "## Scores\n\n"
        "|  | STS-B | alignment | rsum |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| SimCSE | 72.00 ± 2.00 | **0.20** | – |\n"
        "| MCSE \\| ours | **79.00** | 0.25 | 12.00 |\n"
        "| MCSE <shuffled> | **79.00** | **0.20** | – |\n\n"
        "Test images are unseen.\n"
    )
    row = ScoreRow("this model", ((70.0,), (75.25,)))
    card = ScoreTable(title="STS", columns=(ScoreColumn("STS12"), ScoreColumn("Avg.")), rows=(row,))
    assert markdown_table(card, with_title=False).splitlines()[2] == "| this model | 70.00 | 75.25 |"
    assert markdown_notes("Missing", []) == ""
    assert markdown_notes("Missing", ["a", "b"]) == "## Missing\n\n- a\n- b\n"


@pytest.mark.parametrize("width", [100, 50])
def test_terminal_table_shows_every_number_at_any_width(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    print_table(TABLE, notes=["STS13: absent"], console=console)
    text = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for number in ("72.00 ±", " 2.00", "79.00", "0.25", "12.00"):
        assert number in plain
    assert "STS13: absent" in plain
    assert re.search(r"\x1b\[1;32m *79\.00", text)  # bold
    assert not re.search(r"\x1b\[1;32m *72\.00", text)
    assert max(map(len, plain.splitlines())) <= width


def curves() -> list[Curve]:
    return [Curve(name, (0, 5, 10), (1.0, 2.0 + seed, 3.0)) for name in ("SimCSE", "MCSE") for seed in range(2)]


def test_plots_are_svg_in_the_pages_colours():
    for svg in (plot_curves(curves()), plot_seeds(TABLE)):
        ElementTree.fromstring(svg)
        assert "var(--series-1)" in svg
        assert "var(--series-2)" in svg
        assert not re.search(r"#0[0-9a-f]{5}\b", svg)  # no stand-in is left
    assert "SimCSE" in plot_curves(curves())  # text stays text
    assert plot_curves(curves()) == plot_curves(curves())
    with pytest.raises(ValueError, match="one panel"):
        plot_curves([Curve("a", (1,), (1.0,)), Curve("a", (1,), (1.0,), panel="loss")])


class Links(HTMLParser):
    """Everything a page would fetch, and the tags it left open."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def png() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(target, "PNG")
    return target.getvalue()


def test_demo_report_is_one_file_with_everything_in_it(tmp_path):
    captions = {
        "SimCSE": [Caption("a <b>red</b> dot", is_right=False)],
        "MCSE": [Caption("a crimson dot", is_right=True)],
    }
    gallery = Gallery("Image 1", png(), captions)
    path = tmp_path / "new" / "report.html"
    write_demo_report(path, table=TABLE, curves=curves(), galleries=[gallery], notes=["Took 8 & a half minutes."])
    text = path.read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert not page.open
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for part in ("72.00 ± 2.00", "MCSE &lt;shuffled&gt;", "a &lt;b&gt;red&lt;/b&gt; dot", "8 &amp; a half", "✗ wrong"):
        assert part in text
    assert '<td data-label="STS-B" class="best">79.00</td>' in text
    assert "prefers-color-scheme: dark" in text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_demo_report_refuses_other_images_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="gallery 'Image 1': the image is not a PNG"):
        write_demo_report(path, table=TABLE, galleries=[Gallery("Image 1", b"\xff\xd8jpeg", {})])
    assert path.read_text() == "old"


def test_demo_report_without_curves_and_galleries(tmp_path):
    write_demo_report(tmp_path / "report.html", table=TABLE)
    assert "nearest captions" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evaluate(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate", repository / "evaluate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    texts = ["a man plays guitar", "a dog runs", "the red square is left of the blue circle"]
    return build_tiny_bert(folder / "one", texts=texts), build_tiny_bert(folder / "two", texts=texts, seed=1)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.tsv"
    path.write_text("5\ta man\ta man plays\n1\ta dog\tthe circle\n3\ta red dog\ta dog runs\n0\tthe square\ta guitar\n")
    return path


def test_evaluate_one_model(evaluate, encoders, pairs, capsys):
    arguments = [str(encoders[0]), "--pooling", "mean", "--data", str(pairs), "--output", "out"]
    assert evaluate.main(arguments) == 0
    found = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["model"], found["pooling"]) == (1, str(encoders[0]), "mean")
    scores = found["scores"]["sts"]["mine"]
    assert scores["pairs"] == 4
    assert -100 <= scores["spearman"] <= 100
    assert found["protocols"]["sts.mine"]
    assert f"{scores['spearman']:.2f}" in capsys.readouterr().out
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert f"{scores['spearman']:.2f}" in report
    assert "**" not in report  # ways to aggregate are not rivals


def test_evaluate_puts_reports_where_agreed(evaluate, encoders, pairs, tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "best").symlink_to(encoders[0])
    assert evaluate.main([str(encoders[0]), "--pooling", "cls", "--data", str(pairs)]) == 0
    (digest,) = Path("evaluation").iterdir()
    assert (digest / "results.json").is_file()
    assert evaluate._output_folder(str(run), evaluate._parse([str(run)])) == run / "evaluation"


def test_evaluate_several_models_and_one_that_fails(evaluate, encoders, pairs, tmp_path, capsys):
    broken = tmp_path / "nothing here"
    models = [str(encoders[0]), str(broken), str(encoders[1])]
    assert evaluate.main([*models, "--pooling", "mean", "--data", str(pairs), "--output", "out"]) == 2
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if line.startswith("evaluate.py: error:")]
    assert len(errors) == 1
    assert "nothing here" in errors[0]
    assert "Traceback" not in output.err
    compared = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))["models"]
    assert [entry["model"] for entry in compared] == [models[0], models[2]]
    assert len(list(Path("out").glob("*/results.json"))) == 2
    values = [entry["scores"]["sts"]["mine"]["spearman"] for entry in compared]
    best = f"{max(values):.2f}"
    assert f"**{best}**" in Path("out/comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--data", "nowhere"], "neither a folder nor a file at nowhere"),
        (["x", "--data", "mine.tsv", "--batch-size", "0"], "--batch-size must be positive, got 0"),
        (["x", "--data", "bad.tsv"], "bad.tsv, line 1: score 'x' is not a finite number"),
    ],
)
def test_evaluate_says_what_is_wrong_in_one_line(evaluate, pairs, capsys, arguments, message):
    Path("bad.tsv").write_text("x\ta\tb\n")
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert message in error


def test_evaluate_refuses_processes_that_do_not_know_each_other(evaluate, pairs, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate.main(["x", "--data", str(pairs)]) == 2
    assert "started 2 processes" in capsys.readouterr().err


def test_evaluate_list_names_suites_and_whether_data_is_there(evaluate, pairs, capsys):
    assert evaluate.main(["--list", "--data", str(pairs)]) == 0
    assert re.search(r"sts\n  needs .*\n  there: 1 tasks, 4 pairs", capsys.readouterr().out)
    assert evaluate.main(["--list", "--data", "nowhere"]) == 0
    assert "not there: --data" in capsys.readouterr().out


def test_evaluate_command_line_errors(evaluate, capsys):
    for arguments, message in (([], "give at least one MODEL"), (["a", "a"], "given twice")):
        with pytest.raises(SystemExit):
            evaluate.main(arguments)
        assert message in capsys.readouterr().err
