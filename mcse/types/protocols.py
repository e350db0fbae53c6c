"""Protocols: the only things evaluators, the loop and the recipes know of each other.

N sentences or images, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Batch_co = TypeVar("Batch_co", covariant=True)


@runtime_checkable
class Encoder(Protocol):
    """Turns sentences into embeddings. Evaluators see nothing else of a model."""

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """(N, D) float32, embedding i for sentence i; unit norm unless ``normalize`` is false."""


@runtime_checkable
class FeatureTextEncoder(Protocol):
    """Turns captions and stored image features into embeddings of one joint space."""

    def encode_captions(self, sentences: Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, D) float32 unit embeddings in the joint space."""

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, D) float32 unit embeddings in the joint space, from (N, F) features."""


@runtime_checkable
class ImageTextEncoder(FeatureTextEncoder, Protocol):
    """Also takes images themselves: it knows the image tower whose features it was trained with."""

    def encode_images(self, images: Sequence[Any], *, batch_size: int = 32) -> FloatArray:
        """(N, D) float32 unit embeddings in the joint space, of PIL images or paths."""


@runtime_checkable
class WordEncoder(Protocol):
    """Turns every word of tokenised sentences into a vector."""

    def embed(self, sentences: Sequence[Sequence[str]], *, batch_size: int = 64) -> list[FloatArray]:
        """One (T, D) float32 array a sentence, vector t for its token t."""


@runtime_checkable
class KnownWords(Protocol):
    """Text that is read word by word, from a vocabulary."""

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of a sentence that are not known, in order."""

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first."""

    def check_query(self, sentence: str) -> None:
        """Refuses a sentence without any known word with a ``ValueError`` that suggests known ones."""


@runtime_checkable
class LanguageModel(Protocol):
    """Says how surprised it is by text, in one direction or the other."""

    def nll(
        self, sentences: Sequence[Sequence[str]], *, backward: bool = False, batch_size: int = 64
    ) -> list[NDArray[np.float64]]:
        """Nats of each word of a sentence in reading order, then of its end (``backward``: of its begin): T + 1."""


@runtime_checkable
class Translator(Protocol):
    """Turns sentences into sentences of another language."""

    def translate(self, sentences: Sequence[str], *, beams: int = 1, batch_size: int = 64) -> list[str]:
        """One translation a sentence; ``beams`` 1 is greedy."""

    def nll(
        self, sentences: Sequence[str], translations: Sequence[str], *, batch_size: int = 64
    ) -> list[NDArray[np.float64]]:
        """Nats of each word of a given translation, then of its end."""


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
    """A tagged text: valid BIO by word, the entities, and how probable it is that text and image belong together.

    ``match`` is ``None`` where there was no image or the model does not match images.
    """

    tags: tuple[str, ...]
    entities: tuple[Entity, ...]
    match: float | None


@runtime_checkable
class Tagger(Protocol):
    """Finds entities in texts that are given as words, with or without images."""

    def tag(self, texts: Sequence[Sequence[str]], images: Sequence[FloatArray | None] | None = None) -> list[Tagging]:
        """One tagging a text, in order; ``images`` are feature rows or pixels as the model takes them."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number of an evaluation, and which way is better."""

    value: float
    higher_is_better: bool = True


class Evaluator(Protocol):
    """Scores the model as it is now. Must not disturb training: no gradient, no random draws, mode restored."""

    def __call__(self) -> Mapping[str, Score]:
        """Scores by name, such as ``stsb_dev.spearman``."""


class Stream(Protocol[Batch_co]):
    """Endless batches, each a pure function of its step: resuming needs the step and nothing else."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps in which every example is drawn once (whole batches only); ``None`` where they are not counted."""

    def batch(self, step: int) -> Batch_co:
        """This process's share of step ``step``'s global batch, counted from 0 over all epochs."""


class Tokenizer(Protocol):
    """Text to token ids: words of a vocabulary, or pieces that make any word."""

    def __len__(self) -> int: ...

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""

    @property
    def longest(self) -> int | None:
        """Most tokens that it may give a text, special ones included; ``None`` where nothing limits it."""

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The words that it knows; ``None`` where pieces make any word."""
        return None

    @property
    def digest(self) -> str:
        """Tells tokenizers apart that give other ids."""

    def ids(self, texts: Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """Ids of each text with the special tokens, at most ``max_length`` of them."""

    def knows_some(self, text: str) -> bool:
        """Whether it knows any word of a text; pieces make any word."""
        return True

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that it does not know, in order; none where pieces make any word."""
        return []

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first; none where it has no words."""
        return []

    def save(self, folder: Path) -> None:
        """Writes its files into a checkpoint folder."""


class Stateful(Protocol):
    """Anything else a checkpoint must carry to resume bit for bit; every process saves and gets back its own."""

    def state_dict(self) -> dict[str, Any]:
        """Values that are tensors or plain JSON, by names without dots."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` returned."""
