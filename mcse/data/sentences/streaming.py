"""Sentences streamed from files or the hub: no copy in memory, none on disk, tokenised as batches ask for them.

B sentences a process.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from mcse.data.patterns import files_named
from mcse.data.seeds import Draw
from mcse.data.sentences.files import load_hub_text, text_column
from mcse.data.streams import Share, TokenMasker, TokenRepeater, sentence_batch
from mcse.data.tables import HEAD_LINES, check_is_text, in_one_line
from mcse.data.teacher_rows import StoredTeachers
from mcse.files import digest_of, sha256_file, text_lines
from mcse.hub import commit_of
from mcse.reading import say_read
from mcse.types import SentenceBatch, Tokenizer

logger = logging.getLogger(__name__)

_SUFFIXES = (".txt", ".txt.gz", ".gz", ".parquet")


class TextParts(Protocol):
    """Sentences in parts that are read one after the other: files, or the shards of a hub dataset."""

    source: str

    @property
    def digest(self) -> str:
        """Of the content."""
        ...

    def __len__(self) -> int: ...

    def rows(self, part: int, *, start: int) -> Iterator[str]:
        """The sentences of a part from its row ``start`` on; blank rows come as empty strings."""
        ...


class TextFiles:
    """Text files (``.txt``, ``.gz``, one sentence a line) and ``.parquet`` files.

    The digest reads every byte: seconds a gigabyte, once, where tokenising takes many minutes.
    """

    def __init__(self, paths: tuple[Path, ...], *, source: str, column: str) -> None:
        self.paths, self.source, self.column = paths, source, column

    @cached_property
    def digest(self) -> str:
        """Of names and content."""
        return digest_of(*(part for path in self.paths for part in (path.name, sha256_file(path))))

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, part: int, *, start: int) -> Iterator[str]:
        """The sentences of a file from row ``start`` on."""
        path = self.paths[part]
        if path.suffix == ".parquet":
            return _parquet_rows(path, self.column, start=start)
        return itertools.islice(text_lines(path), start, None)


class HubTexts:
    """A hub dataset, streamed. The digest is of its name, its commit and what the hub says of its size."""

    def __init__(self, dataset: datasets.IterableDataset, *, source: str, column: str) -> None:
        self.source, self._column = source, column
        self._dataset = dataset.select_columns([column])
        info = dataset.info
        size = (str(info.version), str(info.splits), str(dataset.num_shards))
        self.digest = digest_of(source, column, str(commit_of(source, kind="dataset")), *size)

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def rows(self, part: int, *, start: int) -> Iterator[str]:
        """The sentences of a shard from row ``start`` on."""
        shard = self._dataset.shard(num_shards=len(self), index=part).skip(start)
        return (in_one_line(str(row[self._column] or "")) for row in shard)


def open_texts(source: str, *, root: Path) -> TextParts:
    """The files that a path, glob or folder names, or a dataset of the hub; ``::COLUMN`` says which column of a table.

    Raises:
        FileNotFoundError: Neither files nor a hub dataset.
        ValueError: A file of another kind, an empty one, or a table without that column.
    """
    name, _, column = source.partition("::")
    path = root / name
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
    else:
        paths = files_named(name, root=root)
    if not paths and name.count("/") == 1 and not name.startswith("/") and not Path(name).suffix:
        return _open_hub(name, column)
    if not paths:
        raise FileNotFoundError(f"data.sentences: no file at {path}")
    for file in paths:
        if not file.name.endswith(_SUFFIXES) or file.name.endswith((".csv.gz", ".tar.gz")):
            raise ValueError(f"data.sentences: {file}: only {', '.join(_SUFFIXES)} can be streamed")
        if not file.stat().st_size:
            raise ValueError(f"data.sentences: {file} is empty")
        if file.suffix != ".parquet":
            check_is_text(file, itertools.islice(text_lines(file), HEAD_LINES))
    return TextFiles(tuple(paths), source=str(path) + (f"::{column}" if column else ""), column=column)


@dataclass(slots=True)
class _Place:
    """How far a stream is: where its block begins, how much of it is used, and the next batch's step.

    Of the rows of the epoch before the block, ``blank`` were blank, ``unwanted`` left out, and ``kept`` the others.
    """

    step: int = 0
    epoch: int = 0
    block: int = 0
    turn: int = 0
    row: int = 0
    used: int = 0
    kept: int = 0
    blank: int = 0
    unwanted: int = 0


class StreamedSentences:
    """Endless batches of streamed sentences, the same for every step however a run came to it.

    Each epoch permutes the parts and reads them one after the other, ``window`` sentences at a time; these are permuted
    and used up. What does not fill a batch at the end of an epoch is left out. Where the number of parts is a multiple
    of the number of processes, each process has parts of its own and reads nothing else; else every process reads all
    and takes its rows of every global batch, which are those that one process would have in their place.

    Steps come one after the other: the state says where to go on reading, and costs one part's beginning. Any other
    step is found by reading again from the start, or on from here.

    Args:
        texts: The sentences.
        tokenizer: Of the text encoder.
        share: Of every global batch.
        seed: Names the draws.
        window: Sentences shuffled together.
        max_length: Tokens a sentence keeps.
        pad_id: The tokenizer's padding id.
        masker: Draws masks for the language-model term.
        repeater: Draws positives.
        teachers: Have the rows of the sentences.
        wanted: Whether a sentence is trained on; blank ones never are.
    """

    columns = 1
    steps_per_epoch = None

    def __init__(
        self,
        texts: TextParts,
        tokenizer: Tokenizer,
        share: Share,
        *,
        seed: int,
        window: int,
        max_length: int,
        pad_id: int,
        masker: TokenMasker | None = None,
        repeater: TokenRepeater | None = None,
        teachers: StoredTeachers | None = None,
        wanted: Callable[[str], bool] = bool,
    ) -> None:
        self.texts, self.tokenizer, self.share, self.seed = texts, tokenizer, share, seed
        self.window, self.max_length, self.pad_id, self.masker, self.wanted = window, max_length, pad_id, masker, wanted
        self.repeater, self.teachers = repeater, teachers
        self.split_by_part = share.world_size > 1 and len(texts) % share.world_size == 0
        self._parts = range(share.rank, len(texts), share.world_size) if self.split_by_part else range(len(texts))
        self._place = _Place()
        self._block: list[str] | None = None
        self._after = _Place()
        self._reader: tuple[tuple[int, int, int], Iterator[str]] | None = None

    @property
    def facts(self) -> dict[str, str | int | float]:
        """For the start of a run."""
        way = "each process its own" if self.split_by_part else "read by every process"
        return {"sentences": "streamed" + (f", {way}" if self.share.world_size > 1 else "")}

    def batch(self, step: int) -> SentenceBatch:
        """This process's sentences of ``step``."""
        if step < self._place.step:
            self._place, self._block = _Place(), None
        if step > self._place.step:
            logger.warning("data.sentences: reading again from batch %d to %d", self._place.step, step)
        while self._place.step < step:
            self._take()
        texts = self._take()
        encoded = self.tokenizer.ids(texts, max_length=self.max_length)
        ids = [np.asarray(row, dtype=np.int64) for row in encoded]
        return sentence_batch(
            [ids],
            step=step,
            share=self.share,
            pad_id=self.pad_id,
            masker=self.masker,
            repeater=self.repeater,
            teacher_BF=None if self.teachers is None else self.teachers.of_texts(texts, source=self.texts.source),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins."""
        return asdict(self._place)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken."""
        self._place, self._block = _Place(**state), None

    def _take(self) -> list[str]:
        """The next batch's sentences, this process's own."""
        size = self.share.batch_size if self.split_by_part else self.share.global_batch_size
        rows: list[str] = []
        is_whole = not (self._place.block or self._place.used)  # this epoch will have been tried from its start
        while len(rows) < size:
            if self._block is None:
                self._block = self._read_block()
            if not self._block:
                if is_whole:
                    raise self._too_few(size)
                self._say_read(over=len(rows))
                rows, is_whole = [], True
                self._place = _Place(step=self._place.step, epoch=self._place.epoch + 1)
                self._block = None
                continue
            more = self._block[self._place.used : self._place.used + size - len(rows)]
            rows += more
            self._place.used += len(more)
            if self._place.used == len(self._block) and len(rows) < size:
                self._next_block()
        self._place.step += 1
        if self.split_by_part:
            return rows
        own = self.share.rank * self.share.batch_size
        return rows[own : own + self.share.batch_size]

    def _next_block(self) -> None:
        self._place = replace(self._after, step=self._place.step)
        self._block = None

    def _say_read(self, *, over: int) -> None:
        """How many of an epoch's rows were read; the first one's tells of all, as far as this process saw it."""
        place = self._after
        if place.epoch or not (self.split_by_part or self.share.rank == 0):
            return
        own = f" (parts of process {self.share.rank})" if self.split_by_part else ""
        say_read(
            f"{self.texts.source}{own}",
            read=place.kept - over,
            total=place.kept + place.blank + place.unwanted,
            unit="rows",
            passed_over={
                "blank": place.blank,
                "in a test set": place.unwanted,
                "too few for a batch at the end": over,
            },
            is_usual=not (place.blank or place.unwanted),
        )

    def _read_block(self) -> list[str]:
        """The sentences of the block that begins at the place, permuted; none at the end of an epoch."""
        place = self._place
        blank, unwanted = place.blank, place.unwanted
        order = np.random.default_rng([self.seed, Draw.ORDER, place.epoch]).permutation(len(self._parts))
        turn, row = place.turn, place.row
        block: list[str] = []
        while turn < len(order) and len(block) < self.window:
            for text in self._rows(place.epoch, turn, row, part=self._parts[int(order[turn])]):
                row += 1
                if not text:
                    blank += 1
                elif not self.wanted(text):
                    unwanted += 1
                else:
                    block.append(text)
                    if len(block) == self.window:
                        break
            else:
                turn, row = turn + 1, 0
        self._after = _Place(
            epoch=place.epoch,
            block=place.block + 1,
            turn=turn,
            row=row,
            kept=place.kept + len(block),
            blank=blank,
            unwanted=unwanted,
        )
        if self._reader is not None:
            self._reader = ((place.epoch, turn, row), self._reader[1])
        seed = [self.seed, Draw.WINDOWS, place.epoch, place.block, self._parts[0]]
        return [block[index] for index in np.random.default_rng(seed).permutation(len(block)).tolist()]

    def _rows(self, epoch: int, turn: int, row: int, *, part: int) -> Iterator[str]:
        """A part from ``row`` on; where reading has stopped just there, it goes on."""
        if self._reader is None or row == 0 or self._reader[0] != (epoch, turn, row):
            self._reader = ((epoch, turn, row), self.texts.rows(part, start=row))
        return self._reader[1]

    def _too_few(self, size: int) -> ValueError:
        return ValueError(
            f"data.sentences: an epoch of {self.texts.source} has fewer sentences than one batch of {size} "
            f"(train.batch_size {self.share.batch_size} on {self.share.world_size} processes)"
        )


def _open_hub(name: str, column: str) -> HubTexts:
    dataset = load_hub_text(name, streaming=True)
    first: dict[str, object] = next(iter(dataset), {})
    strings = [key for key, value in first.items() if isinstance(value, str)]
    return HubTexts(dataset, source=name, column=text_column(column, strings, where=name))


def _parquet_rows(path: Path, column: str, *, start: int) -> Iterator[str]:
    try:
        with parquet.ParquetFile(path) as file:
            strings = [field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")]
            column = text_column(column, strings, where=str(path))
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start >= rows:
                    start -= rows
                    continue
                for batch in file.iter_batches(row_groups=[group], columns=[column]):
                    for value in batch.column(0).slice(start).to_pylist():
                        yield in_one_line(value or "")
                    start = max(0, start - batch.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: damaged, or no parquet file: {error}") from None
