"""Linear changes of a space of word vectors that need no image: the controls of grounding; and nearest neighbours.

V words, D width, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.text.word_vectors import WordVectors


def whiten(vectors: WordVectors) -> WordVectors:
    """Vectors with mean 0 and covariance 1 over all words, in the order of the principal components.

    Directions in which the words do not differ are left out.

    Raises:
        ValueError: Fewer than two words, or all have the same vector.
    """
    centred_VD, variance_D, axis_DD = _principal(vectors)
    kept_D = variance_D > variance_D.max() * 1e-10
    row_VD = centred_VD @ (axis_DD[:, kept_D] / np.sqrt(variance_D[kept_D]))
    return WordVectors(vectors.words, vectors.index, row_VD.astype(np.float32))


def all_but_the_top(vectors: WordVectors, *, components: int | None = None) -> WordVectors:
    """Vectors without their mean and their first principal components.

    Args:
        vectors: Any.
        components: How many; by default D / 100, and at least 1.

    Raises:
        ValueError: Fewer than two words, all with the same vector, or not fewer components than D.

    Source: Mu and Viswanath 2018, "All-but-the-Top", ICLR, algorithm 1.
    """
    count = max(1, vectors.width // 100) if components is None else components
    if not 0 <= count < vectors.width:
        raise ValueError(f"components must be fewer than the {vectors.width} of the vectors, got {count}")
    centred_VD, _, axis_DD = _principal(vectors)
    top_DC = axis_DD[:, :count]
    row_VD = centred_VD - centred_VD @ top_DC @ top_DC.T
    return WordVectors(vectors.words, vectors.index, row_VD.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A word's nearest words in two spaces, nearest first; ``only_first`` and ``only_second`` are those that differ."""

    word: str
    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def only_first(self) -> tuple[str, ...]:
        """Near in the first space and not in the second."""
        return tuple(word for word in self.first if word not in self.second)

    @property
    def only_second(self) -> tuple[str, ...]:
        """Near in the second space and not in the first."""
        return tuple(word for word in self.second if word not in self.first)


def compare_neighbours(word: str, first: WordVectors, second: WordVectors, *, count: int) -> Neighbours:
    """The ``count`` nearest words by cosine in either space, among the words of both.

    Raises:
        ValueError: ``word`` is not in both spaces, or they share no other word.
    """
    shared = [other for other in first.words if other in second.index]
    for number, space in enumerate((first, second), start=1):
        if word not in space.index:
            raise ValueError(f"{word!r} has no vector in space {number}")
    if len(shared) < 2:
        raise ValueError(f"the two spaces share no word but {word!r}")
    found = [_nearest(word, space, shared, count=count) for space in (first, second)]
    return Neighbours(word, *found)


def _nearest(word: str, space: WordVectors, candidates: list[str], *, count: int) -> tuple[str, ...]:
    row_VD = space.row_VD[[space.index[other] for other in candidates]].astype(np.float64)
    query_D = space.row_VD[space.index[word]].astype(np.float64)
    norm_V = np.linalg.norm(row_VD, axis=1)
    cosine_V = row_VD @ query_D / np.where(norm_V == 0, np.inf, norm_V)
    order = np.argsort(-cosine_V, kind="stable")[: count + 1]
    return tuple(candidates[place] for place in order if candidates[place] != word)[:count]


def _principal(vectors: WordVectors) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centred rows, variances from the largest to the smallest, and their directions in columns."""
    centred_VD = vectors.row_VD.astype(np.float64)
    centred_VD -= centred_VD.mean(0)
    if len(vectors) < 2 or not centred_VD.any():
        raise ValueError(f"{len(vectors)} words without a difference have no principal components")
    variance_D, axis_DD = np.linalg.eigh(centred_VD.T @ centred_VD / len(vectors))
    return centred_VD, variance_D[::-1].copy(), axis_DD[:, ::-1].copy()
