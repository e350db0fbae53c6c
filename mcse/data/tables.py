"""Tables by named columns: the one strict reader of rows that people bring.

The file's ending says how cells are parted, and a header out of a known set which column is which: nothing is guessed
from cells. ``.csv`` is quoted (RFC 4180) and parted by commas, or by what parts the names of its header; ``.tsv`` and
``.txt`` are never quoted; ``.jsonl`` has an object a line, whose values may be more than text. All also with ``.gz``.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mcse.files import text_lines
from mcse.reading import parse_json, say_read

logger = logging.getLogger(__name__)

Names: TypeAlias = Mapping[str, Sequence[str]]
"""What a reader wants by its own names for it, and what files call it: in lower case, the best first."""

SCORED_PAIRS: Names = {
    "score": ("score", "similarity", "similarity_score", "relatedness_score", "gold"),
    "sentence1": ("sentence1", "sentence_1", "sentence 1", "sentence_a", "sent1", "text1", "text_a"),
    "sentence2": ("sentence2", "sentence_2", "sentence 2", "sentence_b", "sent2", "text2", "text_b"),
}
SENTENCES: Names = {"sentence": ("text", "sentence")}
TRIPLETS: Names = {
    "query": ("sent0", "anchor", "query", "premise"),
    "positive": ("sent1", "positive", "pos", "entailment"),
    "negative": ("hard_neg", "hard_negative", "negative", "neg", "contradiction"),
}
CAPTIONS: Names = {
    "image": (
        "image",
        "image_name",
        "file_name",
        "filename",
        "image_path",
        "filepath",
        "image_id",
        "img_id",
        "cocoid",
    ),
    "caption": ("caption", "captions", "comment", "text", "raw", "sentence", "sentences", "sentences_raw", "title"),
}

HEAD_LINES = 20
"""Lines that say whether a text is one."""


class Row(NamedTuple):
    """The line that a row begins on, and its cells in the order of what was wanted; one of ``optional`` may be None."""

    line: int
    cells: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose columns have been found.

    ``names`` says what the file calls them, by the reader's names; ``is_headed``, whether it says so itself.
    """

    path: Path
    names: Mapping[str, str]
    _read: Callable[[], Iterator[Row]]
    is_headed: bool = True

    def rows(self) -> Iterator[Row]:
        """Its rows, read anew at each call; blank lines are left out, and counted in the log.

        Raises:
            ValueError: A row of another width, quotation marks that do not close, NUL bytes, no JSON; names the line.
        """
        return self._read()

    def where(self, row: Row) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}, line {row.line}"


@dataclass(frozen=True, slots=True)
class _Dialect:
    delimiter: str
    is_quoted: bool


_COMMA, _SEMICOLON = _Dialect(",", is_quoted=True), _Dialect(";", is_quoted=True)
_TAB, _BAR = _Dialect("\t", is_quoted=False), _Dialect("|", is_quoted=False)
_DIALECTS: Mapping[str, tuple[_Dialect, ...]] = {
    ".csv": (_COMMA, _SEMICOLON, _TAB, _BAR),
    ".tsv": (_TAB,),
    ".txt": (_TAB, _BAR, _COMMA, _SEMICOLON),
}
"""By the file's ending; the first is that of a table without a header, the header may show another."""

