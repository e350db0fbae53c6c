"""Tables in Markdown: for a report file, and for the model card of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from mcse.report.tables import ScoreTable, best_rows, cell_text, decimals_of


def markdown_table(table: ScoreTable, *, with_title: bool = True) -> str:
    """The table as papers print it, each column's best in bold, with its title above and its caption below."""
    lines = [f"## {table.title}", ""] if with_title and table.title else []
    lines += _lines(["", *(column.label for column in table.columns)], [_row(table, n) for n in range(len(table.rows))])
    if table.caption:
        lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def markdown_notes(title: str, notes: Sequence[str]) -> str:
    """A heading and a list, or nothing where there are no notes."""
    return "\n".join([f"## {title}", "", *(f"- {note}" for note in notes)]) + "\n" if notes else ""


def _row(table: ScoreTable, number: int) -> list[str]:
    cells = [_escaped(table.rows[number].name)]
    for column, values in enumerate(table.rows[number].values):
        text = cell_text(values, decimals=decimals_of(table, column))
        cells.append(f"**{text}**" if number in best_rows(table, column) else text)
    return cells


def _lines(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in ([_escaped(text) for text in heading], rule, *rows)]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
