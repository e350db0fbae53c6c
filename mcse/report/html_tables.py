"""Tables as HTML without a page around them: what a notebook shows of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mcse.errors import printable
from mcse.report.tables import ScoreTable, table_cells


def html_table(table: ScoreTable) -> str:
    """The table with each column's best in bold, its title above and its caption below."""
    rows = [
        (name, [f"<b>{_text(cell.text)}</b>" if cell.is_best else _text(cell.text) for cell in cells])
        for name, cells in table_cells(table)
    ]
    title = f"<p><b>{_text(table.title)}</b></p>" if table.title else ""
    whole = _table([column.label for column in table.columns], rows)
    return title + whole + html_notes([table.caption] if table.caption else [])


def html_rows(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of plain texts, each row with its name."""
    return _table(headings, [(name, [_text(printable(cell)) for cell in cells]) for name, cells in rows])


def html_notes(notes: Iterable[str]) -> str:
    """Lines in small letters."""
    return "".join(f"<p><small>{_text(printable(note))}</small></p>" for note in notes)


def _text(text: str) -> str:
    """A text between tags."""
    return escape(text, quote=False)


def _table(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """``rows`` have cells that are HTML already."""
    head = "".join(f"<th>{_text(printable(heading))}</th>" for heading in headings)
    body = "".join(
        f"<tr><th>{_text(printable(name))}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
