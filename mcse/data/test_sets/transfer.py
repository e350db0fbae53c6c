"""Labelled sentences of SentEval's seven transfer tasks, read from its folder layout and held against its checksums.

P sentences or sentence pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.lines import file_lines, latin1_lines, senteval_parent
from mcse.files import sha256_file
from mcse.reading import say_read

logger = logging.getLogger(__name__)

Split = Literal["train", "dev", "test"]

TRANSFER_TASKS = ("MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC")
"""The seven tasks that papers average, in their order."""

TREC_LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")

PUBLISHED_COUNTS: Mapping[str, Mapping[Split, int]] = {
    "MR": {"train": 10662},
    "CR": {"train": 3775},
    "SUBJ": {"train": 10000},
    "MPQA": {"train": 10606},
    "SST2": {"train": 67349, "dev": 872, "test": 1821},
    "TREC": {"train": 5452, "test": 500},
    "MRPC": {"train": 4076, "test": 1725},
}

PUBLISHED_SHA256: Mapping[str, str] = {
    "MR/rt-polarity.pos": "34e5b0da2d491e46b700b00afe735aaae0962bcfe4f7f22b2d8077e714fa370f",
    "MR/rt-polarity.neg": "c4ac36eaa8adc8ee31c31f69594bfbe68d83ef5b6db53f1f19b28c0be52f3999",
    "CR/custrev.pos": "91a20a4ffeb5d38a39a4087bb247e16538aff21e7d621ae59738379f39f21732",
    "CR/custrev.neg": "ec94532766f6f962094841ab3bee2ad6f232f996c3756825a91e78bcc294750f",
    "SUBJ/subj.objective": "d8ccd43f1674f1c17e4ab717564e3561cfb719b0db4cfb19e5677427c68ff8a1",
    "SUBJ/subj.subjective": "274c2ffe59c204dc4df779848561786f59a98cc20dda3cfdd7d9f76a4f730710",
    "MPQA/mpqa.pos": "7487dbb74c77383e60b292845495163a9e21fb70a4fdacdda933413e43163f0d",
    "MPQA/mpqa.neg": "8da6e035fa4cea02f0555091096b29a6b3995ff0adf41fad25008dcee066b79e",
    "SST/binary/sentiment-train": "10a92a297ec38e262386e5a2713b4bc70e5d18ced88b7f54bd171a26e5b34ab5",
    "SST/binary/sentiment-dev": "9a6c7403b71a9b762158387afe4431253ae10cdfb2319b5275289f3766f48291",
    "SST/binary/sentiment-test": "4fefd1cd67526cf87ebc7fafc3afc21cc7cfa6ae53b45e74f77f9456e3c62752",
    "TREC/train_5500.label": "8bd6e79493f43bbd22c364587366a1dced54e1e31259eaa92721a0f526031116",
    "TREC/TREC_10.label": "86ad53c8fc9d397ab2f4be7c967d8efb470b260140557d3e57afad69d1b88b76",
    "MRPC/msr_paraphrase_train.txt": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    "MRPC/msr_paraphrase_test.txt": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
}
"""Of the files that SentEval's script makes. A damaged SUBJ of 20 sentences once gave 99.6 and went unnoticed."""

# Label 1 first, then label 0; SUBJ's objective sentences have label 1.
_TWO_FILES: Mapping[str, tuple[str, str]] = {
    "MR": ("MR/rt-polarity.pos", "MR/rt-polarity.neg"),
    "CR": ("CR/custrev.pos", "CR/custrev.neg"),
    "SUBJ": ("SUBJ/subj.objective", "SUBJ/subj.subjective"),
    "MPQA": ("MPQA/mpqa.pos", "MPQA/mpqa.neg"),
}
_SPLIT_FILES: Mapping[str, Mapping[Split, str]] = {
    "SST2": {
        "train": "SST/binary/sentiment-train",
        "dev": "SST/binary/sentiment-dev",
        "test": "SST/binary/sentiment-test",
    },
    "TREC": {"train": "TREC/train_5500.label", "test": "TREC/TREC_10.label"},
    "MRPC": {"train": "MRPC/msr_paraphrase_train.txt", "test": "MRPC/msr_paraphrase_test.txt"},
}
_HOMES = tuple(sorted({name.split("/")[0] for name in PUBLISHED_SHA256}))

