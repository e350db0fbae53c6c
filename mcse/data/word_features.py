"""Labelled sentences as frozen word features: computed once, kept in memory, batched.

N sentences, B of one batch, T words, E static width, L layers of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.config import LabelledDataConfig, LabelledFiles, TransferData
from mcse.data.conll import read_conll
from mcse.data.seeds import Draw
from mcse.data.streams import SampledStream, Sampler
from mcse.data.test_sets.transfer import find_transfer, load_transfer_task
from mcse.files import sha256_file
from mcse.text.tags import TagSet, repair_tags, types_of
from mcse.types import DataFile, FeatureBatch, FloatArray

Task = Literal["tagging", "classification"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledWords:
    """Words of each sentence and its labels: (T,) tags, or a class as an array without axes. ``gold``: tags as read."""

    words: tuple[tuple[str, ...], ...]
    labels: tuple[NDArray[np.int64], ...]
    gold: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Sequence[int]) -> LabelledWords:
        """Some of the sentences."""
        gold = tuple(self.gold[row] for row in rows) if self.gold else ()
        return LabelledWords(tuple(self.words[r] for r in rows), tuple(self.labels[r] for r in rows), gold)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledData:
    """Three parts, the number of labels, the tag set of a tagging task, and the files."""

    parts: dict[str, LabelledWords]
    classes: int
    tags: TagSet | None
    files: tuple[DataFile, ...]


def load_labelled(config: LabelledDataConfig, *, seed: int) -> LabelledData:
    """Reads the three parts.

    Raises:
        ValueError: A file is damaged, or a part has no sentence.
        FileNotFoundError: A file is not there.
    """
    data = _tagged(config) if isinstance(config, LabelledFiles) else _classified(config, seed=seed)
    train = data.parts["train"]
    if config.max_train is not None and config.max_train < len(train):
        rows = np.random.default_rng([seed, Draw.SUBSET]).permutation(len(train))[: config.max_train]
        data.parts["train"] = train.take(sorted(rows.tolist()))
    return data


def _tagged(config: LabelledFiles) -> LabelledData:
    paths = {key: config.path(key) for key in ("train", "dev", "test")}
    found = {key: read_conll(path) for key, path in paths.items()}
    tags = TagSet(types_of(found["train"].tags))
    parts = {
        key: LabelledWords(
            tuple(texts.words), tuple(tags.ids(repair_tags(row)[0]) for row in texts.tags), tuple(texts.tags)
        )
        for key, texts in found.items()
    }
    files = tuple(DataFile(role=key, path=str(path), digest=sha256_file(path)) for key, path in paths.items())
    return LabelledData(parts, len(tags), tags, files)


def _classified(config: TransferData, *, seed: int) -> LabelledData:
    root = find_transfer(config.folder / "senteval" if (config.folder / "senteval").is_dir() else config.folder)
    task = load_transfer_task(root, config.transfer)
    texts: dict[str, LabelledWords] = {
        key: LabelledWords(
            tuple(tuple(text.split()) for text in split.sentences), tuple(np.asarray(label) for label in split.label_P)
        )
        for key, split in task.splits.items()
    }
    parts = {key: part.take([row for row, words in enumerate(part.words) if words]) for key, part in texts.items()}
    if "dev" not in parts:
        order = np.random.default_rng([seed, Draw.HELD_OUT]).permutation(len(parts["train"])).tolist()
        held = len(order) // 10
        parts |= {"dev": parts["train"].take(order[:held]), "train": parts["train"].take(sorted(order[held:]))}
    files = tuple(DataFile(role=config.transfer, path=file, digest=sha256_file(Path(file))) for file in task.files)
    return LabelledData(parts, task.classes, None, files)


@dataclass(frozen=True, slots=True, eq=False)
class WordFeatures:
    """Frozen features of sentences: (T, E) static vectors and (L, T, D) layers of each; either list may be empty."""

    static: list[FloatArray]
    layers: list[FloatArray]


def feature_batch(features: WordFeatures, labelled: LabelledWords, rows: Sequence[int]) -> FeatureBatch:
    """Sentences padded to the longest; labels of padding are 0."""
    lengths = [len(labelled.words[row]) for row in rows]
    longest = max(lengths)
    mask_BT = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    static_BTE = layer_LBTD = None
    if features.static:
        static_BTE = torch.zeros(len(rows), longest, features.static[0].shape[1])
        for place, row in enumerate(rows):
            static_BTE[place, : lengths[place]] = torch.from_numpy(features.static[row])
    if features.layers:
        count, _, width = features.layers[0].shape
        layer_LBTD = torch.zeros(count, len(rows), longest, width)
        for place, row in enumerate(rows):
            layer_LBTD[:, place, : lengths[place]] = torch.from_numpy(features.layers[row])
    labels = [labelled.labels[row] for row in rows]
    if labels[0].ndim == 0:
        label = torch.from_numpy(np.stack(labels)).long()
    else:
        label = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, own in enumerate(labels):
            label[place, : len(own)] = torch.from_numpy(own)
    return FeatureBatch(static_BTE=static_BTE, layer_LBTD=layer_LBTD, mask_BT=mask_BT, label=label)


class FeatureStream(SampledStream):
    """Batches of labelled sentences with their features."""

    def __init__(self, features: WordFeatures, labelled: LabelledWords, sampler: Sampler) -> None:
        self.features, self.labelled, self.sampler = features, labelled, sampler

    def batch(self, step: int) -> FeatureBatch:
        """This process's sentences of ``step``."""
        return feature_batch(self.features, self.labelled, self.sampler.index(step).tolist())
