"""Protocols: the only things evaluators, the loop and the recipes know of each other.

N sentences or images, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Batch_co = TypeVar("Batch_co", covariant=True)


@runtime_checkable
class Encoder(Protocol):
    """Turns sentences into rows. Evaluators see nothing else of a model."""

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """(N, D) float32, row i for sentence i; unit norm unless ``normalize`` is false."""
        ...


@runtime_checkable
class ImageTextEncoder(Protocol):
    """Turns captions and stored image features into rows of one joint space."""

    def encode_captions(self, sentences: Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, D) float32 unit rows in the joint space."""
        ...

    def encode_images(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, D) float32 unit rows in the joint space, from (N, F) features."""
        ...


@dataclass(frozen=True, slots=True)
class Entity:
    """Words ``start`` … ``stop - 1`` name something of type ``kind``.

    ``score`` is the model's probability, in [0, 1], that exactly these words are an entity of this type.
    """

    start: int
    stop: int
    kind: str
    score: float


@dataclass(frozen=True, slots=True)
class Tagging:
    """A tagged text: valid BIO by word, the entities, and how probable it is that text and picture belong together.

    ``match`` is ``None`` where there was no picture or the model does not judge pictures.
    """

    tags: tuple[str, ...]
    entities: tuple[Entity, ...]
    match: float | None


@runtime_checkable
class Tagger(Protocol):
    """Finds entities in texts that are given as words, with or without pictures."""

    def tag(self, texts: Sequence[Sequence[str]], images: Sequence[FloatArray | None] | None = None) -> list[Tagging]:
        """One tagging a text, in order; ``images`` are feature rows or pixels as the model takes them."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """One number of an evaluation, and which way is better."""

    value: float
    higher_is_better: bool = True


class Evaluator(Protocol):
    """Judges the model as it is now. Must not disturb training: no gradient, no random draws, mode restored."""

    def __call__(self) -> Mapping[str, Score]:
        """Scores by name, such as ``stsb_dev.spearman``."""
        ...


class Stream(Protocol[Batch_co]):
    """Endless batches, each a pure function of its step: resuming needs the step and nothing else."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps in which every example is drawn once (whole batches only); ``None`` where nobody has counted them."""
        ...

    def batch(self, step: int) -> Batch_co:
        """This process's share of step ``step``'s global batch, counted from 0 over all epochs."""
        ...


class Stateful(Protocol):
    """Anything else a checkpoint must carry to resume bit for bit; every process saves and gets back its own."""

    def state_dict(self) -> dict[str, Any]:
        """Values that are tensors or plain JSON, by names without dots."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` returned."""
        ...
