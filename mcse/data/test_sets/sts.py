"""Scored sentence pairs: SentEval's folders, the hub's copies of them, and a user's own file.

P pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import datasets
import numpy as np
from numpy.typing import NDArray

from mcse.data.hub_datasets import load_hub_dataset
from mcse.data.named_columns import open_named_columns
from mcse.data.source_variants import ScoredTable
from mcse.data.table_config import NamedTable
from mcse.data.tables import (
    SCORED_PAIRS,
    TABLE_SUFFIXES,
    Row,
    Table,
    ending,
    find_columns,
    number_cell,
    open_table,
    shown_names,
    text_cell,
)
from mcse.data.test_sets.lines import file_lines, finite_number, senteval_parent
from mcse.reading import say_read

logger = logging.getLogger(__name__)

STS_TASKS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark", "SICKRelatedness")
"""The seven tasks that papers average."""

SICK_ALL_SPLITS = "SICKRelatedness9927"
"""mteb's SICK-R: train, trial and test together. A protocol of its own, never part of the seven's average."""

SENTEVAL_SUBSETS: Mapping[str, tuple[str, ...]] = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),  # SMT was never free; no paper has it
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}

EXPECTED_PAIRS: Mapping[str, int] = {
    "STS12": 3108,
    "STS13": 1500,
    "STS14": 3750,
    "STS15": 3000,
    "STS16": 1186,
    "STSBenchmark": 1379,
    "SICKRelatedness": 4927,
    SICK_ALL_SPLITS: 9927,
}

HUB_REPOSITORIES: Mapping[str, str] = {
    "STS12": "mteb/sts12-sts",
    "STS13": "mteb/sts13-sts",
    "STS14": "mteb/sts14-sts",
    "STS15": "mteb/sts15-sts",
    "STS16": "mteb/sts16-sts",
    "STSBenchmark": "mteb/stsbenchmark-sts",
    SICK_ALL_SPLITS: "mteb/sickr-sts",
}
"""The hub's SICK-R mixes its splits, so SentEval's 4,927 test pairs cannot be had from it."""

_MOST_COUNTED = 6
"""Rows whose scores may be 0, 1, 2 and so on, in that order."""

_STSB_FILES = {"train": "sts-train.csv", "dev": "sts-dev.csv", "test": "sts-test.csv"}
_SICK_FILES = {"train": "SICK_train.txt", "dev": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPairs:
    """P sentence pairs with gold similarity; ``files`` says where they came from."""

    name: str
    subset: str
    sentence1: tuple[str, ...]
    sentence2: tuple[str, ...]
    gold: NDArray[np.float64]
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.sentence1) == len(self.sentence2) == len(self.gold):
            lengths = f"{len(self.sentence1)}, {len(self.sentence2)} and {len(self.gold)}"
            raise ValueError(f"{self.name} {self.subset}: sentences and gold differ in number: {lengths}")

    def __len__(self) -> int:
        return len(self.gold)


@dataclass(frozen=True, slots=True, eq=False)
class StsTask:
    """One row of an STS table: subsets that one correlation is taken over, and the protocol in words."""

    name: str
    subsets: tuple[ScoredPairs, ...]
    protocol: str

    def __len__(self) -> int:
        return sum(len(subset) for subset in self.subsets)


@dataclass(frozen=True, slots=True)
class StsData:
    """The tasks that could be read, and for every other task why not; ``cut``: those of which some files are there."""

    tasks: tuple[StsTask, ...]
    absent: Mapping[str, str]
    cut: tuple[str, ...] = ()


def load_sts(data: str | Path | ScoredTable | None = None) -> StsData:
    """STS tasks from a SentEval folder, from one file of scored pairs, or (``None``) from the hub and its local cache.

    Raises:
        FileNotFoundError: ``data`` does not exist, or no STS task is there.
        ValueError: A file that is there cannot be read; the message names file and line.
    """
    if data is None:
        return load_sts_from_hub()
    if isinstance(data, ScoredTable):
        return StsData(tasks=(_own_task(load_scored_table(data, key="data.sts")),), absent={})
    path = Path(data)
    if path.is_file():
        return StsData(tasks=(load_own_task(path),), absent={})
    if not path.exists():
        raise FileNotFoundError(f"--data: neither a folder nor a file at {path}")
    return load_sts_from_senteval(path)


def load_sts_from_senteval(folder: str | Path) -> StsData:
    """All STS tasks of a SentEval folder, which may hold ``STS/`` and ``SICK/`` itself or under ``downstream/``.

    Below ``STS/``, folders and files may also have the names under which SemEval ships them.

    Raises:
        FileNotFoundError: Neither is there, or no task is whole; says of each what is missing.
        ValueError: A file cannot be read.
    """
    root = find_senteval(folder)
    tasks: list[StsTask] = []
    absent: dict[str, str] = {}
    cut: list[str] = []
    for name in (*STS_TASKS, SICK_ALL_SPLITS):
        home = _home(root, name)
        if not home.is_dir():
            absent[name] = f"no folder {home}"
            continue
        try:
            tasks.append(_senteval_task(root, name))
        except FileNotFoundError as error:
            absent[name] = str(error)
            cut.append(name)
    if not tasks:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise FileNotFoundError(f"{root} holds no whole STS task: {reasons}")
    return StsData(tasks=tuple(tasks), absent=absent, cut=tuple(cut))


def find_senteval(folder: str | Path) -> Path:
    """The folder that holds ``STS/`` or ``SICK/``: ``folder`` itself, or its ``downstream/`` or ``senteval/``.

    Raises:
        FileNotFoundError: None of them does.
    """
    root = senteval_parent(folder, ("STS", "SICK"))
    if root is None:
        raise FileNotFoundError(f"no STS/ or SICK/ in {folder}, nor in its downstream/ or senteval/ folder")
    return root


def load_senteval_subset(root: Path, name: str, *, subset: str) -> ScoredPairs:
    """One subset of STS12 … STS16: input line i with gold line i; lines without gold are left out.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Unequal numbers of lines, gold that is no number, or a scored line without two columns.
    """
    home = _home(root, name)
    input_path, gold_path = _subset_file(home, "input", subset), _subset_file(home, "gs", subset)
    inputs, golds = file_lines(input_path), file_lines(gold_path)
    if len(inputs) != len(golds):
        raise ValueError(f"{input_path} has {len(inputs)} lines but {gold_path} has {len(golds)}")
    rows = []
    for number, (line, gold) in enumerate(zip(inputs, golds, strict=True), start=1):
        if gold.strip():
            column = _columns(line, input_path, number, least=2)
            rows.append((finite_number(gold, gold_path, number), column[0], column[1]))
    passed_over = {"without gold": len(inputs) - len(rows)}  # STS15 and STS16 ship more pairs than were ever scored
    say_read(input_path, read=len(rows), total=len(inputs), unit="lines", passed_over=passed_over, is_usual=True)
    return _scored(rows, name, subset, (input_path, gold_path))


def load_stsbenchmark(folder: str | Path, *, split: str) -> ScoredPairs:
    """STS-B's ``train`` (5,749 pairs), ``dev`` (1,500) or ``test`` (1,379) from a SentEval folder.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: An unknown split, fewer than seven columns, or gold that is no number.
    """
    path = _home(find_senteval(folder), "STSBenchmark") / _split_file(_STSB_FILES, split)
    return _scored(_stsbenchmark_rows(path), "STSBenchmark", split, (path,))


def _stsbenchmark_rows(path: Path) -> list[tuple[float, str, str]]:
    rows = []
    number = 0
    for number, line in enumerate(file_lines(path), start=1):
        column = _columns(line, path, number, least=7)
        rows.append((finite_number(column[4], path, number), column[5], column[6]))
    say_read(path, read=len(rows), total=number, unit="lines")
    return rows


def load_sick(folder: str | Path, *, splits: Sequence[str]) -> ScoredPairs:
    """SICK relatedness (1 to 5) from a SentEval folder: ``("test",)`` is SentEval's protocol, all three splits mteb's.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An unknown split, a wrong header, fewer than four columns, or gold that is no number.
    """
    home = find_senteval(folder) / "SICK"
    paths = [home / _split_file(_SICK_FILES, split) for split in splits]
    rows = []
    for path in paths:
        lines = file_lines(path)
        if not lines[0].startswith("pair_ID\t"):
            raise ValueError(f"{path}, line 1: expected SICK's header 'pair_ID<TAB>…', found {lines[0][:40]!r}")
        for number, line in enumerate(lines[1:], start=2):
            column = _columns(line, path, number, least=4)
            rows.append((finite_number(column[3], path, number), column[1], column[2]))
        say_read(path, read=len(lines) - 1, total=len(lines) - 1, unit="pairs")
    return _scored(rows, SICK_ALL_SPLITS if len(splits) > 1 else "SICKRelatedness", "+".join(splits), paths)


def load_sts_from_hub(repositories: Mapping[str, str] = HUB_REPOSITORIES) -> StsData:
    """The hub's STS tasks, test splits; offline, the local cache answers.

    Args:
        repositories: Task → hub id, or a local folder with ``test.jsonl``.

    Raises:
        FileNotFoundError: None of the tasks is in the cache and the hub cannot be reached.
        ValueError: A data set without the columns ``sentence1``, ``sentence2`` and ``score``.
    """
    tasks: list[StsTask] = []
    absent: dict[str, str] = {}
    lost = False
    for name, repository in repositories.items():
        if lost:
            absent[name] = "not tried, as the hub did not answer; HF_HUB_OFFLINE=1 reads the local cache alone"
            continue
        try:
            tasks.append(_task(name, (_load_hub_pairs(name, repository),)))
        except (ConnectionError, FileNotFoundError) as error:
            absent[name] = f"{repository} is neither reachable nor in the local cache ({type(error).__name__})"
            # Without a connection every further data set would wait for the hub's retries, half a minute each.
            lost = not datasets.config.HF_HUB_OFFLINE
    if not tasks:
        first = next(iter(absent.values()), "no data sets asked for")
        raise FileNotFoundError(
            f"no STS data: {first}; give --data a SentEval folder, or run `mcse prepare sts` once with a connection"
        )
    absent.setdefault("SICKRelatedness", "the hub's SICK-R mixes train, trial and test; give --data a SentEval folder")
    return StsData(tasks=tuple(tasks), absent=absent)


def load_hub_dev(repository: str = HUB_REPOSITORIES["STSBenchmark"]) -> ScoredPairs:
    """STS-B's 1,500 dev pairs from the hub; offline, the local cache answers.

    Raises:
        FileNotFoundError: Not in the cache, and the hub cannot be reached.
    """
    try:
        return _load_hub_pairs("STSBenchmark", repository, split="validation")
    except (ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"data.sts: {repository} is neither reachable nor in the local cache ({type(error).__name__}); "
            "name a SentEval folder or a file of scored pairs, or run 'mcse prepare sts' once with a connection"
        ) from None


def load_own_task(path: str | Path) -> StsTask:
    """A user's own scored pairs as a task named by the file's stem."""
    return _own_task(load_scored_pairs(path))


def _own_task(pairs: ScoredPairs) -> StsTask:
    return StsTask(name=pairs.name, subsets=(pairs,), protocol=f"Spearman over the {len(pairs):,} pairs of the file")


def load_scored_pairs(path: str | Path) -> ScoredPairs:
    """Scored pairs from ``.tsv``/``.txt`` (``score<TAB>sentence1<TAB>sentence2``), ``.csv`` or ``.jsonl``.

    A first line that names the columns ``score``, ``sentence1`` and ``sentence2`` may put them in any order, among
    others; without it there are exactly these three. JSON lines have these keys. STS-B's own files are read, too.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An unknown ending, gold that is no number, an empty sentence, and what ``open_table`` refuses.
    """
    path = Path(path)
    if ending(path) not in (*TABLE_SUFFIXES, ".txt"):
        raise ValueError(f"{path}: scored pairs must end in one of {', '.join(TABLE_SUFFIXES)}, .txt")
    if not path.is_file():
        raise FileNotFoundError(f"missing file {path}")
    if path.name in _STSB_FILES.values():  # published with tabs and without a header, whatever the name ends in
        first = file_lines(path)[0].split("\t")
        if len(first) >= 7 and not find_columns(first, SCORED_PAIRS, where=str(path)):
            return _scored(_stsbenchmark_rows(path), path.stem, "all", (path,))
    table = open_table(path, SCORED_PAIRS, has_header=False)
    rows = []
    for row in table.rows():
        where = table.where(row)
        score, *sentences = row.cells
        sentence1, sentence2 = (text_cell(sentence, where=where) for sentence in sentences)
        if not sentence1.strip() or not sentence2.strip():
            raise ValueError(f"{where}: empty sentence")
        try:
            rows.append((number_cell(score, where=where), sentence1, sentence2))
        except ValueError as error:
            raise ValueError(f"{error}{_hint(table, row)}") from None
    if not table.is_headed and all(map(_is_number, (text for row in rows for text in row[1:]))):
        raise ValueError(
            f"{path}: holds numbers alone, so which column is the score is not known; name the columns in a header "
            "(score, sentence1, sentence2)"
        )
    if len(rows) > _MOST_COUNTED and [score for score, _, _ in rows] in (
        list(range(len(rows))),
        list(range(1, len(rows) + 1)),
    ):
        raise ValueError(
            f"{path}: its scores count the rows; name the columns in a header (score, sentence1, sentence2)"
        )
    return _scored(rows, Path(path.name.removesuffix(".gz")).stem, "all", (path,))


def load_scored_table(table: ScoredTable, *, root: Path = Path(), key: str) -> ScoredPairs:
    """Scored pairs by the columns of a table of any kind.

    Args:
        table: What the columns are called.
        root: Where relative paths start.
        key: Of the configuration, for messages.

    Raises:
        FileNotFoundError: Neither file nor folder, nor a dataset of the hub.
        ValueError: A column is not there, or a cell is empty or no number; names row and column.
    """
    shared = {field.name: getattr(table, field.name) for field in fields(table)}
    columns = open_named_columns(NamedTable(**shared), root=root, key=key)
    if columns.value is None or columns.is_label:
        raise ValueError(
            f"{key}: {columns.source} has no column called score among {shown_names(columns.header)}; name the columns "
            f"of pairs and scores: {key}.query, .positive, .score"
        )
    rows = [(row.value, row.texts[0], row.texts[1]) for row in columns.rows()]
    return _scored(rows, table.name, "all", (Path(columns.source),))


def _hint(table: Table, row: Row) -> str:
    """What a cell that is no score may come from."""
    if table.is_headed:
        return f" (column {table.names['score']!r})"
    columns = ", ".join(SCORED_PAIRS)
    if row.line == 1:
        return f"; is the first line a header? Then name the columns {columns}; without one they are in this order"
    return f"; there is no header, so the columns are {columns}"


def _is_number(text: str) -> bool:
    try:
        number_cell(text, where="")
    except ValueError:
        return False
    return True


def _home(root: Path, name: str) -> Path:
    """The folder of a task: SentEval's, or else the one below ``STS/`` that holds its files, whatever it is called."""
    if name in ("SICKRelatedness", SICK_ALL_SPLITS):
        return root / "SICK"
    known = root / "STS" / (name if name == "STSBenchmark" else f"{name}-en-test")
    if known.is_dir():
        return known
    others = sorted(path for depth in ("*", "*/*") for path in (root / "STS").glob(depth) if path.is_dir())
    return next((folder for folder in others if _holds(folder, name)), known)


