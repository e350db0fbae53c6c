"""``WordVectorEncoder``: a sentence is the mean of its words' static vectors; how many words are known is counted.

N sentences, T tokens of one sentence, V words, D width.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcse.encoders.inputs import as_texts, check_only_pooling
from mcse.manifest import Located, locate
from mcse.models.grounded_checkpoint import vectors_file
from mcse.text.word_vectors import WordVectors, load_word_vectors
from mcse.types import FloatArray

_PUNCTUATION = string.punctuation + "“”‘’«»…–—"
_APOSTROPHES = "'’"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many tokens have a vector, and how many sentences have no token with one: their rows are zeros."""

    tokens: int = 0
    known_tokens: int = 0
    sentences: int = 0
    unknown_sentences: int = 0

    @property
    def share(self) -> float:
        """Of the tokens that are known, in [0, 1]; 0 where there are no tokens."""
        return self.known_tokens / self.tokens if self.tokens else 0.0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            tokens=self.tokens + other.tokens,
            known_tokens=self.known_tokens + other.known_tokens,
            sentences=self.sentences + other.sentences,
            unknown_sentences=self.unknown_sentences + other.unknown_sentences,
        )

    @property
    def text(self) -> str:
        """In one line, for reports."""
        return (
            f"{100 * self.share:.2f}% of {self.tokens:,} tokens have a vector; "
            f"{self.unknown_sentences:,} of {self.sentences:,} sentences have no known word"
        )


class WordVectorEncoder:
    """Averages static word vectors.

    Tokens are what white space parts. A token is looked up as it is, in lower case, and capitalised ("usain" as
    "Usain"); then the same without punctuation at its ends, for text that was never tokenised ("guitar." as "guitar").
    The first form that has a vector counts. All tokens weigh alike, and stop words stay.

    Args:
        vectors: The words and their rows.
        name: What to call the encoder in messages and reports.
    """

    pooling = "mean"

    def __init__(self, vectors: WordVectors, *, name: str = "") -> None:
        self._vectors = vectors
        self._coverage = Coverage()
        self.name = name

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: object = None,
        precision: str = "float32",
    ) -> WordVectorEncoder:
        """Loads what ``locate`` calls word vectors; ``device`` and ``precision`` change nothing here.

        Raises:
            ValueError: The file cannot be read, a checkpoint is damaged, or another pooling is asked for.
        """
        located = locate(name_or_path)
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
        """D, the width of the rows of ``encode``."""
        return self._vectors.width

    def encode(self, sentences: str | Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """Means of the known words' rows, in the order of the sentences; zeros where no word is known.

        Args:
            sentences: Several, or one.
            batch_size: For the protocol; means are the same in any batches.
            normalize: Whether rows have unit norm. Rows of zeros stay zeros.

        Returns:
            (N, D) float32, or (D,) for a single string.

        Raises:
            ValueError: An item is not a string, or ``batch_size`` is below 1.
        """
        texts = as_texts(sentences, batch_size=batch_size)
        row_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        known = [self._known_rows(text) for text in texts]
        for number, rows in enumerate(known):
            if rows:
                row_ND[number] = self._vectors.row_VD[rows].mean(axis=0, dtype=np.float64)
        self._coverage += _count(texts, known)
        if normalize:
            norm_N1 = np.linalg.norm(row_ND.astype(np.float64), axis=1, keepdims=True)
            row_ND = (row_ND / np.where(norm_N1 == 0, 1.0, norm_N1)).astype(np.float32)
        row: FloatArray = row_ND[0] if isinstance(sentences, str) else row_ND
        return row

    def coverage(self) -> Coverage:
        """Of every sentence encoded so far in this process, repeats included. Coverages add up over processes."""
        return self._coverage

    def coverage_of(self, sentences: Iterable[str]) -> Coverage:
        """Of these sentences; they are not encoded."""
        texts = list(sentences)
        return _count(texts, [self._known_rows(text) for text in texts])

    def _known_rows(self, sentence: str) -> list[int]:
        found = (self._known_row(token) for token in sentence.split())
        return [row for row in found if row is not None]

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


def _count(sentences: Sequence[str], known: Sequence[Sequence[int]]) -> Coverage:
    return Coverage(
        tokens=sum(len(sentence.split()) for sentence in sentences),
        known_tokens=sum(map(len, known)),
        sentences=len(sentences),
        unknown_sentences=sum(not rows for rows in known),
    )


def _forms(token: str) -> list[str]:
    """What a token may stand as in the file, the first to count first."""
    forms = [token, token.lower(), token.capitalize()]
    # What tokenizers split off ("'t", "'s") is no word in quotes.
    bare = token if token[0] in _APOSTROPHES else token.strip(_PUNCTUATION)
    return [*forms, bare, bare.lower(), bare.capitalize()] if bare and bare != token else forms
