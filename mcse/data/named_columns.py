"""Tables by columns that a configuration names: rows of texts, with or without a number.

V texts a row.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet

from mcse.data.hub_datasets import load_hub_dataset
from mcse.data.saved_datasets import load_saved
from mcse.data.table_config import NamedTable
from mcse.data.tables import (
    SCORED_PAIRS,
    TRIPLETS,
    ending,
    header_of,
    in_one_line,
    number_cell,
    open_table,
    shown_names,
    text_cell,
)
from mcse.errors import said
from mcse.files import count_lines, digest_of, seed_of, sha256_file

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE, _IMAGES_AT_ONCE = 1024, 32
_PLAIN: Mapping[str, Sequence[str]] = {
    "score": SCORED_PAIRS["score"],
    "label": ("label", "is_duplicate"),
    "query": (*TRIPLETS["query"], *SCORED_PAIRS["sentence1"], "question", "text", "sentence"),
    "positive": (*TRIPLETS["positive"], *SCORED_PAIRS["sentence2"], "answer"),
}
"""Names of columns that need not be given, in lower case, the best first."""

_NEGATIVE = re.compile(r"(hard_neg(ative)?|neg(ative)?|contradiction)[ _]?\d*")


Cells: TypeAlias = Callable[[Sequence[str]], Iterator[tuple[str, Sequence[Any]]]]
"""Row by row, read anew at each call: where it stands, and its cells of the columns that are asked for."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row: query, positive and negatives, as far as there are.

    ``value`` is its score or label, NaN without one; ``group`` is equal where the cells of ``id`` are, 0 without them.
    """

    texts: tuple[str, ...]
    value: float
    group: int = 0


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A table of any format.

    Attributes:
        source: The file, folder or dataset.
        header: The names of its columns.
        read: Its rows anew at each call: where a row stands, and its cells of some columns.
        count: How many rows there are, or a few more.
        dataset: Its rows by number, of a folder or a hub dataset.
    """

    source: str
    header: Sequence[str]
    read: Cells
    count: Callable[[], int]
    dataset: datasets.Dataset | None = None


@dataclass(frozen=True, slots=True)
class NamedColumns:
    """A table whose columns have been found.

    Attributes:
        source: The file, folder or dataset.
        texts: The columns of texts: query, positive, then negatives.
        value: The column of scores or labels.
        is_label: Whether these are labels.
        digest: Of its content.
    """

    source: str
    texts: tuple[str, ...]
    value: str | None
    is_label: bool
    digest: str
    _config: NamedTable
    _table: OpenTable

    @property
    def header(self) -> Sequence[str]:
        """The names of all columns."""
        return self._table.header

    @property
    def rows_digest(self) -> str:
        """Names what ``rows`` gives: content, columns, and which rows are left out."""
        config = self._config
        parts = (
            self.digest,
            *self.texts,
            str(self.value),
            config.empty_rows,
            str(config.line_breaks),
            str(config.score_range),
            *(["label"] if self.is_label else []),
            *([] if config.id is None else ["id", config.id]),
        )
        return digest_of("named columns", *parts)

    def count(self) -> int:
        """How many rows there are, or a few more; reads no cell."""
        return self._table.count()

    def rows(self) -> Iterator[Example]:
        """Its rows, read anew at each call, in memory that does not grow with them.

        Raises:
            ValueError: A cell that is empty, no text or no number, or a score out of range; names row and column.
        """
        value, identity = self.value, self._config.id
        names = (*self.texts, *(name for name in (value, identity) if name is not None))
        asked = tuple(dict.fromkeys(names))  # ids may be one of the texts
        places = [asked.index(name) for name in names]
        shown = [shown_names([name]) for name in self.texts]
        empty = read = 0
        for where, given in self._table.read(asked):
            cells = [given[place] for place in places]
            read += 1
            texts = [_text(cell, where=f"{where}, column {name}") for cell, name in zip(cells, shown)]  # noqa: B905
            if not all(texts):
                if self._config.empty_rows == "error":
                    name = shown[texts.index("")]
                    raise ValueError(f"{where}: the column {name} is empty; empty_rows: skip leaves such rows out")
                empty += 1
                continue
            number = math.nan if value is None else self._value(cells[len(texts)], where=where)
            group = 0 if identity is None else _group(cells[-1], where=f"{where}, column {shown_names([identity])}")
            yield Example(tuple(texts), number, group)
        if empty:
            logger.warning("%s: left out %d of %d rows, which have an empty cell", self.source, empty, read)
        if empty == read:
            raise ValueError(f"{self.source} holds no row")

    def _value(self, cell: Any, *, where: str) -> float:
        assert self.value is not None
        where = f"{where}, column {shown_names([self.value])}"
        value = float(cell) if isinstance(cell, bool) else number_cell(cell, where=where)
        if self.is_label and value not in (0, 1):
            raise ValueError(f"{where}: a label is 0 or 1, got {value:g}; numbers of other kinds are a score")
        low, high = self._config.score_range or (-math.inf, math.inf)
        if not low <= value <= high:
            raise ValueError(f"{where}: the score {value:g} lies outside score_range [{low:g}, {high:g}]")
        return value


