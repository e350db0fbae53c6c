"""Tables of texts, tokenised once, and the stream of batches over several of them.

B rows a process, V texts a row, N rows.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.named_columns import Example, NamedColumns, open_named_columns
from mcse.data.seeds import Draw
from mcse.data.sentences.tokens import TokenTable, tokenise
from mcse.data.streams import Sampler, Share
from mcse.data.table_config import TableDataConfig, TrainingTable
from mcse.data.test_sets.contamination import sts_test_sentences, without_tests
from mcse.files import claimed, digest_of, is_kept, keeping
from mcse.progress import progress_bar
from mcse.reading import say_first
from mcse.types import DataFile, FloatArray, TableBatch, TokenBatch, Tokenizer, TrainingText

_GUIDED_AT_ONCE = 4096
"""Rows whose texts a guide encodes at a time."""


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """A tokenised table.

    ``value_N`` are its scores or labels, and ``group_N`` are equal where its ids are; ``key`` is its place in the
    configuration; ``guide_NVG`` are the unit embeddings that a guide gives its texts, where there is one; ``digest``
    names the rows, of which those with a text of ``known`` are left out.
    """

    key: str
    config: TrainingTable
    columns: NamedColumns
    tokens: TokenTable
    value_N: NDArray[np.float32] | None
    file: DataFile
    digest: str
    known: frozenset[str]
    group_N: NDArray[np.int64] | None = None
    guide_NVG: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def load_tables(config: TableDataConfig, tokenizer: Tokenizer) -> list[LoadedTable]:
    """The tables of a run.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: One cannot be read; names file, row and column.
    """
    return [_load(config, key, table, tokenizer) for key, table in config.named.items()]


def _load(config: TableDataConfig, key: str, table: TrainingTable, tokenizer: Tokenizer) -> LoadedTable:
    try:
        columns = open_named_columns(table, root=config.folder, key=key)
    except FileNotFoundError as error:
        raise config.absent(table.path, str(error)) from None
    known = sts_test_sentences(config.tests)
    digest = columns.rows_digest + (f"-without-{digest_of(*sorted(known))}" if known else "")
    values, groups = array("f"), array("q")

    def rows() -> Iterator[tuple[str, ...]]:
        for example in _clean(columns, known):
            if columns.value is not None:
                values.append(example.value)
            if table.id is not None:
                groups.append(example.group)
            yield example.texts

    width = len(columns.texts)
    tokens = tokenise(
        rows(),
        tokenizer,
        columns=width,
        max_length=config.max_length,
        digest=digest,
        expected=columns.count,
        source=columns.source,
    )
    if (first := next(_clean(columns, known), None)) is not None:
        shown: dict[str, object] = dict(zip(columns.texts, first.texts, strict=True))
        say_first(columns.source, shown if columns.value is None else {**shown, columns.value: first.value})
    kept = partial(_numbers, columns=columns, known=known, number=len(tokens), digest=digest)
    value_N = None if columns.value is None else kept("values", values, attrgetter("value"))
    group_N = None if table.id is None else kept("groups", groups, attrgetter("group"))
    text = TrainingText(
        reader="table",
        source=columns.source,
        tests=config.tests,
        columns=columns.texts,
        skips_empty=table.empty_rows == "skip",
        line_breaks=table.line_breaks,
    )
    file = DataFile("table", columns.source, columns.digest, text)
    return LoadedTable(key, table, columns, tokens, value_N, file, digest, known, group_N)


def _clean(columns: NamedColumns, known: frozenset[str]) -> Iterator[Example]:
    return without_tests(
        columns.rows(), lambda example: example.texts, known=known, source=columns.source, what="rows with a sentence"
    )


def with_guide(table: LoadedTable, encode: Callable[[Sequence[str]], FloatArray], *, digest: str) -> LoadedTable:
    """The table with the embeddings of a guide, computed once and kept beside the tokens, mapped from the disk.

    Args:
        table: The table.
        encode: (n, G) unit rows of texts.
        digest: Of the guide.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / f"{digest_of('guide', table.digest, digest)}.npy"
    # Another process that makes the same is waited for, and leaves nothing to be done.
    with claimed(path, wait=math.inf):
        if not is_kept(path):
            with keeping(path) as draft:
                _write_guide(draft, table, encode)
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return replace(table, guide_NVG=mapped)


