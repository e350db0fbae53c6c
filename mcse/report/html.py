"""The demo's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from mcse.report.plots import plot_curves, plot_seeds
from mcse.report.tables import Curve, Gallery, ScoreTable, best_rows, cell_text

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    is_best: bool


def write_demo_report(
    path: str | Path,
    *,
    table: ScoreTable,
    curves: Sequence[Curve] = (),
    galleries: Sequence[Gallery] = (),
    notes: Sequence[str] = (),
) -> None:
    """Writes the table, every seed as a dot, the curves (a plot for each panel) and the galleries to ``path``.

    Raises:
        ValueError: A gallery's image is not a PNG.
    """
    for gallery in galleries:
        if not gallery.image.startswith(_PNG):
            raise ValueError(f"gallery {gallery.title!r}: the image is not a PNG")
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    # Links and scripts would break the promise of one file, so text is escaped and plots alone are markup.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mcse.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("demo.html.j2").render(
        table=table,
        cells=_cells(table),
        has_seeds=any(len(values) > 1 for row in table.rows for values in row.values),
        seeds_plot=Markup(plot_seeds(table)) if table.rows and table.columns else "",
        curve_plots=[(panel, Markup(plot_curves([c for c in curves if c.panel == panel]))) for panel in panels],
        galleries=[(gallery, base64.b64encode(gallery.image).decode()) for gallery in galleries],
        notes=notes,
    )
    _replace(Path(path), text)


def _cells(table: ScoreTable) -> list[tuple[str, list[_Cell]]]:
    best = [best_rows(table, column) for column in range(len(table.columns))]
    return [
        (
            row.name,
            [
                _Cell(cell_text(values, decimals=table.decimals), number in best[column])
                for column, values in enumerate(row.values)
            ],
        )
        for number, row in enumerate(table.rows)
    ]


def _replace(path: Path, text: str) -> None:
    """Written under another name first: a full disk leaves the old report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
