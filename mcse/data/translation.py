"""Sentences with their translations: aligned files, vocabularies, and batches of similar length.

N pairs, B of one batch of this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.data.config import TranslationDataConfig
from mcse.data.seeds import Draw
from mcse.data.streams import Share
from mcse.files import sha256_file, text_lines
from mcse.text.vocab import BEGIN, END, Vocab, split_words
from mcse.types import DataFile, TokenBatch, TrainingText, TranslationBatch

Ids = NDArray[np.int64]

_POOL = 20
"""Global batches whose pairs are sorted by length together: less padding, and still a draw."""


@dataclass(frozen=True, slots=True, eq=False)
class TranslationData:
    """Pairs as words' numbers, the targets' vocabulary, and pairs of text to evaluate on."""

    source: list[Ids]
    target: list[Ids]
    target_vocab: Vocab
    dev_source: list[str]
    dev_target: list[str]
    known_share: float
    files: tuple[DataFile, ...]


def load_translation_data(config: TranslationDataConfig, source_words: Vocab, *, seed: int) -> TranslationData:
    """Reads the pairs. Source words are numbered by ``source_words``; the targets' vocabulary is counted here.

    Raises:
        ValueError: Files of different length, or no pair is left.
        FileNotFoundError: A file is not there.
    """
    pairs = [
        (split_words(left), split_words(right))
        for left, right in _aligned(config, "source", "target")
        if left and right
    ]
    kept = [pair for pair in pairs if max(map(len, pair)) <= config.max_length and min(map(len, pair)) > 0]
    kept = kept[: config.max_pairs]
    if not kept:
        raise ValueError(f"data.source: no pair of at most data.max_length {config.max_length} words")
    targets = [right for _, right in kept]
    vocab = Vocab.from_sentences(targets, min_count=config.min_count, max_size=config.vocabulary_size, lower_case=False)
    if config.shuffled_targets:
        order = np.random.default_rng([seed, Draw.SHUFFLED_TARGETS]).permutation(len(targets))
        targets = [targets[number] for number in order]
    source = [source_words.ids(left) for left, _ in kept]
    dev = _aligned(config, "dev_source", "dev_target")
    keys = ("source", "target", "dev_source", "dev_target", "vectors")
    text = TrainingText(reader="lines", source=str(config.path("source")))
    return TranslationData(
        source=source,
        target=[marked(vocab, right) for right in targets],
        target_vocab=vocab,
        dev_source=[left for left, _ in dev],
        dev_target=[right for _, right in dev],
        known_share=float(np.mean(np.concatenate(source) != 1)),
        files=tuple(
            DataFile(key, str(config.path(key)), sha256_file(config.path(key)), text if key == "source" else None)
            for key in keys
        ),
    )


def marked(vocab: Vocab, words: Sequence[str]) -> Ids:
    """Numbers of words between the marks of begin and end."""
    return np.concatenate([[vocab.index[BEGIN]], vocab.ids(words), [vocab.index[END]]]).astype(np.int64)


class TranslationStream:
    """Batches of pairs, shuffled once an epoch, each batch of similar lengths; the last partial batch is left out.

    World size does not enter the draw: two processes with half the batch read what one reads with the whole.
    """

    def __init__(self, data: TranslationData, share: Share, *, seed: int) -> None:
        self.data, self.share, self.seed = data, share, seed
        self.steps_per_epoch = len(data.source) // share.global_batch_size
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"data.source: {len(data.source)} pairs are fewer than one batch of {share.global_batch_size}"
            )
        self._length_N = np.array(
            [len(left) + len(right) for left, right in zip(data.source, data.target, strict=True)]
        )
        self._epoch, self._batches = -1, np.empty((0, 0), dtype=np.int64)

    def batch(self, step: int) -> TranslationBatch:
        """This process's pairs of ``step``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._drawn(epoch), epoch
        # Every other pair, so that no process gets all the long ones.
        rows = self._batches[within][self.share.rank :: self.share.world_size]
        return TranslationBatch(
            source=TokenBatch.padded([self.data.source[row] for row in rows]),
            target=TokenBatch.padded([self.data.target[row] for row in rows]),
        )

    def _drawn(self, epoch: int) -> Ids:
        generator = np.random.default_rng([self.seed, Draw.ORDER, epoch])
        size = self.share.global_batch_size
        order = generator.permutation(len(self._length_N))[: self.steps_per_epoch * size]
        pools = [order[first : first + _POOL * size] for first in range(0, len(order), _POOL * size)]
        by_length = np.concatenate([pool[np.argsort(self._length_N[pool], kind="stable")] for pool in pools])
        return generator.permutation(by_length.reshape(-1, size))


def _aligned(config: TranslationDataConfig, left: str, right: str) -> list[tuple[str, str]]:
    lines = [list(text_lines(config.path(key))) for key in (left, right)]
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"data.{left}, data.{right}: {len(lines[0])} and {len(lines[1])} lines are not aligned by line"
        )
    return list(zip(*lines, strict=True))
