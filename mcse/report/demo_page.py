"""The demo's report: one HTML file that needs nothing beside it, and its tables as Markdown and LaTeX."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mcse.files import write_text
from mcse.report.latex import escaped as latex_escaped
from mcse.report.latex import latex_notes, latex_table
from mcse.report.made import Made, made_latex, made_markdown
from mcse.report.markdown import escaped, markdown_notes, markdown_table
from mcse.report.page import write_page
from mcse.report.plots import plot_curves, plot_seeds
from mcse.report.tables import Curve, Gallery, ScoreTable

_PNG = b"\x89PNG\r\n\x1a\n"
_FINDINGS = "Findings"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """All that the report says.

    Attributes:
        table: Systems by scores. A curve of a row's name has the row's colour.
        about: Lines on what was evaluated.
        notes: What was found.
        curves: Learning curves, a plot for each panel.
        galleries: Images with the captions nearest to them.
        gallery_note: How these were chosen and judged.
        made: How the report came about.
    """

    table: ScoreTable
    about: Sequence[str] = ()
    notes: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    galleries: Sequence[Gallery] = ()
    gallery_note: str = ""
    made: Made | None = None


def write_demo_report(folder: Path, report: DemoReport) -> None:
    """Writes ``report.html``, and without plots and galleries ``report.md`` and ``report.tex``.

    Raises:
        ValueError: A gallery's image is not a PNG.
    """
    for gallery in report.galleries:
        if not gallery.image.startswith(_PNG):
            raise ValueError(f"gallery {gallery.title!r}: the image is not a PNG")
    table = report.table
    series = {row.name: number for number, row in enumerate(table.rows)}
    for curve in report.curves:
        series.setdefault(curve.label, len(series))
    panels = list(dict.fromkeys(curve.panel for curve in report.curves))
    plots = {
        panel: plot_curves([curve for curve in report.curves if curve.panel == panel], series=series)
        for panel in panels
    }
    content = {
        "report": report,
        "has_seeds": any(len(values) > 1 for row in table.rows for values in row.values),
        "seeds_plot": Markup(plot_seeds(table)) if table.rows and table.columns else "",
        "curve_plots": [(panel, Markup(plot)) for panel, plot in plots.items()],
        "galleries": [(gallery, base64.b64encode(gallery.image).decode()) for gallery in report.galleries],
    }
    write_page(folder / "report.html", template="demo.html.j2", content=content)
    paragraphs = [f"{escaped(line)}\n" for line in report.about]
    notes = markdown_notes(_FINDINGS, report.notes)
    write_text(folder / "report.md", _joined([*paragraphs, markdown_table(table), notes, made_markdown(report.made)]))
    paragraphs = [f"{latex_escaped(line)}\n" for line in report.about]
    notes = latex_notes(_FINDINGS, report.notes)
    write_text(folder / "report.tex", _joined([*paragraphs, latex_table(table), notes, made_latex(report.made)]))


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)