def open_source(name: str, *, root: Path, key: str, line_breaks: bool = False) -> OpenTable:
    """Finds a table of any kind, and its columns; reads nothing else of it.

    Args:
        name: ``.csv``, ``.tsv``, ``.jsonl`` (also ``.gz``), ``.parquet``, a folder of ``save_to_disk``, a hub dataset.
        root: Where relative paths start.
        key: Of the configuration, for messages.
        line_breaks: As ``NamedTable`` has it.

    Raises:
        FileNotFoundError: Neither file nor folder, nor a dataset of the hub.
        ValueError: It is empty, damaged, or no table.
    """
    path = root / name
    if path.is_dir() or not path.exists():
        dataset = _saved_dataset(path, key=key) if path.is_dir() else _hub_dataset(name, path, key=key)
        source = str(path) if path.is_dir() else name
        opened = OpenTable(source, dataset.column_names, _dataset_rows(dataset, source), lambda: len(dataset), dataset)
    elif ending(path) == ".parquet":
        opened = OpenTable(str(path), _parquet_columns(path), _parquet_rows(path), lambda: _parquet_count(path))
    else:
        opened = OpenTable(
            str(path), header_of(path), _text_rows(path, line_breaks=line_breaks), lambda: count_lines(path)
        )
    return opened


def check_header(table: OpenTable) -> None:
    """Refuses a column that stands there twice.

    Raises:
        ValueError: There is one.
    """
    if doubled := [name for name in table.header if table.header.count(name) > 1]:
        times = table.header.count(doubled[0])
        raise ValueError(f"{table.source}: the column {shown_names(doubled[:1])} stands there {times} times")


