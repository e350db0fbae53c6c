"""What all HTML reports share: templates with escaping on, the cells of a table, and a file replaced as a whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from mcse.report.tables import ScoreTable, best_rows, cell_text, decimals_of


@dataclass(frozen=True, slots=True)
class Cell:
    """A score as it is printed, and whether it is its column's best."""

    text: str
    is_best: bool


def write_page(path: str | Path, *, template: str, content: dict[str, Any]) -> None:
    """Writes the template's page to ``path``, under another name first: a full disk leaves the old report.

    Text is escaped; what is markup already, such as a plot, is a ``Markup``.
    """
    text = render_page(template, content=content)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, target)


def render_page(template: str, *, content: dict[str, Any]) -> str:
    """The template's page; text is escaped, as ``write_page`` says."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mcse.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["table_cells"] = table_cells
    return environment.get_template(template).render(content)


def table_cells(table: ScoreTable) -> list[tuple[str, list[Cell]]]:
    """Each row's name and cells."""
    best = [best_rows(table, column) for column in range(len(table.columns))]
    return [
        (
            row.name,
            [
                Cell(cell_text(values, decimals=decimals_of(table, column)), number in best[column])
                for column, values in enumerate(row.values)
            ],
        )
        for number, row in enumerate(table.rows)
    ]