Item = tuple[list[str], list[str], int]
"""Words of the sentence, words of the second one (none but in MRPC), label."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledText:
    """P sentences, or sentence pairs where ``second`` is not empty, with labels from 0."""

    sentences: tuple[str, ...]
    second: tuple[str, ...]
    label_P: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransferTask:
    """One task. MR, CR, SUBJ and MPQA have the split ``train`` alone, only SST2 has ``dev``.

    Sentences are in SentEval's order, by number of words and then label, because its folds are drawn over that.
    ``altered`` says of each file that is not the published one what is wrong with it.
    """

    name: str
    classes: int
    splits: Mapping[Split, LabelledText]
    files: tuple[str, ...]
    altered: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Of all splits, repeats included."""
        return tuple(text for part in self.splits.values() for text in (*part.sentences, *part.second))


@dataclass(frozen=True, slots=True)
class TransferData:
    """The tasks that are there, and for every other task why not; ``cut``: those of which some files are there."""

    tasks: tuple[TransferTask, ...]
    absent: Mapping[str, str]
    cut: tuple[str, ...] = ()


def load_transfer(data: str | Path | None) -> TransferData:
    """The transfer tasks of a SentEval folder, which may hold ``MR/``, ``CR/`` … itself or under ``downstream/``.

    A task of which a file is missing is absent. A file that is not the published one is used, logged and named in the
    task's ``altered``.

    Raises:
        FileNotFoundError: No folder is given, or no task's files are there.
        ValueError: A file that is there cannot be read; the message names file and line.
    """
    if data is None:
        raise FileNotFoundError(
            "the transfer tasks are on no hub: give --data a SentEval folder with MR/, CR/, SUBJ/ …"
        )
    root = find_transfer(data)
    tasks: list[TransferTask] = []
    absent: dict[str, str] = {}
    cut: list[str] = []
    for name in TRANSFER_TASKS:
        missing = [str(root / file) for file in _files(name) if not (root / file).is_file()]
        if missing:
            absent[name] = f"missing file {', '.join(missing)}"
            cut += [name] if len(missing) < len(_files(name)) else []
        else:
            tasks.append(load_transfer_task(root, name))
    if not tasks:
        raise FileNotFoundError(f"no transfer task is complete: {'; '.join(absent.values())}")
    return TransferData(tasks=tuple(tasks), absent=absent, cut=tuple(cut))


def find_transfer(folder: str | Path) -> Path:
    """The folder that holds ``MR/``, ``CR/`` …: ``folder`` itself, or its ``downstream/`` or ``senteval/``.

    Raises:
        FileNotFoundError: None of them does, or ``folder`` is no folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"--data: no folder at {folder}; the transfer tasks need a SentEval folder")
    root = senteval_parent(folder, _HOMES)
    if root is None:
        homes = ", ".join(f"{home}/" for home in _HOMES)
        raise FileNotFoundError(f"none of {homes} in {folder}, nor in its downstream/ or senteval/ folder")
    return root


def load_transfer_task(root: Path, name: str) -> TransferTask:
    """One of ``TRANSFER_TASKS`` below ``root``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An unknown task, or a file that cannot be read.
    """
    if name not in TRANSFER_TASKS:
        raise ValueError(f"unknown transfer task {name!r}; choose one of {', '.join(TRANSFER_TASKS)}")
    splits: dict[Split, LabelledText] = {}
    if name in _TWO_FILES:
        items = _read_two_files(root, _TWO_FILES[name])
        splits["train"] = _labelled(items)
        say_read(root / name, read=len(splits["train"]), total=len(items), unit="sentences")
    else:
        read = {"SST2": _read_sst, "TREC": _read_trec, "MRPC": _read_mrpc}[name]
        for split, file in _SPLIT_FILES[name].items():
            items = read(root / file)
            splits[split] = _labelled(items)
            say_read(root / file, read=len(splits[split]), total=len(items), unit="sentences")
    return TransferTask(
        name=name,
        classes=len(TREC_LABELS) if name == "TREC" else 2,
        splits=splits,
        files=tuple(str(root / file) for file in _files(name)),
        altered=_altered(root, name, splits),
    )


def _files(name: str) -> tuple[str, ...]:
    return _TWO_FILES[name] if name in _TWO_FILES else tuple(_SPLIT_FILES[name].values())


def _altered(root: Path, name: str, splits: Mapping[Split, LabelledText]) -> tuple[str, ...]:
    """What distinguishes the files from the published ones, also logged."""
    faults = []
    for file in _files(name):
        digest = sha256_file(root / file)
        if digest != PUBLISHED_SHA256[file]:
            faults.append(f"{file} has SHA-256 {digest[:12]}…, the published file {PUBLISHED_SHA256[file][:12]}…")
    for split, published in PUBLISHED_COUNTS[name].items():
        if len(splits[split]) != published:
            faults.append(f"{len(splits[split]):,} instead of {published:,} in {split}")
    if faults:
        logger.warning("%s: not the published data, so its scores are not comparable: %s", name, "; ".join(faults))
    return tuple(faults)


def _labelled(items: Iterable[Item]) -> LabelledText:
    """In SentEval's order; equals stay in the order of the file."""
    ordered = sorted(items, key=lambda item: (len(item[0]), len(item[1]), item[2]))
    return LabelledText(
        sentences=tuple(" ".join(words) for words, _, _ in ordered),
        second=tuple(" ".join(words) for _, words, _ in ordered if words),
        label_P=np.array([label for _, _, label in ordered], dtype=np.int64),
    )


