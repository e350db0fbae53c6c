"""The demo's page: one file with everything in it."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from mcse.report.demo_page import DemoReport, write_demo_report
from mcse.report.made import how_made
from mcse.report.tables import (
    Caption,
    Gallery,
    ScoreColumn,
    ScoreRow,
    ScoreTable,
)
from tests.unit.report.test_plots import curves
from tests.unit.report.test_tables import TABLE


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
        "SimCSE": [Caption("a <b>red</b> dot", alike=0.4)],
        "MCSE": [Caption("a crimson dot", alike=1.0)],
    }
    gallery = Gallery("Image 1", png(), captions)
    report = DemoReport(
        table=TABLE,
        about=["Drawn by 1 & 2."],
        curves=curves(),
        galleries=[gallery],
        gallery_note="From seed 7.",
        notes=["Took 8 & a half minutes."],
        made=how_made([("seed", "7")], command="mcse demo --seeds 1"),
    )
    write_demo_report(tmp_path / "new", report)
    path = tmp_path / "new" / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert not page.open
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for part in (
        "72.00 ± 2.00",
        "MCSE &lt;shuffled&gt;",
        "a &lt;b&gt;red&lt;/b&gt; dot",
        "8 &amp; a half",
        "0.40 alike",
        "From seed 7.",
    ):
        assert part in text
    assert '<td data-label="STS-B" class="best">79.00</td>' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("✓ true") == 1
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.md", "report.tex"]
    markdown, latex = (path.with_suffix(end).read_text(encoding="utf-8") for end in (".md", ".tex"))
    assert r"Drawn by 1 \& 2." in latex
    assert r"72.00$_{\pm 2.00}$" in latex
    assert "Drawn by 1 &amp; 2." in markdown
    for whole in (text, markdown, latex):
        assert "mcse demo" in whole.partition("How this was made")[2]


def test_a_system_has_one_colour_in_every_panel(tmp_path):
    """The table's rows have a system more than the curves: once their colours were shifted by one."""
    rows = tuple(ScoreRow(name, ((1.0, 2.0),)) for name in ("untrained", "SimCSE", "MCSE"))
    table = ScoreTable(title="t", columns=(ScoreColumn("s"),), rows=rows)
    write_demo_report(tmp_path, DemoReport(table=table, curves=curves()))
    seeds, panel = re.findall(r"<svg role.*?</svg>", (tmp_path / "report.html").read_text(encoding="utf-8"), re.S)
    assert set(re.findall(r"--series-\d", seeds)) == {"--series-1", "--series-2", "--series-3"}
    assert set(re.findall(r"--series-\d", panel)) == {"--series-2", "--series-3"}


def test_demo_report_refuses_other_images_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="gallery 'Image 1': the image is not a PNG"):
        write_demo_report(tmp_path, DemoReport(table=TABLE, galleries=[Gallery("Image 1", b"\xff\xd8jpeg", {})]))
    assert path.read_text() == "old"


def test_demo_report_without_curves_and_galleries(tmp_path):
    write_demo_report(tmp_path, DemoReport(table=TABLE))
    assert "nearest captions" not in (tmp_path / "report.html").read_text(encoding="utf-8")
