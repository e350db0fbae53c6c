"""Streams of batches: shuffled once an epoch, cut into processes' shares, each batch a pure function of its step.

B examples a process, T tokens, F image feature width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.seeds import Draw
from mcse.types import IGNORED_LABEL, FloatArray, MaskedTokens, PairBatch, SentenceBatch, TokenBatch
from mcse.types.batches import pad_rows


@dataclass(frozen=True, slots=True)
class Share:
    """Which rows of every global batch are this process's."""

    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch_size(self) -> int:
        """Rows of one step over all processes."""
        return self.batch_size * self.world_size


def check_size(size: int, share: Share, *, name: str) -> None:
    """Refuses data that do not fill one batch."""
    if size < share.global_batch_size:
        raise ValueError(
            f"{name}: {size} examples are fewer than one batch of {share.global_batch_size} "
            f"(train.batch_size {share.batch_size} on {share.world_size} processes)"
        )


class Order(Protocol):
    """Which rows a process takes at each step: ``Sampler`` or ``ShardSampler``."""

    @property
    def share(self) -> Share:
        """Which rows of every global batch are this process's."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in one pass."""
        ...

    def index(self, step: int) -> NDArray[np.int64]:
        """(B,) rows of this process at ``step``."""
        ...


class TokenRows(Protocol):
    """Tokenised sentences by row: a table in a file, or captions tokenised as they are asked for."""

    @property
    def columns(self) -> int:
        """Sentences a row."""
        ...

    def __len__(self) -> int: ...

    def ids(self, index: NDArray[np.int64], *, column: int = 0) -> list[NDArray[np.int64]]:
        """Token ids of the rows at ``index``, special tokens included."""
        ...


class TeacherColumn(Protocol):
    """Rows that teachers give the texts of a run, by their number."""

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) rows of the texts at ``index``."""
        ...


class RowNumbers(Protocol):
    """Row numbers looked up by row number: an array, or what computes them."""

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[np.int64]: ...


class Sampler:
    """Row numbers for every step: a fresh permutation each epoch, the last partial batch left out.

    World size does not enter the permutation: two processes with half the batch draw what one draws with the whole.
    """

    def __init__(self, size: int, share: Share, *, seed: int, name: str) -> None:
        check_size(size, share, name=name)
        self.size, self.share, self.seed = size, share, seed
        self.steps_per_epoch = size // share.global_batch_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, step: int) -> NDArray[np.int64]:
        """(B,) rows of this process at ``step``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, Draw.ORDER, epoch]).permutation(self.size)
            self._epoch = epoch
        start = within * self.share.global_batch_size + self.share.rank * self.share.batch_size
        return self._order[start : start + self.share.batch_size]


