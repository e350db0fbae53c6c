"""``WordVectorEncoder``: a sentence is the mean of its words' static vectors; how many words are known is counted.

B sentences of one batch, V words, D width.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder
from mcse.encoders.inputs import Precision, check_only_pooling
from mcse.manifest import Located
from mcse.models.grounded_checkpoint import vectors_file
from mcse.text.word_vectors import WordVectors, load_word_vectors

_PUNCTUATION = string.punctuation + "“”‘’«»…–—"
_APOSTROPHES = "'’"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many tokens have a vector, and how many sentences have no token with one: their embeddings are zeros."""

    tokens: int
    known_tokens: int
    sentences: int
    unknown_sentences: int

    @property
    def share(self) -> float:
        """Of the tokens that are known, in [0, 1]; 0 where there are no tokens."""
        return self.known_tokens / self.tokens if self.tokens else 0.0

    @property
    def text(self) -> str:
        """In one line, for reports."""
        return (
            f"{100 * self.share:.2f}% of {self.tokens:,} tokens have a vector; "
            f"{self.unknown_sentences:,} of {self.sentences:,} sentences have no known word"
        )


class WordVectorEncoder(BaseEncoder[list[int]]):
    """Averages static word vectors, in main memory.

    Tokens are what white space parts. A token is looked up as it is, in lower case, and capitalised ("usain" as
    "Usain"); then the same without punctuation at its ends, for text that was never tokenised ("guitar." as "guitar").
    The first form that has a vector counts. All tokens weigh the same, and stop words stay.

    Args:
        vectors: The words and their rows.
        name: As for every encoder.
    """

    pooling = "mean"

    def __init__(self, vectors: WordVectors, *, name: str = "") -> None:
        self._vectors = vectors
        super().__init__(name=name)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        del precision  # means of vectors are the same under each
        check_only_pooling(located.name, pooling, only=cls.pooling, why="word vectors are averaged")
        return cls(load_word_vectors(vectors_file(located)), name=located.name)

    @classmethod
    def from_file(
        cls, path: str | Path, *, sentences: Iterable[str] | None = None, name: str | None = None
    ) -> WordVectorEncoder:
        """Reads a file of word vectors, as ``load_word_vectors`` does.

        Args:
            path: GloVe, word2vec or fastText, text or word2vec binary; a run or checkpoint of grounded words.
            sentences: Reads only what these need, so that memory stays small; other sentences then miss words.
            name: The path, by default.

        Raises:
            ValueError: The file cannot be read.
        """
        keep = None
        if sentences is not None:
            keep = {form for token in {t for s in sentences for t in s.split()} for form in _forms(token)}
        return cls(load_word_vectors(vectors_file(path), keep=keep), name=str(path) if name is None else name)

    @property
    def dimension(self) -> int:
        """D, the width of the embeddings."""
        return self._vectors.width

    def coverage_of(self, sentences: Iterable[str]) -> Coverage:
        """How many tokens of these sentences are known; they are not encoded."""
        tokens = [sentence.split() for sentence in sentences]
        known = [self._known_rows(words) for words in tokens]
        return Coverage(
            tokens=sum(map(len, tokens)),
            known_tokens=sum(map(len, known)),
            sentences=len(known),
            unknown_sentences=sum(not rows for rows in known),
        )

    def _modules(self) -> list[nn.Module]:
        return []

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        return [self._known_rows(text.split()[:max_length]) for text in texts]

    def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
        means = [self._vectors.row_VD[rows].mean(axis=0, dtype=np.float64) for rows in tokens]
        # Scaled in double precision: sentences of the same few words tie, and rounding would break their ties.
        return torch.from_numpy(np.stack(means)).float().double()

    def _known_rows(self, tokens: Sequence[str]) -> list[int]:
        return [row for row in map(self._known_row, tokens) if row is not None]

    def _known_row(self, token: str) -> int | None:
        index = self._vectors.index
        exact = index.get(token)  # most tokens by far
        return exact if exact is not None else next((index[form] for form in _forms(token) if form in index), None)


def load_space(name: str | Path, *, limit: int | None = None) -> WordVectors:
    """Word vectors of a file, or of a run or checkpoint folder of grounded words.

    Raises:
        ValueError: Nothing that can be read is there.
    """
    return load_word_vectors(vectors_file(name), limit=limit)


def _forms(token: str) -> list[str]:
    """What a token may stand as in the file, the first to count first."""
    forms = [token, token.lower(), token.capitalize()]
    # What tokenizers split off ("'t", "'s") is no word in quotes.
    bare = token if token[0] in _APOSTROPHES else token.strip(_PUNCTUATION)
    return [*forms, bare, bare.lower(), bare.capitalize()] if bare and bare != token else forms
