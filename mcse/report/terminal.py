"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcse.errors import printable
from mcse.report.tables import Cell, ScoreTable, table_cells

_ENDLESS = 10_000
"""Characters of a line."""


def print_table(table: ScoreTable, *, notes: Sequence[str] = (), console: Console | None = None) -> None:
    """Prints systems by scores with each column's best in bold, and ``notes`` below.

    A table too wide for the terminal gets a line for every score instead, if it has more scores than systems.
    """
    console = console or Console()
    upright = _upright(table)
    is_wide = console.measure(upright, options=console.options.update(width=_ENDLESS)).maximum > console.width
    console.print(_transposed(table) if is_wide and len(table.columns) > len(table.rows) else upright)
    for note in (table.caption, *notes):
        if note:
            console.print(Text(printable(note), style="dim"))


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


def _upright(table: ScoreTable) -> Table:
    grid = _grid(table.title)
    grid.add_column("", no_wrap=True)
    for heading in table.columns:
        grid.add_column(Text(heading.label), justify="right", no_wrap=True)
    for name, cells in table_cells(table):
        grid.add_row(Text(name), *map(_styled, cells))
    return grid


def _transposed(table: ScoreTable) -> Table:
    grid = _grid(table.title)
    grid.add_column("")
    for row in table.rows:
        grid.add_column(Text(row.name), justify="right", overflow="fold")
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
