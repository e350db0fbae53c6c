"""Mixing sentences and pairs: which kind of batch a step takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from mcse.data.controls_config import EveryMix, Mix
from mcse.data.sentences.streaming import StreamedSentences
from mcse.types import PairBatch, SentenceBatch, Stateful, Stream

Captions = TypeVar("Captions", bound=PairBatch | SentenceBatch)


@dataclass(frozen=True, slots=True)
class Mixture:
    """A period of steps (``None``: endless), and which of them take the rarer kind: those divisible by ``every``."""

    steps_per_epoch: int | None
    every: int
    pairs_are_rare: bool

    def drawn_an_epoch(self, global_batch_size: int) -> dict[str, int]:
        """What an epoch really draws: the published schedule passes over pairs more than once."""
        if self.steps_per_epoch is None:
            return {}
        rare = -(-self.steps_per_epoch // self.every)
        paired = rare if self.pairs_are_rare else self.steps_per_epoch - rare
        return {
            "sentences an epoch": (self.steps_per_epoch - paired) * global_batch_size,
            "pairs an epoch": paired * global_batch_size,
        }

    def place(self, step: int) -> tuple[bool, int]:
        """Whether ``step`` is paired, and how many steps of the same kind came before it."""
        period = self.steps_per_epoch
        epoch, within = (0, step) if period is None else divmod(step, period)
        rare_an_epoch = 0 if period is None else -(-period // self.every)
        rare_before = epoch * rare_an_epoch + -(-within // self.every)
        is_rare = within % self.every == 0
        before = rare_before if is_rare else step - rare_before
        return is_rare == self.pairs_are_rare, before


def plan_mixture(config: Mix, *, sentence_steps: int | None, pair_steps: int | None) -> Mixture:
    """The published schedule, or a fixed beat.

    With T text and P paired batches an epoch, r = ⌊T/P⌋, an epoch has T + P steps, and step s of it is paired if and
    only if r divides s. Where pairs outnumber sentences the roles swap. We depart where r would be 1, which in the
    original never takes a text batch: there every second step is paired.

    Raises:
        ValueError: The published schedule needs T, which is unknown because sentences are streamed.

    Source: MCSE's released training loop (section 4.1 of the paper gives no formula).
    """
    if sentence_steps is None or pair_steps is None:
        if not isinstance(config, EveryMix):
            raise ValueError(
                f"mix.schedule: {config.schedule!r} needs the number of sentences, which a stream does not know; "
                "give every, and mix.pair_every"
            )
        return Mixture(steps_per_epoch=None, every=config.pair_every, pairs_are_rare=True)
    total = sentence_steps + pair_steps
    if isinstance(config, EveryMix):
        return Mixture(steps_per_epoch=total, every=config.pair_every, pairs_are_rare=True)
    pairs_are_rare = sentence_steps >= pair_steps
    few, many = sorted((sentence_steps, pair_steps))
    return Mixture(steps_per_epoch=total, every=max(many // few, 2), pairs_are_rare=pairs_are_rare)


class MixedStream(Generic[Captions]):
    """Text-only and paired batches in one stream; both parts are endless and keep their place across epochs.

    The paired ones may be captions as text: the fair baseline takes them on the same steps.
    """

    def __init__(
        self,
        sentences: Stream[SentenceBatch],
        pairs: Stream[Captions],
        mixture: Mixture,
    ) -> None:
        self.sentences, self.pairs, self.mixture = sentences, pairs, mixture

    @property
    def steps_per_epoch(self) -> int | None:
        """T + P; ``None`` if T is unknown."""
        return self.mixture.steps_per_epoch

    def batch(self, step: int) -> SentenceBatch | Captions:
        """The batch of ``step``, of either kind."""
        is_paired, before = self.mixture.place(step)
        return self.pairs.batch(before) if is_paired else self.sentences.batch(before)


def carried_part(stream: object) -> Stateful | None:
    """The part of a stream that reads on from where it stopped, and whose place a checkpoint therefore carries."""
    part = stream.sentences if isinstance(stream, MixedStream) else stream
    return part if isinstance(part, StreamedSentences) else None
