"""Language-model lanes: sentences packed back to back, cut into as many lanes as a batch has rows, read step by step.

N sentences, G lanes of all processes, B of this one, T places a step, W different words, C characters, S samples.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.seeds import Draw
from mcse.data.streams import Share
from mcse.text.characters import BEGIN_SENTENCE, END_SENTENCE, MAX_CHARACTERS, PAD_CHARACTER, word_characters
from mcse.text.vocab import BEGIN, END, Vocab
from mcse.types import IGNORED_LABEL, Lane, LaneBatch, SampledWords

Ids = NDArray[np.int64]

_BEGIN, _END = 0, 1
"""The first two forms: the marks of a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Tokenised text as numbers of forms, with the characters and the vocabulary's id of each form.

    ``form`` holds all sentences one after the other, without marks; sentence i is ``form[start[i] : start[i + 1]]``.
    """

    form: NDArray[np.int32]
    start_N1: Ids
    character_FC: NDArray[np.int16]
    target_F: Ids

    @property
    def tokens(self) -> int:
        """Words, marks not counted."""
        return len(self.form)

    @property
    def sentences(self) -> int:
        """N."""
        return len(self.start_N1) - 1

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], vocab: Vocab, *, max_characters: int = MAX_CHARACTERS) -> Corpus:
        """Counts through tokenised sentences once; blank ones are left out.

        Raises:
            ValueError: There is no token.
        """
        known = {BEGIN_SENTENCE: _BEGIN, END_SENTENCE: _END}
        # Arrays of plain numbers: lists of them would take ten times the memory.
        form, start = array("i"), array("q", [0])
        for tokens in sentences:
            if tokens:
                form.extend(known.setdefault(token, len(known)) for token in tokens)
                start.append(len(form))
        if not form:
            raise ValueError("data.sentences: holds no token")
        target_F = vocab.ids(known)
        target_F[_BEGIN], target_F[_END] = vocab.index[BEGIN], vocab.index[END]
        character_FC = np.stack([word_characters(word, length=max_characters) for word in known]).astype(np.int16)
        return cls(np.asarray(form, dtype=np.int32), np.asarray(start, dtype=np.int64), character_FC, target_F)

    def packed(self, order_N: Ids, *, backward: bool) -> NDArray[np.int32]:
        """All sentences in this order with their marks, each from its end if ``backward``."""
        length_N = np.diff(self.start_N1)[order_N]
        marked_N = length_N + 2
        first_N = np.concatenate([[0], np.cumsum(marked_N)[:-1]])
        sentence = np.repeat(np.arange(len(order_N)), marked_N)
        place = np.arange(len(sentence)) - first_N[sentence] - 1
        if backward:
            place = length_N[sentence] - 1 - place
        is_word = (place >= 0) & (place < length_N[sentence])
        taken = self.start_N1[order_N][sentence] + np.where(is_word, place, 0)
        return np.where(is_word, self.form[taken], np.where(place < 0, _BEGIN, _END)).astype(np.int32)


class LogUniformSampler:
    """S different words a step, the frequent ones oftener; the same ones on every process.

    Ids start at the most frequent word, so the vocabulary must stand by falling frequency, which ``Vocab`` does; its
    specials come first and count as frequent.

    Source: the candidate sampler of the code that trained ELMo: draws with repetition until S are different.
    """

    def __init__(self, *, size: int, samples: int, seed: int) -> None:
        if not 1 <= samples < size:
            raise ValueError(f"loss.samples: must be from 1 to {size - 1}, less than the vocabulary, got {samples}")
        self.size, self.samples, self.seed = size, samples, seed

    def draw(self, step: int, *, part: int) -> SampledWords:
        """The sample of one step; ``part`` tells the draws of one step apart."""
        generator = np.random.default_rng([self.seed, Draw.SAMPLED_WORDS, step, part])
        seen: dict[int, None] = {}
        draws = 0
        while len(seen) < self.samples:
            drawn = np.exp(generator.random(self.samples) * math.log(self.size + 1)).astype(np.int64) - 1
            for word in drawn.clip(0, self.size - 1).tolist():
                draws += 1
                seen.setdefault(word)
                if len(seen) == self.samples:
                    break
        return SampledWords(id_S=torch.tensor(list(seen)), draws=draws)


class LaneStream:
    """Steps of both directions, each over sentences shuffled on its own every epoch.

    A lane goes on where it stopped at the step before, so that the model's state can be carried; a share of the
    sentences, ``fresh_share``, starts anew instead. The last places, which do not fill a step of every lane, are left
    out. World size enters only by the number of lanes: two processes with half of them read what one reads.
    """

    def __init__(
        self,
        corpus: Corpus,
        share: Share,
        *,
        unroll: int,
        seed: int,
        sampler: LogUniformSampler | None = None,
        fresh_share: float = 0.0,
    ) -> None:
        self.corpus, self.share, self.unroll, self.seed, self.sampler = corpus, share, unroll, seed, sampler
        self.fresh_share = fresh_share
        places = corpus.tokens + 2 * corpus.sentences
        self.lane_length = (places - 1) // share.global_batch_size
        self.steps_per_epoch = self.lane_length // unroll
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"data.sentences: {places} words and marks do not fill {share.global_batch_size} lanes of "
                f"{unroll} (train.batch_size, data.unroll)"
            )
        self._epoch = -1
        # Of the forward and the backward direction.
        self._packed: tuple[NDArray[np.int32], ...] = ()
        self._fresh: tuple[NDArray[np.bool_], ...] = ()

    def batch(self, step: int) -> LaneBatch:
        """This process's lanes of ``step``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._packed = tuple(self._pack(epoch, backward=backward) for backward in (False, True))
            if self.fresh_share:
                self._fresh = tuple(self._starts(epoch, backward=backward) for backward in (False, True))
            self._epoch = epoch
        taken = [self._cut(packed, within) for packed in self._packed]
        used, word = np.unique(np.stack([form_BT1[:, :-1] for form_BT1 in taken]), return_inverse=True)
        word = word.reshape(2, self.share.batch_size, self.unroll)
        lanes = [
            Lane(
                word_BT=torch.from_numpy(word[part]),
                target_BT=torch.from_numpy(self._targets(form_BT1[:, 1:], backward=bool(part))),
                negatives=None if self.sampler is None else self.sampler.draw(step, part=part),
                fresh_BT=torch.from_numpy(self._cut(self._fresh[part], within)[:, :-1]) if self.fresh_share else None,
            )
            for part, form_BT1 in enumerate(taken)
        ]
        character_WC = self.corpus.character_FC[used].astype(np.int64)
        return LaneBatch(
            character_WC=torch.from_numpy(character_WC),
            forward=lanes[0],
            backward=lanes[1],
            longest=int((character_WC != PAD_CHARACTER).sum(1).max()),
        )

    def _pack(self, epoch: int, *, backward: bool) -> NDArray[np.int32]:
        generator = np.random.default_rng([self.seed, Draw.ORDER, epoch, int(backward)])
        return self.corpus.packed(generator.permutation(self.corpus.sentences), backward=backward)

    def _starts(self, epoch: int, *, backward: bool) -> NDArray[np.bool_]:
        """Where a sentence is read from a zero state."""
        packed = self._packed[backward]
        generator = np.random.default_rng([self.seed, Draw.FRESH_STARTS, epoch, int(backward)])
        fresh: NDArray[np.bool_] = packed == (_END if backward else _BEGIN)
        fresh[fresh] = generator.random(int(fresh.sum())) < self.fresh_share
        return fresh

    def _cut(self, packed: NDArray[Any], within: int) -> NDArray[Any]:
        first = self.share.rank * self.share.batch_size
        start_B = (first + np.arange(self.share.batch_size)) * self.lane_length + within * self.unroll
        cut_BT1: NDArray[Any] = packed[start_B[:, None] + np.arange(self.unroll + 1)]
        return cut_BT1

    def _targets(self, form_BT: NDArray[np.int32], *, backward: bool) -> Ids:
        """Ids of what follows; that a sentence starts after another has ended is nothing to predict."""
        started = form_BT == (_END if backward else _BEGIN)
        return np.where(started, IGNORED_LABEL, self.corpus.target_F[form_BT])