_NO_TEXT = (".json", ".parquet", ".arrow", ".xls", ".xlsx", ".bz2", ".xz", ".zst", ".zip", ".tar")
_BESIDE = {"", "id", "idx", "index", "pair_id", "label", "labels", "hypothesis", "split", "number", "comment_number"}

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""What is always a table, and never text."""

Repair: TypeAlias = Callable[[list[str], Sequence[str], str], list[str] | None]
"""Of a row of another width than the header: its cells, the header and the delimiter, to as many cells or None."""


def ending(path: Path) -> str:
    """The file's ending in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def open_table(
    path: Path,
    wanted: Names,
    *,
    optional: Names | None = None,
    has_header: bool = True,
    line_breaks: bool = False,
    repair: Repair | None = None,
) -> Table:
    """Finds the columns of a table; reads only its head.

    Args:
        path: ``.csv``, ``.tsv`` or ``.jsonl``; every other ending is read as ``.txt``.
        wanted: Columns that it must have.
        optional: Columns that it may have.
        has_header: Otherwise it may lack a header, and then has exactly the columns ``wanted``, in their order.
        line_breaks: Whether a quoted cell may hold line breaks. Where they are not expected, they are rows that an
            unclosed quotation mark has swallowed.
        repair: Mends rows that published files have in another width.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Empty, or columns are missing or doubled (names those that are there); what ``rows`` refuses.
    """
    if ending(path) == ".jsonl":
        return open_records(path, wanted, optional=optional)
    first = next((line for line in text_lines(path, strip=False) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty")
    dialects = _DIALECTS.get(ending(path), _DIALECTS[".txt"])
    for dialect in dialects:
        header = _cells_of(first, dialect, where="")
        names = find_columns(header, {**wanted, **(optional or {})}, where=f"{path}, line 1")
        if is_headed := names.keys() >= wanted.keys():
            break
    else:
        dialect, header, names = dialects[0], list(wanted), {name: name for name in wanted}
        found = _cells_of(first, dialect, where=f"{path}, line 1")
        if has_header or len(found) != len(wanted):
            raise ValueError(_no_columns(f"{path}, line 1", found, wanted, has_header=has_header))
    places = [header.index(names[name]) if name in names else None for name in (*wanted, *(optional or {}))]

    def read() -> Iterator[Row]:
        for line, cells in _filled(path, dialect, width=len(header), line_breaks=line_breaks, is_headed=is_headed):
            if len(cells) != len(header):
                mended = repair(cells, header, dialect.delimiter) if repair else None
                if mended is None:
                    expected = f"{len(header)} ({shown_names(header)})"
                    raise ValueError(f"{path}, line {line}: {len(cells)} columns, expected {expected}")
                cells = mended
            yield Row(line, tuple(None if place is None else cells[place] for place in places))

    return Table(path, names, read, is_headed=is_headed)


def header_of(path: Path) -> list[str]:
    """The names of a table's columns: its first line, parted by what gives most names; of ``.jsonl`` the first keys.

    Raises:
        ValueError: It is empty, or no table.
    """
    if ending(path) == ".jsonl":
        first = next(_records(path), None)
        if first is None:
            raise ValueError(f"{path} is empty")
        return list(first[1])
    line = next((line for line in text_lines(path, strip=False) if line.strip()), None)
    if line is None:
        raise ValueError(f"{path} is empty")
    headers = [_cells_of(line, dialect, where="") for dialect in _DIALECTS.get(ending(path), _DIALECTS[".txt"])]
    return max(headers, key=len)


def find_columns(header: Iterable[str], wanted: Names, *, where: str) -> dict[str, str]:
    """What the header calls each of what is wanted, as far as it has it; case and outer blanks do not count.

    Raises:
        ValueError: A column that would be taken stands there twice.
    """
    spelled: dict[str, list[str]] = {}
    for name in header:
        spelled.setdefault(name.strip().lower(), []).append(name)
    found: dict[str, str] = {}
    for name, candidates in wanted.items():
        if (candidate := next((candidate for candidate in candidates if candidate in spelled), None)) is not None:
            if len(spelled[candidate]) > 1:
                raise ValueError(f"{where}: the column {candidate!r} stands there {len(spelled[candidate])} times")
            found[name] = spelled[candidate][0]
    return found


def check_is_text(path: Path, lines: Iterable[str]) -> None:
    """Refuses what only looks like lines of text: a table, or JSON.

    Args:
        path: The file; its ending alone may say so.
        lines: Its first lines, of which twenty are looked at.

    Raises:
        ValueError: Says what it looks like, and how such a file is given.
    """
    if ending(path) in (*TABLE_SUFFIXES, *_NO_TEXT):
        raise ValueError(f"{path}: no text of one sentence a line, by its ending ({ending(path)})")
    head = [line for _, line in zip(range(HEAD_LINES), filter(str.strip, lines), strict=False)]
    if not head:
        return
    what = ""
    first = head[0].strip()
    if _JSON.fullmatch(first) or (first.startswith("[") and _is_json(first)):
        what = "JSON; write an object a line, and let its name end in .jsonl"
    elif first.lower().startswith(("<!doctype", "<html", "<?xml")):
        what = "a page of HTML or XML; fetch the file again"
    elif all("\t" in line for line in head):
        what = f"a table of {head[0].count(chr(9)) + 1} columns; let its name end in .tsv"
    elif _is_header(head[0]):
        what = "a table, by its header; let its name end in .csv"
    elif len(head) > 1 and all(map(_LABELLED.fullmatch, head)):
        what = "texts with numbers behind them; give it a header (text,label) and the ending .csv"
    elif all(_NAMED.match(line) for line in head):
        what = "names of images with captions; give it a header (image,caption) and the ending .csv"
    if what:
        raise ValueError(f"{path}: holds no text of one sentence a line, but {what}")


_JSON = re.compile(r"""\{.*\} | [\[{]{1,2} | \[\s*(["']).*\1\s*\]""", re.VERBOSE)
"""An object, the beginning of JSON in many lines, or a list of strings as Python writes it."""

_LABELLED = re.compile(r".*\S\s*[,;|]\s*-?\d+(?:\.\d+)?\s*")
"""A text and its label."""

_IMAGE = r"\S*\.(?:jpe?g|png|webp|gif|bmp|tiff?)"
_NAMED = re.compile(
    rf"""["']?{_IMAGE}(?:\#\d+)?["']?\s*[\s,;|:]\s*\S     # the name of a file
    | ["']?[\w-]*\d[\w-]*["']?\s*[,;|]\s*\S               # a number, or a name with one
    | .*[,;|]\s*["']?{_IMAGE}["']?\s*$                     # the name behind its caption
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""A line that begins with the name or number of an image and a delimiter, or that ends with a name."""


def text_cell(value: object, *, where: str) -> str:
    """A cell that must be text.

    Raises:
        ValueError: It is something else; ``where`` opens the message.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected text, got {'null' if value is None else type(value).__name__}")
    return value


def in_one_line(text: str) -> str:
    """A text with one blank wherever it has blanks, tabs or ends of lines; texts are compared in this form."""
    return " ".join(text.split())


def number_cell(value: object, *, where: str) -> float:
    """A cell that must be a finite number, or text of one.

    Raises:
        ValueError: It is something else; ``where`` opens the message.
    """
    number = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool) and "_" not in str(value):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        shown = "null" if value is None else repr(value.strip() if isinstance(value, str) else value)[:40]
        raise ValueError(f"{where}: score {shown} is not a finite number")
    return number


def _filled(
    path: Path, dialect: _Dialect, *, width: int, line_breaks: bool, is_headed: bool
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a delimited table below its header, with their lines, but no blank ones."""
    rows = blank = 0
    for line, cells in (quoted_rows if dialect.is_quoted else _plain)(path, dialect.delimiter, line_breaks=line_breaks):
        if len(cells) in (0, 1, width) and not any(map(str.strip, cells)):
            blank += 1
        else:
            rows += 1
            if rows > is_headed:
                yield line, cells
    rows -= is_headed
    say_read(path, read=rows, total=rows + blank, unit="rows", passed_over={"blank": blank})


def _plain(path: Path, delimiter: str, *, line_breaks: bool) -> Iterator[tuple[int, list[str]]]:
    del line_breaks
    said = False
    for number, line in enumerate(text_lines(path, strip=False), start=1):
        cells = line.split(delimiter)
        if not said and '""' in line and any(_EXCEL.fullmatch(cell) for cell in cells):
            said = True
            logger.warning(
                "%s, line %d: a cell in quotation marks keeps them, as there is no quoting but in .csv", path, number
            )
        yield number, cells


_EXCEL = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')


def quoted_rows(path: Path, delimiter: str, *, line_breaks: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The rows of a quoted table, whatever they contain, and the line that each begins on.

    Raises:
        ValueError: A quotation mark that does not close, or text behind one that does; names the line.
    """
    csv.field_size_limit(sys.maxsize)  # of the whole process; nothing else sets it
    lines = text_lines(path, strip=False)
    line = 1
    try:
        if not line_breaks:
            for line, text in enumerate(lines, start=1):
                yield line, next(csv.reader([text], delimiter=delimiter, strict=True), [])
            return
        reader = csv.reader((f"{text}\n" for text in lines), delimiter=delimiter, strict=True)
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _broken(f"{path}, line {line}", error) from None


def _broken(where: str, error: csv.Error) -> ValueError:
    if "end of data" in str(error):
        return ValueError(f"{where}: a quotation mark is opened and not closed; double it or remove it")
    return ValueError(
        f"{where}: broken table ({error}); double quotation marks inside a cell, and close those around it"
    )


def _cells_of(line: str, dialect: _Dialect, *, where: str) -> list[str]:
    """The cells of one line, without the blanks around them; whole where it is broken and no ``where`` is given."""
    cells = [line]
    if dialect.is_quoted:
        csv.field_size_limit(sys.maxsize)
        try:
            cells = next(csv.reader([line], delimiter=dialect.delimiter, strict=True), [])
        except csv.Error as error:
            if where:
                raise _broken(where, error) from None
    else:
        cells = line.split(dialect.delimiter)
    return [cell.strip() for cell in cells]


def open_records(path: Path, wanted: Names, *, optional: Names | None = None) -> Table:
    """``open_table`` of a file that has an object a line, whatever its name ends in."""
    optional = optional or {}
    first = next(_records(path), None)
    if first is None:
        raise ValueError(f"{path} is empty")
    line, record = first
    names = find_columns(record, {**wanted, **optional}, where=f"{path}, line {line}")
    if not names.keys() >= wanted.keys():
        raise ValueError(_no_columns(f"{path}, line {line}", list(record), wanted, has_header=True))

    def read() -> Iterator[Row]:
        for line, record in _records(path):
            if lacking := [names[name] for name in wanted if names[name] not in record]:
                raise ValueError(f"{path}, line {line}: {shown_names(lacking[:1])} is missing")
            yield Row(line, tuple(record.get(names[name]) if name in names else None for name in (*wanted, *optional)))

    return Table(path, names, read)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = blank = 0
    for number, line in enumerate(text_lines(path), start=1):
        if line:
            record = parse_json(line, dict[str, Any], where=f"{path}, line {number}")
            for name in record:
                # Parsing keeps the last of two; counting is cheap, and only what may be doubled is parsed again.
                if line.count(f'"{name}"') > 1 and (times := _keys(line).count(name)) > 1:
                    raise ValueError(f"{path}, line {number}: the column {name!r} stands there {times} times")
            yield number, record
        else:
            blank += 1
    say_read(path, read=number - blank, total=number, unit="rows", passed_over={"blank": blank})


def _keys(line: str) -> list[str]:
    """The keys of an object, each as often as it stands there."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return [name for name, _ in pairs]


def _no_columns(where: str, header: Sequence[str], wanted: Names, *, has_header: bool) -> str:
    found = find_columns(dict.fromkeys(header), wanted, where=where)
    lacking = ", ".join(f"{name} ({', '.join(wanted[name])})" for name in wanted if name not in found)
    without = "" if has_header else f"; without a header a table has exactly {', '.join(wanted)}"
    return f"{where}: no column for {lacking} among {shown_names(header)}{without}"


def shown_names(names: Iterable[str]) -> str:
    """Names of columns for messages, cut where they are long or many."""
    return ", ".join(repr(name if len(name) < 60 else f"{name[:60]}…") for name in itertools.islice(names, 12))


def _is_json(line: str) -> bool:
    try:
        parse_json(line, list[Any], where="")
    except ValueError:
        return False
    return True


def _is_header(line: str) -> bool:
    """Whether a line is names of known columns, and of what stands beside them."""
    known = {name for names in (SCORED_PAIRS, TRIPLETS, CAPTIONS) for many in names.values() for name in many}
    return any(
        len(cells := {cell.strip().strip('"').lower() for cell in line.split(delimiter)}) > 1
        and cells & known
        and cells <= known | _BESIDE
        for delimiter in ",;|"
    )