def _holds(folder: Path, name: str) -> bool:
    if name == "STSBenchmark":
        return (folder / _STSB_FILES["test"]).is_file()
    return all(
        _subset_file(folder, kind, subset).is_file() for subset in SENTEVAL_SUBSETS[name] for kind in ("input", "gs")
    )


def _subset_file(home: Path, kind: str, subset: str) -> Path:
    """``STS.input.X.txt``; in 2016 SemEval called it ``STS2016.input.X.txt``."""
    found = sorted(home.glob(f"STS*.{kind}.{subset}.txt"))
    return found[0] if found else home / f"STS.{kind}.{subset}.txt"


def _senteval_task(root: Path, name: str) -> StsTask:
    if name == "STSBenchmark":
        return _task(name, (load_stsbenchmark(root, split="test"),))
    if name == "SICKRelatedness":
        return _task(name, (load_sick(root, splits=("test",)),))
    if name == SICK_ALL_SPLITS:
        return _task(name, (load_sick(root, splits=("train", "dev", "test")),))
    return _task(name, tuple(load_senteval_subset(root, name, subset=subset) for subset in SENTEVAL_SUBSETS[name]))


def _task(name: str, subsets: tuple[ScoredPairs, ...]) -> StsTask:
    pairs = sum(len(subset) for subset in subsets)
    if pairs != EXPECTED_PAIRS[name]:
        logger.warning("%s has %d pairs, published scores are over %d", name, pairs, EXPECTED_PAIRS[name])
    source = "mteb's 9,927 pairs of all splits" if name == SICK_ALL_SPLITS else "SentEval's test pairs"
    return StsTask(name=name, subsets=subsets, protocol=f"Spearman over all subsets concatenated; {source}")


