"""Tables, plots and the demo's page."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
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