def check_columns(found: Mapping[str, str], table: OpenTable) -> None:
    """Refuses columns that the table lacks.

    Args:
        found: By role, what is looked for.
        table: Where.

    Raises:
        ValueError: One is not there; names those that are, and the nearest.
    """
    for role, name in found.items():
        if name not in table.header:
            near = difflib.get_close_matches(name, table.header, n=1)
            raise ValueError(
                f"{table.source}: no column {name!r} for {role.partition('[')[0]} among {shown_names(table.header)}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )


def open_named_columns(config: NamedTable, *, root: Path, key: str) -> NamedColumns:
    """Locates a table and its columns, and reads only enough to compute its digest.

    Args:
        config: What the columns are called.
        root: Where relative paths start.
        key: Of the configuration, for messages.

    Raises:
        FileNotFoundError: Neither file nor folder, nor a dataset of the hub.
        ValueError: It lacks a column, or has no plain one; names those that are there.
    """
    table = open_source(config.path, root=root, key=key, line_breaks=config.line_breaks)
    found = _found(config, table)
    texts = tuple(name for role, name in found.items() if role not in ("score", "label", "id"))
    value, is_label = found.get("score", found.get("label")), "label" in found
    return NamedColumns(table.source, texts, value, is_label, digest_of_source(table.source), config, table)


def digest_of_source(source: str) -> str:
    """The digest of a table's content: of the file, of a folder's data files, or the hub's own of a dataset.

    Raises:
        FileNotFoundError: It is gone.
    """
    path = Path(source)
    if path.is_dir():
        return digest_of(*(sha256_file(file) for file in sorted(path.rglob("*.arrow"))))
    if not path.exists():
        return str(_hub_dataset(source, path, key=source)._fingerprint)
    return sha256_file(path)


def _found(config: NamedTable, table: OpenTable) -> dict[str, str]:
    """By role, the columns that the configuration names, or that have plain names."""
    check_header(table)
    found = _given(config) if config.query is not None else _plain_columns(table.header)
    if not found:
        raise ValueError(
            f"{table.source}: no column is called {', '.join(_PLAIN['query'][:4])} or the like, among "
            f"{shown_names(table.header)}; say which is which: query, positive, negatives, score, label"
        )
    check_columns(found, table)
    if config.query is None:
        say_columns(found, table)
    return found


def say_columns(found: Mapping[str, str], table: OpenTable) -> None:
    """Says which columns were found by their names."""
    logger.info("%s: %s", table.source, ", ".join(f"{role} = {name!r}" for role, name in found.items()))


def _given(config: NamedTable) -> dict[str, str]:
    assert config.query is not None
    found = {"query": config.query}
    found |= {} if config.positive is None else {"positive": config.positive}
    found |= {f"negatives[{number}]": name for number, name in enumerate(config.negatives)}
    found |= {} if config.id is None else {"id": config.id}
    found |= {} if config.score is None else {"score": config.score}
    return found | ({} if config.label is None else {"label": config.label})


def _plain_columns(header: Sequence[str]) -> dict[str, str]:
    """By role, the columns whose names say it; a number only counts for a pair, and negatives only without one."""
    spelled = {name.strip().lower(): name for name in reversed(header)}
    first = {role: next((spelled[name] for name in names if name in spelled), None) for role, names in _PLAIN.items()}
    if first["query"] is None:
        return {}
    if first["positive"] is None:
        return {"query": first["query"]}
    pair = {"query": first["query"], "positive": first["positive"]}
    for role in ("score", "label"):
        if (name := first[role]) is not None:
            return {**pair, role: name}
    negatives = [name for name in header if _NEGATIVE.fullmatch(name.strip().lower())]
    return pair | {f"negatives[{number}]": name for number, name in enumerate(negatives)}


def _text(cell: Any, *, where: str) -> str:
    """A cell's text in one line; ``""`` where it is empty."""
    return "" if cell is None else in_one_line(text_cell(cell, where=where))


def _group(cell: Any, *, where: str) -> int:
    """A number that is equal where cells are, of 64 bits."""
    if isinstance(cell, bool) or not isinstance(cell, str | int) or not str(cell).strip():
        shown = "null" if cell is None else repr(cell)[:40]
        raise ValueError(f"{where}: an id is some text or a whole number, got {shown}")
    return seed_of(in_one_line(str(cell))) - 2**63


def _text_rows(path: Path, *, line_breaks: bool) -> Cells:
    def read(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        wanted = {name: (name.strip().lower(),) for name in names}
        table = open_table(path, wanted, line_breaks=line_breaks)
        return ((table.where(row), row.cells) for row in table.rows())

    return read


def _parquet_columns(path: Path) -> list[str]:
    try:
        return list(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged, or no parquet file: {said(error)}") from None


def _parquet_count(path: Path) -> int:
    return int(parquet.read_metadata(path).num_rows)


def _parquet_rows(path: Path) -> Cells:
    def read(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        try:
            with parquet.ParquetFile(path) as file:
                parts = file.iter_batches(batch_size=_rows_at_once(file.schema_arrow, names), columns=list(names))
                yield from _numbered(parts, names, path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged, or no parquet file: {said(error)}") from None

    return read


def _dataset_rows(dataset: datasets.Dataset, source: str | Path) -> Cells:
    def read(names: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
        chosen = dataset.select_columns(list(names)).with_format("arrow")
        return _numbered(chosen.iter(batch_size=_rows_at_once(dataset.data.schema, names)), names, source)

    return read


def _rows_at_once(schema: pa.Schema, names: Sequence[str]) -> int:
    """Fewer where a column may hold images."""
    kinds = [schema.field(name).type for name in names]
    has_bytes = any(
        pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds
    )
    return _IMAGES_AT_ONCE if has_bytes else _ROWS_AT_ONCE


def _numbered(parts: Any, names: Sequence[str], source: str | Path) -> Iterator[tuple[str, Sequence[Any]]]:
    numbers = itertools.count(1)
    for part in parts:
        for cells in zip(*(part[name].to_pylist() for name in names), strict=True):
            yield f"{source}, row {next(numbers)}", cells


def _saved_dataset(path: Path, *, key: str) -> datasets.Dataset:
    try:
        loaded = load_saved(path)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise ValueError(f"{key}: {path} has the splits {shown_names(loaded)}; name the folder of one of them")
        loaded = loaded["train"]
    return loaded


def _hub_dataset(name: str, path: Path, *, key: str) -> datasets.Dataset:
    name, _, split = name.partition("::")
    if name.count("/") != 1 or Path(name).suffix in (".csv", ".tsv", ".jsonl", ".gz", ".parquet"):
        raise FileNotFoundError(f"{key}: no file at {path}")
    try:
        return load_hub_dataset(name, split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(f"{key}: no file at {path}, and no hub dataset {name!r}: {said(error)}") from None
