"""One column of texts out of anything that holds texts, with what names each row: for work on millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from mcse.data.named_columns import Cells, OpenTable, check_columns, check_header, digest_of_source, open_source
from mcse.data.tables import HEAD_LINES, TABLE_SUFFIXES, check_is_text, ending, find_columns, shown_names, text_cell
from mcse.files import text_lines

TEXT_COLUMNS = ("text", "sentence", "query", "caption")
"""Names of columns that need not be given, in lower case, the best first."""

Id: TypeAlias = str | int
EmptyRows: TypeAlias = Literal["error", "skip"]

MAX_ID = 1000
"""Characters."""


class TextRow(NamedTuple):
    """A text exactly as in its cell, and what names its row."""

    id: Id
    text: str


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Texts that can be read again and again, in memory that does not grow with them.

    Attributes:
        source: The file, folder or dataset.
        column: Where the texts stand; ``None`` of a text file, whose lines they are.
        id_column: What names the rows; ``None`` numbers them from 0, those that are left out included.
        empty_rows: Whether an empty text is refused, or left out.
    """

    source: str
    column: str | None
    id_column: str | None
    empty_rows: EmptyRows
    _read: Callable[[], Iterator[tuple[str, Any, Any]]]

    def digest(self) -> str:
        """Of the whole source as it is now, 64 hexadecimal digits or the hub's own."""
        return digest_of_source(self.source)

    def rows(self) -> Iterator[TextRow]:
        """Its rows, read anew at each call.

        Raises:
            ValueError: A text that is empty, or none; an id that is neither text nor a whole number, or of another kind
                than the first; names row and column.
        """
        return (row for _, row in self._placed())

    def count(self) -> int:
        """How many rows there are, and that each has an id of its own; it takes 8 bytes a row with an id.

        Raises:
            ValueError: As ``rows``; or an id stands there twice, names both rows.
        """
        if self.id_column is None:
            return sum(1 for _ in self.rows())
        hash_N = array("q", (hash(row.id) for row in self.rows()))
        found, times = np.unique(np.frombuffer(hash_N, dtype=np.int64), return_counts=True)
        self._check_distinct(set(found[times > 1].tolist()))
        return len(hash_N)

    def _check_distinct(self, doubled: set[int]) -> None:
        """Looks again at the ids of these hashes, which different ids may share."""
        first: dict[Id, str] = {}
        for where, row in self._placed() if doubled else ():
            if row.id in first:
                raise ValueError(
                    f"{where}, column {self.id_column!r}: the id {row.id!r:.40} stands at {first[row.id]} already; "
                    "without --id-column rows are numbered"
                )
            if hash(row.id) in doubled:
                first[row.id] = where

    def _placed(self) -> Iterator[tuple[str, TextRow]]:
        """Each row, and where it stands."""
        kind: type | None = None
        for number, (where, text, name) in enumerate(self._read()):
            text = text_cell("" if text is None else text, where=f"{where}, column {self.column!r}")
            if not text.strip():
                if self.empty_rows == "skip":
                    continue
                what = "the line" if self.column is None else f"the column {self.column!r}"
                raise ValueError(f"{where}: {what} is empty; --empty-rows skip leaves such rows out")
            if self.id_column is None:
                yield where, TextRow(number, text)
                continue
            _check_id(name, kind, where=f"{where}, column {self.id_column!r}")
            kind = type(name)
            yield where, TextRow(name, text)


def open_text_column(
    name: str,
    *,
    column: str | None = None,
    id_column: str | None = None,
    empty_rows: EmptyRows = "error",
    line_breaks: bool = False,
) -> TextColumn:
    """Finds texts; reads little of them.

    Args:
        name: A text file of one text a line, or a table as ``open_source`` takes it, each also with ``.gz``.
        column: Of the texts, where its name does not say so.
        id_column: What names the rows.
        empty_rows: What becomes of a row without text.
        line_breaks: Whether a quoted cell may hold line breaks.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: There is no such column, no plain one, or a text file looks like a table.
    """
    path, key = Path(name), "--input"
    is_text = path.is_file() and ending(path) not in (*TABLE_SUFFIXES, ".parquet")
    if is_text and column is None and id_column is None:
        check_is_text(path, islice(text_lines(path), HEAD_LINES))
        return TextColumn(str(path), None, None, empty_rows, lambda: _lines(path))
    table = open_source(name, root=Path(), key=key, line_breaks=line_breaks)
    check_header(table)
    found = _plain_column(table) if column is None else column
    check_columns({"--column": found} | ({} if id_column is None else {"--id-column": id_column}), table)
    return TextColumn(table.source, found, id_column, empty_rows, lambda: _cells(table.read, found, id_column))


def _plain_column(table: OpenTable) -> str:
    found = find_columns(table.header, {"text": TEXT_COLUMNS}, where=table.source)
    if not found:
        wanted, there = ", ".join(TEXT_COLUMNS), shown_names(table.header)
        raise ValueError(f"{table.source}: no column is called {wanted} among {there}; name it by --column")
    return found["text"]


def _lines(path: Path) -> Iterator[tuple[str, Any, Any]]:
    return ((f"{path}, line {number}", line, None) for number, line in enumerate(text_lines(path, strip=False), 1))


def _cells(read: Cells, column: str, id_column: str | None) -> Iterator[tuple[str, Any, Any]]:
    names = dict.fromkeys([column] if id_column is None else [column, id_column])
    for where, cells in read(list(names)):
        yield where, cells[0], cells[-1]


def _check_id(name: Any, kind: type | None, *, where: str) -> None:
    if type(name) not in (str, int):
        raise ValueError(f"{where}: an id is text or a whole number, got {'null' if name is None else repr(name):.40}")
    if kind is not None and type(name) is not kind:
        raise ValueError(f"{where}: ids are all text or all whole numbers, as the first is; got {name!r:.40}")
    if isinstance(name, int) and not -(2**63) <= name < 2**63:
        raise ValueError(f"{where}: an id is a number of 64 bits, got {name}")
    if isinstance(name, str) and (not name or len(name) > MAX_ID or "\0" in name):
        raise ValueError(f"{where}: an id has 1 to {MAX_ID} characters and no NUL, got {len(name)}: {name!r:.40}")