def _write_guide(draft: Path, table: LoadedTable, encode: Callable[[Sequence[str]], FloatArray]) -> None:
    views, done = len(table.columns.texts), 0
    guide: np.memmap[Any, np.dtype[np.float32]] | None = None
    examples = _clean(table.columns, table.known)
    with progress_bar(total=len(table), unit="row", title=f"guide, {table.columns.source}") as bar:
        while several := list(itertools.islice(examples, _GUIDED_AT_ONCE)):
            row_PG = encode([text for example in several for text in example.texts])
            if guide is None:
                shape = len(table), views, row_PG.shape[1]
                guide = np.lib.format.open_memmap(draft, "w+", dtype=np.float32, shape=shape)
            guide[done : done + len(several)] = row_PG.reshape(len(several), views, -1)
            done += len(several)
            bar.update(len(several))
    assert guide is not None
    guide.flush()


def _numbers(
    what: str,
    read: array[Any],
    of: Callable[[Example], Any],
    *,
    columns: NamedColumns,
    known: frozenset[str],
    number: int,
    digest: str,
) -> NDArray[Any]:
    """A number a row, which is kept beside the tokens: rows that are tokenised already are not read again."""
    path = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / f"{digest_of(what, digest)}.npy"
    if not is_kept(path):
        # Rows whose tokens were kept have not been read.
        found = read if len(read) == number else array(read.typecode, map(of, _clean(columns, known)))
        with keeping(path) as draft, draft.open("wb") as file:
            np.save(file, np.asarray(found))
    number_N: NDArray[Any] = np.load(path)
    return number_N


class TableStream:
    """Batches of a run's tables, each of one of them.

    An epoch has as many batches of a table as it fills, or its share of all of them, in an order that the epoch draws.
    Both go on in a table where they stopped, so that its rows come equally often.

    Args:
        tables: The tables.
        share: Of every global batch.
        seed: Names the draws.
        pad_id: The tokenizer's padding id.
    """

    def __init__(self, tables: Sequence[LoadedTable], share: Share, *, seed: int, pad_id: int) -> None:
        self.tables, self.share, self.seed, self.pad_id = tables, share, seed, pad_id
        # Each draws for itself, whatever the others are.
        self._samplers = [
            Sampler(len(table), share, seed=seed + number, name=table.key) for number, table in enumerate(tables)
        ]
        own = np.array([sampler.steps_per_epoch for sampler in self._samplers])
        shares = np.array([table.config.share or 0.0 for table in tables])
        self._steps = own if not shares.any() else _parted(int(own.sum()), shares)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of all tables together in one pass."""
        return int(self._steps.sum())

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Rows and batches an epoch, for the start of a run."""
        found: dict[str, str | int | float] = {}
        for table, steps in zip(self.tables, self._steps.tolist(), strict=True):
            found[table.key] = f"{len(table):,} rows, {steps:,} batches an epoch"
        return found

    def place(self, step: int) -> tuple[int, int]:
        """Which table ``step`` takes, and how many batches of it came before."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.repeat(np.arange(len(self._steps)), self._steps)
            self._order = np.random.default_rng([self.seed, Draw.TABLES, epoch]).permutation(order)
            self._epoch = epoch
        number = int(self._order[within])
        return number, epoch * int(self._steps[number]) + int((self._order[:within] == number).sum())

    def batch(self, step: int) -> TableBatch:
        """This process's rows of ``step``; a text without a positive is given twice, as its own."""
        number, before = self.place(step)
        return _batch(self.tables, [(number, self._samplers[number].index(before))], pad_id=self.pad_id)


