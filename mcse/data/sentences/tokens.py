"""Token ids of sentences, computed once: parts of a memory-mapped table on disk, each with its digest.

A kill loses the part that was being made, and the next start makes what is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray

from mcse.files import claimed, digest_of, is_kept, keeping, write_json
from mcse.progress import progress_bar
from mcse.reading import read_json
from mcse.types import Tokenizer

CACHE_FORMAT = "2"
PART_ROWS = 100_000
"""Some seconds of work."""

_CHUNK_ROWS, _CHUNK_CHARACTERS = 4096, 2**22
"""Tokenised at a time: whichever is reached first."""

_PARTS_FILE = "parts.json"


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token ids of sentences in memory-mapped Arrow files; columns as in ``SentenceTable``."""

    dataset: datasets.Dataset
    columns: int
    _slices: dict[int, _Slices] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset)

    def ids(self, index: NDArray[np.int64], *, column: int = 0) -> list[NDArray[np.int64]]:
        """Token ids of the rows at ``index``, special tokens included."""
        if column not in self._slices:
            self._slices[column] = _Slices.of(self.dataset.data.column(f"ids{column}").chunks)
        return self._slices[column].rows(index)


@dataclass(frozen=True, slots=True)
class _Slices:
    """A column's pieces as they lie in the mapped files: rows are slices of them, never lists of Python numbers."""

    first: NDArray[np.int64]
    pieces: list[tuple[NDArray[np.int32], NDArray[np.int32]]]

    @classmethod
    def of(cls, chunks: Sequence[Any]) -> Self:
        sizes = [len(chunk) for chunk in chunks]
        return cls(
            first=np.cumsum([0, *sizes])[:-1],
            pieces=[(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks],
        )

    def rows(self, index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        found = []
        piece_B = np.searchsorted(self.first, index, side="right") - 1
        for number, row in zip(piece_B.tolist(), (index - self.first[piece_B]).tolist(), strict=True):
            bounds, ids = self.pieces[number]
            found.append(ids[bounds[row] : bounds[row + 1]].astype(np.int64))
        return found


def tokenise(
    rows: Iterable[tuple[str, ...]],
    tokenizer: Tokenizer,
    *,
    columns: int,
    max_length: int,
    digest: str,
    expected: Callable[[], int] | None = None,
    source: str = "",
) -> TokenTable:
    """Token ids of all rows, computed once and found again by content, tokenizer and length.

    Args:
        rows: Sentences; read only if the cache does not hold them.
        tokenizer: Of the text encoder.
        columns: Sentences a row.
        max_length: Tokens a sentence keeps, special tokens included.
        digest: Name of the content of ``rows``.
        expected: Counts the rows, or a few more, for the time that is left.
        source: What is said to be tokenised, where it takes long.

    Raises:
        ValueError: ``rows`` are fewer than when a part was made under the same ``digest``.
    """
    key = digest_of(CACHE_FORMAT, digest, tokenizer.digest, str(max_length), str(columns))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / key
    if not _is_whole(folder):
        # Another process that makes the same is waited for, and leaves nothing to be done.
        with claimed(folder, wait=math.inf):
            _make(folder, _Rows(rows, tokenizer, columns, max_length), expected=expected, source=source)
    parts = [datasets.Dataset.from_file(str(path)) for path in _parts(folder)]
    return TokenTable(dataset=datasets.concatenate_datasets(parts), columns=columns)


class _Rows:
    """Rows that are read one after the other, and tokenised or passed over."""

    def __init__(self, rows: Iterable[tuple[str, ...]], tokenizer: Tokenizer, columns: int, max_length: int) -> None:
        self._rows = iter(rows)
        self._tokenizer, self._max_length = tokenizer, max_length
        self._names = [f"ids{column}" for column in range(columns)]

    def skip(self, number: int) -> int:
        """Passes rows over; how many there were, ``number`` at most."""
        return sum(1 for _ in itertools.islice(self._rows, number))

    def write(self, path: Path, number: int) -> Iterator[int]:
        """Writes the next ``number`` rows, or those that are left; gives how many have just been written."""
        features = datasets.Features({name: datasets.List(datasets.Value("int32")) for name in self._names})
        with ArrowWriter(path=str(path), features=features) as writer:
            for chunk in _chunks(itertools.islice(self._rows, number)):
                columns = zip(*chunk, strict=True)
                writer.write_batch(
                    {
                        name: self._tokenizer.ids(texts, max_length=self._max_length)
                        for name, texts in zip(self._names, columns, strict=True)
                    }
                )
                yield len(chunk)
            writer.finalize()


def _make(folder: Path, rows: _Rows, *, expected: Callable[[], int] | None, source: str) -> None:
    """Makes the parts that are not there yet; the last one alone has fewer than ``PART_ROWS`` rows."""
    total = None if expected is None else expected()
    with progress_bar(total=total, unit="sentence", title=f"tokenising {source}".strip(), stays=False) as bar:
        for number in itertools.count():
            path = folder / _part_name(number)
            if is_kept(path):
                size = len(datasets.Dataset.from_file(str(path)))
                if rows.skip(size) < size:
                    raise ValueError(f"{source or 'the text'} has become shorter since {path} was made of it")
                bar.update(size)
            else:
                size = 0
                with keeping(path) as draft:
                    for written in rows.write(draft, PART_ROWS):
                        size += written
                        bar.update(written)
            if size < PART_ROWS:
                break
    with keeping(folder / _PARTS_FILE) as draft:
        write_json(draft, number + 1)


def _is_whole(folder: Path) -> bool:
    return is_kept(folder / _PARTS_FILE) and all(map(is_kept, _parts(folder)))


def _parts(folder: Path) -> list[Path]:
    return [folder / _part_name(number) for number in range(read_json(folder / _PARTS_FILE, int))]


def _part_name(number: int) -> str:
    return f"part-{number:05d}.arrow"


def _chunks(rows: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    chunk: list[tuple[str, ...]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(map(len, row))
        if len(chunk) == _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