def _read_two_files(root: Path, files: tuple[str, str]) -> list[Item]:
    """One sentence a line, also where it is empty: CR and MPQA were published with seven such lines."""
    items: list[Item] = []
    for label, file in zip((1, 0), files, strict=True):
        items += [(line.split(), [], label) for line in latin1_lines(root / file)]
    return items


def _read_sst(path: Path) -> list[Item]:
    items: list[Item] = []
    for number, line in enumerate(file_lines(path), start=1):
        column = line.strip().split("\t")
        if len(column) != 2:
            raise ValueError(f"{path}, line {number}: expected sentence<TAB>label, found {line[:40]!r}")
        items.append((_words(column[0], path, number), [], _binary(column[1], path, number)))
    return _with_both_labels(items, path)


def _read_trec(path: Path) -> list[Item]:
    """``LABEL:sub-label sentence``; a question holds the byte 0xf0, which is no UTF-8."""
    items: list[Item] = []
    for number, line in enumerate(latin1_lines(path), start=1):
        label, colon, rest = line.strip().partition(":")
        if label not in TREC_LABELS or not colon:
            raise ValueError(f"{path}, line {number}: expected one of {', '.join(TREC_LABELS)}, found {label[:40]!r}")
        items.append((_words(rest.partition(" ")[2], path, number), [], TREC_LABELS.index(label)))
    return items


def _read_mrpc(path: Path) -> list[Item]:
    """``label<TAB>id<TAB>id<TAB>sentence<TAB>sentence`` below a header, which opens with a byte order mark."""
    lines = file_lines(path)
    if not lines[0].startswith("Quality\t"):
        raise ValueError(f"{path}, line 1: expected MRPC's header 'Quality<TAB>…', found {lines[0][:40]!r}")
    items: list[Item] = []
    for number, line in enumerate(lines[1:], start=2):
        column = line.strip().split("\t")
        if len(column) < 5:
            raise ValueError(f"{path}, line {number}: {len(column)} tab-separated columns, expected 5")
        left, right = (_words(text, path, number) for text in column[3:5])
        items.append((left, right, _binary(column[0], path, number)))
    return _with_both_labels(items, path)


def _words(text: str, path: Path, number: int) -> list[str]:
    words = text.split()
    if not words:
        raise ValueError(f"{path}, line {number}: empty sentence")
    return words


def _binary(text: str, path: Path, number: int) -> int:
    if text not in ("0", "1"):
        raise ValueError(f"{path}, line {number}: label {text[:40]!r} is neither 0 nor 1")
    return int(text)


def _with_both_labels(items: list[Item], path: Path) -> list[Item]:
    missing = {0, 1} - {label for _, _, label in items}
    if missing:
        raise ValueError(f"{path}: no line has label {min(missing)}")
    return items
