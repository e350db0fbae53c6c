"""Tables of texts, tokenised once, and the stream of batches over several of them.

B rows a process, V texts a row, N rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from mcse.files import digest_of, is_kept, keeping
from mcse.types import DataFile, TableBatch, TokenBatch, Tokenizer, TrainingText


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """A tokenised table. ``value_N`` are its scores or labels; ``key`` is where it stands in the configuration."""

    key: str
    config: TrainingTable
    columns: NamedColumns
    tokens: TokenTable
    value_N: NDArray[np.float32] | None
    file: DataFile

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
    values = array("f")

    def rows() -> Iterator[tuple[str, ...]]:
        for example in _clean(columns, known):
            if columns.value is not None:
                values.append(example.value)
            yield example.texts

    width = len(columns.texts)
    tokens = tokenise(
        rows(), tokenizer, columns=width, max_length=config.max_length, digest=digest, source=columns.source
    )
    value_N = None if columns.value is None else _values(values, columns, known, number=len(tokens), digest=digest)
    text = TrainingText(
        reader="table",
        source=columns.source,
        tests=config.tests,
        columns=columns.texts,
        skips_empty=table.empty_rows == "skip",
        line_breaks=table.line_breaks,
    )
    return LoadedTable(key, table, columns, tokens, value_N, DataFile("table", columns.source, columns.digest, text))


def _clean(columns: NamedColumns, known: frozenset[str]) -> Iterator[Example]:
    return without_tests(
        columns.rows(), lambda example: example.texts, known=known, source=columns.source, what="rows with a sentence"
    )


def _values(
    values: array[float], columns: NamedColumns, known: frozenset[str], *, number: int, digest: str
) -> NDArray[np.float32]:
    """Scores or labels, which are kept beside the tokens: rows that are tokenised already are not read again."""
    path = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / f"{digest_of('values', digest)}.npy"
    if not is_kept(path):
        # Rows whose tokens were kept have not been read.
        found = values if len(values) == number else array("f", (example.value for example in _clean(columns, known)))
        with keeping(path) as draft, draft.open("wb") as file:
            np.save(file, np.asarray(found, dtype=np.float32))
    value_N: NDArray[np.float32] = np.load(path)
    return value_N


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
        """This process's rows of ``step``; a text without a positive stands twice, as its own."""
        number, before = self.place(step)
        table, index = self.tables[number], self._samplers[number].index(before)
        views = [table.tokens.ids(index, column=column) for column in range(table.tokens.columns)]
        views *= 2 if len(views) == 1 else 1
        return TableBatch(
            text_id_BV=torch.from_numpy(np.stack([text_ids(ids) for ids in views], axis=1)),
            tokens=TokenBatch.padded([ids_T for ids in views for ids_T in ids], pad_id=self.pad_id),
            table=number,
            value_B=None if table.value_N is None else torch.from_numpy(table.value_N[index]),
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