def _load_hub_pairs(name: str, repository: str, *, split: str = "test") -> ScoredPairs:
    table = load_hub_dataset(repository, split=split)
    wanted = ["sentence1", "sentence2", "score"]
    missing = set(wanted) - set(table.column_names)
    if missing:
        raise ValueError(
            f"{repository}: no column {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}"
        )
    column = table.select_columns(wanted)[:]  # images beside them are not decoded
    origin = Path(f"{repository}:{split}")
    rows = []
    triples = zip(column["score"], column["sentence1"], column["sentence2"], strict=True)
    for number, (score, left, right) in enumerate(triples, start=1):
        where = f"{origin}, row {number}"
        rows.append((number_cell(score, where=where), text_cell(left, where=where), text_cell(right, where=where)))
    return _scored(rows, name, "all", (origin,))


def _scored(rows: Sequence[tuple[float, str, str]], name: str, subset: str, paths: Sequence[Path]) -> ScoredPairs:
    """SentEval's sentences are split at white space and joined again, whatever the source."""
    if not rows:
        raise ValueError(f"{paths[0]} holds no scored pairs")
    return ScoredPairs(
        name=name,
        subset=subset,
        sentence1=tuple(" ".join(left.split()) for _, left, _ in rows),
        sentence2=tuple(" ".join(right.split()) for _, _, right in rows),
        gold=np.array([gold for gold, _, _ in rows], dtype=np.float64),
        files=tuple(str(path) for path in paths),
    )


def _split_file(files: Mapping[str, str], split: str) -> str:
    if split not in files:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(files)}")
    return files[split]


def _columns(line: str, path: Path, number: int, *, least: int) -> list[str]:
    columns = line.split("\t")
    if len(columns) < least:
        raise ValueError(f"{path}, line {number}: {len(columns)} tab-separated columns, expected {least} or more")
    return columns
