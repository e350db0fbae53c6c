"""The demo's report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from mcse.report.page import write_page
from mcse.report.plots import plot_curves, plot_seeds
from mcse.report.tables import Curve, Gallery, ScoreTable

_PNG = b"\x89PNG\r\n\x1a\n"


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
    content = {
        "table": table,
        "has_seeds": any(len(values) > 1 for row in table.rows for values in row.values),
        "seeds_plot": Markup(plot_seeds(table)) if table.rows and table.columns else "",
        "curve_plots": [(panel, Markup(plot_curves([c for c in curves if c.panel == panel]))) for panel in panels],
        "galleries": [(gallery, base64.b64encode(gallery.image).decode()) for gallery in galleries],
        "notes": notes,
    }
    write_page(path, template="demo.html.j2", content=content)
