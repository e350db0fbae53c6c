"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcse.errors import printable
from mcse.report.tables import Cell, ScoreTable, table_cells

_ENDLESS = 10_000
"""Characters of a line."""
_NAME = 12
"""Characters that a system's name gets at least, where columns take turns."""
_GAP = 2
"""Characters between two columns."""


def print_table(table: ScoreTable, *, notes: Sequence[str] = (), console: Console | None = None) -> None:
    """Prints systems by scores with each column's best in bold, and ``notes`` below. No number is ever cut.

    A table too wide for the terminal gets a line for every score instead, if it has more scores than systems; if that
    is too wide as well, its columns are printed in several parts. Long names are folded.
    """
    console = console or Console()
    for grid in _grids(table, console.width):
        console.print(grid)
    for note in (table.caption, *notes):
        if note:
            console.print(Text(printable(note), style="dim"))


def _grids(table: ScoreTable, width: int) -> list[Table]:
    rows = table_cells(table)
    cells = [[cells[column].text for _, cells in rows] for column in range(len(table.columns))]
    labels = [column.label for column in table.columns]
    widths = [max(map(cell_len, [label, *below])) for label, below in zip(labels, cells, strict=True)]
    names = max((cell_len(name) for name, _ in rows), default=0)
    if _total([names, *widths]) <= width:
        return [_upright(table)]
    label_width = max(map(cell_len, labels), default=0)
    narrowest = [max(map(cell_len, texts)) for texts in zip(*cells, strict=True)]
    if len(labels) > len(rows) and _total([label_width, *narrowest]) <= width:
        return [_transposed(table, narrowest)]
    # As much as is left beside all columns, or a part of the line, or what is left beside the widest.
    left = width - _total([0, *widths])
    names = min(names, left if left >= _NAME else max(_NAME, min(2 * width // 5, width - _total([0, max(widths)]))))
    return [_upright(part, names=names) for part in _parts(table, widths, room=width - _total([names]))]


def _parts(table: ScoreTable, widths: Sequence[int], *, room: int) -> Iterator[ScoreTable]:
    """The table in parts of so many columns as have room beside the names; each has one at least."""
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and sum(widths[start : stop + 1]) + _GAP * (stop + 1 - start) <= room:
            stop += 1
        rows = tuple(replace(row, values=row.values[start:stop]) for row in table.rows)
        yield replace(table, title="" if start else table.title, columns=table.columns[start:stop], rows=rows)
        start = stop


def _total(widths: Sequence[int]) -> int:
    """The width of a grid whose columns have such widths."""
    return sum(widths) + _GAP * (len(widths) - 1) + 2


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console | None = None) -> None:
    """Prints rows of text under headings: the last column to the left and never cut, the others to the right.

    In a pipe every row is one line, however long.
    """
    grid = _grid("")
    for heading in headings[:-1]:
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column(headings[-1], overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console = console or Console()
    (console if console.is_terminal else Console(file=console.file, width=_ENDLESS)).print(grid)


def _upright(table: ScoreTable, *, names: int | None = None) -> Table:
    grid = _grid(table.title)
    grid.add_column("", overflow="fold", width=names)
    rows = table_cells(table)
    for column, heading in enumerate(table.columns):
        widest = max((cell_len(cells[column].text) for _, cells in rows), default=0)
        grid.add_column(Text(heading.label), justify="right", overflow="fold", min_width=widest)
    for name, cells in rows:
        grid.add_row(Text(name), *map(_styled, cells))
    return grid


def _transposed(table: ScoreTable, widths: Sequence[int]) -> Table:
    """With columns of these widths at least."""
    grid = _grid(table.title)
    grid.add_column("", no_wrap=True)
    for row, width in zip(table.rows, widths, strict=True):
        grid.add_column(Text(row.name), justify="right", overflow="fold", min_width=width)
    rows = table_cells(table)
    for column, heading in enumerate(table.columns):
        grid.add_row(Text(heading.label), *(_styled(cells[column]) for _, cells in rows))
    return grid


def _grid(title: str) -> Table:
    return Table(
        title=Text(title, style="table.title") if title else None,  # a text alone would be read as markup
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _styled(cell: Cell) -> Text:
    return Text(cell.text, style="bold green" if cell.is_best else "")
