"""Tables in Markdown: for a report file, and for the model card of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from mcse.report.tables import ScoreTable, table_cells


def markdown_table(table: ScoreTable, *, with_title: bool = True) -> str:
    """The table as papers print it, each column's best in bold, with its title above and its caption below."""
    lines = [f"## {table.title}", ""] if with_title and table.title else []
    heading = ["", *(_escaped(column.label) for column in table.columns)]
    rows = [
        [_escaped(name), *(f"**{cell.text}**" if cell.is_best else cell.text for cell in cells)]
        for name, cells in table_cells(table)
    ]
    rule = ["---", *["---:"] * len(table.columns)]
    lines += [f"| {' | '.join(cells)} |" for cells in (heading, rule, *rows)]
    if table.caption:
        lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def markdown_notes(title: str, notes: Sequence[str]) -> str:
    """A heading and a list, or nothing where there are no notes."""
    return "\n".join([f"## {title}", "", *(f"- {note}" for note in notes)]) + "\n" if notes else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