class ShardSampler:
    """``Sampler``'s numbers in an order that reads a few shards at a time, in memory that does not grow with them.

    Each epoch permutes the shards, cuts their rows, in that order, into windows of ``window`` rows, and permutes
    within each window. World size does not enter.

    Args:
        first: (S + 1) numbers: the rows before each shard, and all of them.
        share: Of every global batch.
        seed: Names the draws.
        name: The key to change, for messages.
        window: Rows shuffled together.
    """

    def __init__(self, first: NDArray[np.int64], share: Share, *, seed: int, name: str, window: int) -> None:
        check_size(int(first[-1]), share, name=name)
        self.first, self.share, self.seed, self.window = first, share, seed, window
        self.size = int(first[-1])
        self.steps_per_epoch = self.size // share.global_batch_size
        self._epoch = -1
        self._shard_order = self._before = np.empty(0, dtype=np.int64)
        self._windows: dict[int, NDArray[np.int64]] = {}

    def index(self, step: int) -> NDArray[np.int64]:
        """(B,) rows of this process at ``step``."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            sizes = np.diff(self.first)
            self._shard_order = np.random.default_rng([self.seed, Draw.ORDER, epoch]).permutation(len(sizes))
            self._before = np.concatenate([[0], np.cumsum(sizes[self._shard_order])])
            self._epoch, self._windows = epoch, {}
        start = within * self.share.global_batch_size + self.share.rank * self.share.batch_size
        place_B = np.arange(start, start + self.share.batch_size)
        number_B = place_B // self.window
        needed = range(int(number_B[0]), int(number_B[-1]) + 1)
        self._windows = {number: self._windows.get(number, self._order(number)) for number in needed}
        shuffled = [self._windows[number][place_B[number_B == number] - number * self.window] for number in needed]
        shuffled_B = np.concatenate(shuffled)
        turn_B = np.searchsorted(self._before, shuffled_B, side="right") - 1
        row_B: NDArray[np.int64] = self.first[self._shard_order[turn_B]] + shuffled_B - self._before[turn_B]
        return row_B

    def _order(self, number: int) -> NDArray[np.int64]:
        begin = number * self.window
        rows = np.arange(begin, min(begin + self.window, self.size))
        return np.random.default_rng([self.seed, Draw.WINDOWS, self._epoch, number]).permutation(rows)


BERT_MASK_SHARE = 0.15


class TokenMasker:
    """BERT's masking: ``share`` of the tokens are predicted; of those 80% become the mask token, 10% a random one.

    Every row draws from a generator of its own, named by seed, step and its place in the global batch, so that the
    draws do not depend on the number of processes.

    Args:
        mask_id: The mask token.
        vocabulary_size: Ids that a random token is drawn from.
        special_ids: Tokens that are never chosen.
        seed: Names the draws.
        share: Of the tokens, or of the words with ``continues_V``.
        continues_V: True of pieces that go on with the word before them; with it a word is masked whole.
        hides_all: Whether every chosen token becomes the mask token, as for an evaluation.

    Source: Devlin et al. 2019, section 3.1; whole words as in BERT's later release.
    """

    def __init__(
        self,
        *,
        mask_id: int,
        vocabulary_size: int,
        special_ids: Sequence[int],
        seed: int,
        share: float = BERT_MASK_SHARE,
        continues_V: NDArray[np.bool_] | None = None,
        hides_all: bool = False,
    ) -> None:
        self.mask_id, self.vocabulary_size, self.seed, self.share = mask_id, vocabulary_size, seed, share
        self.special_ids = np.asarray(sorted(special_ids))
        self.continues_V, self.hides_all = continues_V, hides_all

    def mask(self, ids_T: NDArray[np.int64], *, step: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The masked copy of one sentence and its labels; ``row`` is its place in the global batch."""
        generator = np.random.default_rng([self.seed, Draw.MASKS, step, row])
        special_T = np.isin(ids_T, self.special_ids)
        word_T = self._words(ids_T, special_T)
        chosen_T = (generator.random(len(ids_T)) < self.share)[word_T] & ~special_T
        if self.hides_all:
            return np.where(chosen_T, self.mask_id, ids_T), np.where(chosen_T, ids_T, IGNORED_LABEL)
        kind_T = generator.random(len(ids_T))
        random_T = generator.integers(self.vocabulary_size, size=len(ids_T))
        masked_T = np.where(chosen_T & (kind_T < 0.8), self.mask_id, ids_T)
        masked_T = np.where(chosen_T & (kind_T >= 0.9), random_T, masked_T)
        return masked_T, np.where(chosen_T, ids_T, IGNORED_LABEL)

    def masked(
        self, rows: Sequence[NDArray[np.int64]], *, step: int, places: Iterable[int], pad_id: int
    ) -> MaskedTokens:
        """The masked copies of sentences, whose places in the global batch are the first of ``places``."""
        drawn = [self.mask(ids_T, step=step, row=row) for ids_T, row in zip(rows, places, strict=False)]
        masked, labels = zip(*drawn, strict=True)
        return MaskedTokens(TokenBatch.padded(masked, pad_id=pad_id), pad_rows(labels, fill=IGNORED_LABEL))

    def _words(self, ids_T: NDArray[np.int64], special_T: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The number of the word that each token is masked with."""
        if self.continues_V is None:
            return np.arange(len(ids_T))
        # A text's first piece need not look like one: it then shares the draw of a special token, never chosen itself.
        begins_T = ~self.continues_V[ids_T] | special_T
        begins_T[:1] = True
        word_T: NDArray[np.int64] = begins_T.cumsum() - 1
        return word_T


class TokenRepeater:
    """ESimCSE's positives: the sentence with some of its pieces of words doubled.

    A sentence of T tokens, special ones included, gets fewer than ⌊rate · T⌋ doubled, and fewer than 10, each number
    with the same chance. Every row draws from a generator of its own, as for ``TokenMasker``.

    Args:
        rate: Published: 0.32 for BERT, 0.30 for RoBERTa.
        special_ids: Tokens that are never doubled.
        max_length: Tokens that are kept, of a special one at the end that one too.
        seed: Names the draws.

    Source: Wu et al. 2022, section 3.1, as the released code has it, which draws once and cuts nothing.
    """

    def __init__(self, *, rate: float, special_ids: Sequence[int], max_length: int, seed: int) -> None:
        self.rate, self.max_length, self.seed = rate, max_length, seed
        self.special_ids = np.asarray(sorted(special_ids))

    def repeat(self, ids_T: NDArray[np.int64], *, step: int, row: int) -> NDArray[np.int64]:
        """The sentence with some tokens twice; ``row`` is its place in the global batch."""
        most = min(10, int(self.rate * len(ids_T)))
        if most < 2:
            return ids_T
        generator = np.random.default_rng([self.seed, Draw.REPEATED, step, row])
        own_N = np.flatnonzero(~np.isin(ids_T, self.special_ids))
        chosen = generator.choice(own_N, size=min(int(generator.integers(most)), len(own_N)), replace=False)
        times_T = np.ones(len(ids_T), dtype=np.int64)
        times_T[chosen] = 2
        repeated = np.repeat(ids_T, times_T)
        if len(repeated) > self.max_length and ids_T[-1] in self.special_ids:
            repeated[self.max_length - 1] = ids_T[-1]
        return repeated[: self.max_length]


class SampledStream:
    """What streams share whose batches an order draws."""

    sampler: Order

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in one pass."""
        return self.sampler.steps_per_epoch


class SentenceStream(SampledStream):
    """Batches of sentences: one column for dropout positives, three for query, positive and hard negative.

    Args:
        table: Tokenised sentences.
        sampler: Draws rows of it.
        pad_id: The tokenizer's padding id.
        masker: Draws masks for the language-model term.
        repeater: Draws positives of sentences that stand alone.
        teachers: Rows of the sentences.
    """

    def __init__(
        self,
        table: TokenRows,
        sampler: Order,
        *,
        pad_id: int,
        masker: TokenMasker | None = None,
        repeater: TokenRepeater | None = None,
        teachers: TeacherColumn | None = None,
    ) -> None:
        self.table, self.sampler, self.pad_id, self.masker = table, sampler, pad_id, masker
        self.repeater, self.teachers = repeater, teachers

    @property
    def columns(self) -> int:
        """Sentences a row: 1, or 3 for query, positive and hard negative."""
        return self.table.columns

    @property
    def facts(self) -> dict[str, str | int | float]:
        """For the start of a run."""
        return {"sentences": len(self.table)}

    def batch(self, step: int) -> SentenceBatch:
        """This process's sentences of ``step``."""
        index = self.sampler.index(step)
        views = [self.table.ids(index, column=column) for column in range(self.table.columns)]
        return sentence_batch(
            views,
            step=step,
            share=self.sampler.share,
            pad_id=self.pad_id,
            masker=self.masker,
            repeater=self.repeater,
            teacher_BF=None if self.teachers is None else self.teachers.rows(index),
        )


def sentence_batch(
    views: Sequence[Sequence[NDArray[np.int64]]],
    *,
    step: int,
    share: Share,
    pad_id: int,
    masker: TokenMasker | None,
    repeater: TokenRepeater | None = None,
    teacher_BF: FloatArray | None = None,
) -> SentenceBatch:
    """The batch of ``step`` from token ids: one view a sentence, or query, positive and hard negative."""
    masked = _masked(masker, views, step=step, share=share, pad_id=pad_id)
    query, *others = (TokenBatch.padded(ids, pad_id=pad_id) for ids in views)
    positive, negative = (*others, None, None)[:2]
    return SentenceBatch(
        query=query,
        positive=positive or _repeated(repeater, views[0], step=step, share=share, pad_id=pad_id),
        negative=negative,
        masked=masked,
        teacher_BF=None if teacher_BF is None else torch.from_numpy(teacher_BF),
    )


class MaskedStream(SampledStream):
    """Batches of sentences with masked tokens, drawn anew each time that a sentence comes.

    Args:
        table: Tokenised sentences, one column.
        sampler: Draws rows of it.
        pad_id: The tokenizer's padding id.
        masker: Draws masks.
    """

    def __init__(self, table: TokenRows, sampler: Order, *, pad_id: int, masker: TokenMasker) -> None:
        self.table, self.sampler, self.pad_id, self.masker = table, sampler, pad_id, masker

    def batch(self, step: int) -> MaskedTokens:
        """This process's sentences of ``step``."""
        share = self.sampler.share
        rows = self.table.ids(self.sampler.index(step))
        places = itertools.count(share.rank * share.batch_size)
        return self.masker.masked(rows, step=step, places=places, pad_id=self.pad_id)


class ImageRows(Protocol):
    """Where images come from: a feature store, or image files read as pixels."""

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) features, or (B, 3, height, width) pixels."""
        ...


class PairStream(SampledStream):
    """Batches of captions with their images.

    Args:
        captions: Tokenised captions, one column.
        image_of_caption: For every caption, the row of ``images`` it is shown with.
        images: The images.
        sampler: Draws captions.
        pad_id: The tokenizer's padding id.
        masker: Draws masks for the language-model term.
        repeater: Draws captions' positives.
        teachers: Rows of the captions.
        is_wrong: Which captions a control shows with a wrong image, where there is one.
    """

    def __init__(
        self,
        captions: TokenRows,
        image_of_caption: RowNumbers,
        images: ImageRows,
        sampler: Order,
        *,
        pad_id: int,
        masker: TokenMasker | None = None,
        repeater: TokenRepeater | None = None,
        teachers: TeacherColumn | None = None,
        is_wrong: NDArray[np.bool_] | None = None,
    ) -> None:
        self.captions, self.image_of_caption, self.images = captions, image_of_caption, images
        self.is_wrong = is_wrong
        self.sampler, self.pad_id, self.masker = sampler, pad_id, masker
        self.repeater, self.teachers = repeater, teachers

    def batch(self, step: int) -> PairBatch:
        """This process's captions and images of ``step``."""
        index = self.sampler.index(step)
        ids = self.captions.ids(index)
        image_id_B = self.image_of_caption[index]
        share, pad_id = self.sampler.share, self.pad_id
        return PairBatch(
            caption=TokenBatch.padded(ids, pad_id=pad_id),
            image_BF=torch.from_numpy(self.images.rows(image_id_B)),
            image_id_B=torch.from_numpy(image_id_B),
            masked=_masked(self.masker, [ids], step=step, share=share, pad_id=pad_id),
            positive=_repeated(self.repeater, ids, step=step, share=share, pad_id=pad_id),
            teacher_BF=None if self.teachers is None else torch.from_numpy(self.teachers.rows(index)),
            is_wrong_B=None if self.is_wrong is None else torch.from_numpy(self.is_wrong[index]),
        )


def _masked(
    masker: TokenMasker | None,
    views: Sequence[Sequence[NDArray[np.int64]]],
    *,
    step: int,
    share: Share,
    pad_id: int,
) -> MaskedTokens | None:
    """Masked copies of all the sentences of a batch; a sentence alone counts twice, once for each dropout view."""
    if masker is None:
        return None
    views = list(views) * 2 if len(views) == 1 else views
    first = share.rank * share.batch_size
    places = (view * share.global_batch_size + first + row for view, ids in enumerate(views) for row in range(len(ids)))
    return masker.masked([ids_T for ids in views for ids_T in ids], step=step, places=places, pad_id=pad_id)


def _repeated(
    repeater: TokenRepeater | None, ids: Sequence[NDArray[np.int64]], *, step: int, share: Share, pad_id: int
) -> TokenBatch | None:
    """The positives of the sentences of a batch, where they are not the sentences themselves."""
    if repeater is None:
        return None
    start = share.rank * share.batch_size
    repeated = [repeater.repeat(ids_T, step=step, row=start + row) for row, ids_T in enumerate(ids)]
    return TokenBatch.padded(repeated, pad_id=pad_id)
