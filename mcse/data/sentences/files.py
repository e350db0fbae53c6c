"""Training sentences: text files and hub datasets, read strictly.

A *sentence source* is a path of a text file, or of a table (``.csv``, ``.tsv``, ``.jsonl``) of sentences or of queries
with positives and negatives, each also with ``.gz``; a hub file ``hf://datasets/OWNER/NAME/FILE``; or a hub dataset
``OWNER/NAME`` or ``OWNER/NAME::COLUMN``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import hf_hub_download

from mcse.data.hub_datasets import load_hub_dataset
from mcse.data.tables import (
    HEAD_LINES,
    SENTENCES,
    TABLE_SUFFIXES,
    TRIPLETS,
    Table,
    check_is_text,
    ending,
    in_one_line,
    open_table,
    text_cell,
)
from mcse.files import digest_of, sha256_file, text_lines
from mcse.hub import at_commit
from mcse.reading import say_read

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SentenceTable:
    """Sentences by column: one column for unsupervised training, three (query, positive, negative) for supervised.

    ``rows`` starts over at each call, so that nothing need stay in memory. ``digest`` names the content.
    """

    columns: int
    source: str
    digest: str
    files: tuple[Path, ...]
    table: Table | None = None

    def rows(self) -> Iterator[tuple[str, ...]]:
        """One tuple of sentences a row; rows with a blank sentence are skipped."""
        skipped, kept = 0, 0
        for row in self._raw_rows():
            if all(row):
                kept += 1
                yield row
            else:
                skipped += 1
        if not kept:
            raise ValueError(f"data.sentences: {self.source} holds no sentence")
        unit = "lines" if self.files and self.table is None else "rows of sentences"
        say_read(self.source, read=kept, total=kept + skipped, unit=unit, passed_over={"blank": skipped})

    def count(self) -> int:
        """How many rows there are, blank ones included; reads them all."""
        return sum(1 for _ in self._raw_rows()) if self.files else len(_load_hub(self.source)[0])

    def _raw_rows(self) -> Iterator[tuple[str, ...]]:
        if not self.files:
            return _hub_rows(self.source)
        if self.table is not None:
            return _table_rows(self.table)
        return ((line,) for line in text_lines(self.files[0]))


def open_sentences(source: str, *, root: Path) -> SentenceTable:
    """Locates a sentence source and reads only enough of it to compute its digest.

    Args:
        source: See the module's docstring. A hub file that stands under ``root`` by its own name is taken from there.
        root: Where relative paths start.

    Raises:
        FileNotFoundError: No such file, and not a hub name that can be had.
        ValueError: The file is empty; a table without known columns; or text that looks like a table.
    """
    path = _local_file(source, root=root)
    if path is None:
        return open_hub_sentences(source)
    if path.stat().st_size == 0:
        raise ValueError(f"data.sentences: {path} is empty")
    table, columns = None, 1
    try:
        if ending(path) in TABLE_SUFFIXES:
            table, columns = _open_table(path)
        else:
            check_is_text(path, islice(text_lines(path), HEAD_LINES))
    except ValueError as error:
        raise ValueError(f"data.sentences: {error}") from None
    return SentenceTable(columns=columns, source=str(path), digest=sha256_file(path), files=(path,), table=table)


def _open_table(path: Path) -> tuple[Table, int]:
    """A table of triplets, or of sentences alone, and how many of its columns are read."""
    try:
        return open_table(path, TRIPLETS), len(TRIPLETS)
    except ValueError as error:
        try:
            return open_table(path, SENTENCES), 1
        except ValueError:
            advice = f"sentences alone are in a column {' or '.join(SENTENCES['sentence'])}, or in a .txt, one a line"
            raise ValueError(f"{error}; {advice}") from None


def open_hub_sentences(source: str) -> SentenceTable:
    """Sentences of a hub dataset, ``OWNER/NAME`` or ``OWNER/NAME::COLUMN``.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: It has no column of text, or no such column.
    """
    return SentenceTable(columns=1, source=source, digest=_hub_digest(source), files=())


def _local_file(source: str, *, root: Path) -> Path | None:
    """The local file of a source: its path, its name under ``root``, or the hub's cache; ``None`` for a hub dataset.

    Raises:
        FileNotFoundError: Nothing is there; says what was tried.
    """
    if source.startswith("hf://datasets/"):
        parts = source.removeprefix("hf://datasets/").split("/", 2)
        if len(parts) < 3:
            raise ValueError(f"data.sentences: {source!r} must be hf://datasets/OWNER/NAME/FILE")
        owner, name, inside = parts
        prepared, repository = root / Path(inside).name, f"{owner}/{name}"
        if prepared.is_file():
            return prepared
        try:
            return Path(
                hf_hub_download(repository, inside, repo_type="dataset", **at_commit(repository, kind="dataset"))
            )
        except Exception as error:
            raise FileNotFoundError(
                f"data.sentences: {source} is neither at {prepared} nor available from the hub "
                f"({type(error).__name__}); 'mcse prepare' fetches it once"
            ) from error
    path = root / source
    if path.exists():
        return path
    if source.count("/") == 1 and "." not in Path(source).suffix:
        return None
    raise FileNotFoundError(f"data.sentences: no file at {path}")


def _table_rows(table: Table) -> Iterator[tuple[str, ...]]:
    try:
        for row in table.rows():
            yield tuple(in_one_line(text_cell(cell, where=table.where(row))) for cell in row.cells)
    except ValueError as error:
        raise ValueError(f"data.sentences: {error}") from None


def _hub_rows(source: str) -> Iterator[tuple[str, ...]]:
    dataset, column = _load_hub(source)
    for row in dataset:
        yield (in_one_line(str(row[column] or "")),)


def _hub_digest(source: str) -> str:
    dataset, column = _load_hub(source)
    return digest_of(str(dataset._fingerprint), column)


def _load_hub(source: str) -> tuple[datasets.Dataset, str]:
    name, _, column = source.partition("::")
    dataset = load_hub_text(name)
    return dataset, text_column(column, text_columns(dataset.features), where=name)


def load_hub_text(name: str, *, streaming: bool = False) -> Any:
    """The columns of text of a hub dataset's training part; images beside them are not decoded.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    try:
        loaded = load_hub_dataset(name, split="train", streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(f"data.sentences: no file and no hub dataset {name!r}: {error}") from None
    # Rows of a stream are decoded whole, with all other columns; without features nothing is.
    features = loaded.features
    return loaded if features is None else loaded.select_columns(text_columns(features))


def text_columns(features: Mapping[str, object]) -> list[str]:
    """The names of a dataset's columns of text."""
    return [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]


def text_column(column: str, strings: list[str], *, where: str) -> str:
    """The column of sentences among those of strings: the one asked for, else ``text``, else the only one."""
    chosen = column or ("text" if "text" in strings else strings[0] if len(strings) == 1 else "")
    if chosen not in strings:
        raise ValueError(f"data.sentences: {where}: name a text column as SOURCE::COLUMN, one of {strings}")
    return chosen