class MixedTableStream:
    """Batches of rows of all tables, which are of one loss and as many texts a row.

    Every global batch has the same number of rows of each table: its share of the batch, at least one. Each table goes
    round by itself. The rows of a batch are permuted and then cut into the processes' parts, so that several processes
    take the very rows that one takes.

    Args:
        tables: The tables.
        share: Of every global batch.
        seed: Names the draws.
        pad_id: The tokenizer's padding id.

    Raises:
        ValueError: More tables than rows a batch.
    """

    def __init__(self, tables: Sequence[LoadedTable], share: Share, *, seed: int, pad_id: int) -> None:
        self.tables, self.share, self.seed, self.pad_id = tables, share, seed, pad_id
        total = share.global_batch_size
        if len(tables) > total:
            raise ValueError(f"data.mixed: a batch of {total} rows cannot hold one of each of {len(tables)} tables")
        shares = np.array([table.config.share or float(len(table)) for table in tables])
        self._parts = _parted(total, shares)
        while self._parts.sum() > total:
            self._parts[np.argmax(self._parts)] -= 1
        self._samplers = [
            Sampler(len(table), Share(int(part)), seed=seed + number, name=table.key)
            for number, (table, part) in enumerate(zip(tables, self._parts, strict=True))
        ]

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many rows as all tables together."""
        return sum(map(len, self.tables)) // self.share.global_batch_size

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Rows, and rows of every batch, for the start of a run."""
        return {
            table.key: f"{len(table):,} rows, {part} of every {self.share.global_batch_size}"
            for table, part in zip(self.tables, self._parts.tolist(), strict=True)
        }

    def batch(self, step: int) -> TableBatch:
        """This process's rows of ``step``; ``table`` is the first, whose loss is that of all."""
        table_N = np.repeat(np.arange(len(self.tables)), self._parts)
        row_N = np.concatenate([sampler.index(step) for sampler in self._samplers])
        order_N = np.random.default_rng([self.seed, Draw.TABLES, step]).permutation(len(row_N))
        start = self.share.rank * self.share.batch_size
        own_B = order_N[start : start + self.share.batch_size]
        # Table after table: within a process the order of rows is no matter.
        parts = [(number, row_N[own_B[table_N[own_B] == number]]) for number in range(len(self.tables))]
        return replace(_batch(self.tables, parts, pad_id=self.pad_id), table=0)


def _batch(tables: Sequence[LoadedTable], parts: Sequence[tuple[int, NDArray[np.int64]]], *, pad_id: int) -> TableBatch:
    """The rows of tables, of each of which ``parts`` gives its number and rows."""
    parts = [(number, index) for number, index in parts if len(index)]
    columns = tables[parts[0][0]].tokens.columns
    views = [
        [ids_T for number, index in parts for ids_T in tables[number].tokens.ids(index, column=column)]
        for column in range(columns)
    ]
    views *= 2 if len(views) == 1 else 1
    values = [value_N[index] for number, index in parts if (value_N := tables[number].value_N) is not None]
    groups = [group_N[index] for number, index in parts if (group_N := tables[number].group_N) is not None]
    guides = [guide[index] for number, index in parts if (guide := tables[number].guide_NVG) is not None]
    return TableBatch(
        text_id_BV=torch.from_numpy(np.stack([text_ids(ids) for ids in views], axis=1)),
        tokens=TokenBatch.padded([ids_T for ids in views for ids_T in ids], pad_id=pad_id),
        table=parts[0][0],
        value_B=torch.from_numpy(np.concatenate(values)) if values else None,
        group_B=torch.from_numpy(np.concatenate(groups)) if groups else None,
        guide_BVG=torch.from_numpy(np.concatenate(guides)) if guides else None,
    )


def _parted(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """``total`` steps in proportion to ``shares``, at least one each; the largest rests are rounded up."""
    exact = total * shares / shares.sum()
    steps: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), 1)
    rest = np.argsort(np.floor(exact) - exact, kind="stable")[: max(0, total - int(steps.sum()))]
    steps[rest] += 1
    return steps


def text_ids(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(B,) numbers that are equal where the ids of two texts are: sums of ids times a random odd number a place.

    Two different texts have one number with a probability of about 2⁻⁶³. The same in every process and run.
    """
    longest = max(map(len, rows))
    factor_T = np.random.default_rng(Draw.TEXT_IDS).integers(2**63, size=longest, dtype=np.uint64) * 2 + 1
    sums = [((ids_T.astype(np.uint64) + 1) * factor_T[: len(ids_T)]).sum(dtype=np.uint64) for ids_T in rows]
    return np.array(sums, dtype=np.uint64).view(np.int64)
