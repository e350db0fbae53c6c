"""Words in context: the occurrences of words nearest to one occurrence, and senses told apart by pseudo-words.

N occurrences, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.stored_rows import unit
from mcse.types import FloatArray, WordEncoder


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A word at its place in a sentence."""

    words: tuple[str, ...]
    place: int

    @property
    def word(self) -> str:
        """The word itself."""
        return self.words[self.place]


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An occurrence and its cosine with the one asked about."""

    occurrence: Occurrence
    cosine: float


def find_occurrences(
    sentences: Sequence[Sequence[str]], words: Sequence[str], *, limit: int | None = None
) -> list[Occurrence]:
    """Occurrences of these words in any case, in the order of the text; at most ``limit`` of each word."""
    wanted = {word.lower(): 0 for word in words}
    found = []
    for tokens in sentences:
        for place, token in enumerate(tokens):
            form = token.lower()
            if form in wanted and (limit is None or wanted[form] < limit):
                wanted[form] += 1
                found.append(Occurrence(tuple(tokens), place))
    return found


def occurrence_rows(encoder: WordEncoder, occurrences: Sequence[Occurrence], *, batch_size: int = 64) -> FloatArray:
    """(N, D) unit rows of occurrences, each read in its own sentence; a row of zeros stays zeros."""
    sentences = list(dict.fromkeys(occurrence.words for occurrence in occurrences))
    embedded = dict(zip(sentences, encoder.embed(sentences, batch_size=batch_size), strict=True))
    return unit(np.stack([embedded[occurrence.words][occurrence.place] for occurrence in occurrences]))


def nearest_occurrences(
    encoder: WordEncoder, query: Occurrence, others: Sequence[Occurrence], *, k: int = 10
) -> list[Neighbor]:
    """The ``k`` occurrences most similar to the query, other sentences than its own alone.

    Raises:
        ValueError: There is no other occurrence.

    Source: Peters et al. 2018, table 4: neighbours of "play" in two senses.
    """
    candidates = [other for other in others if other.words != query.words]
    if not candidates:
        raise ValueError(f"no occurrence of {query.word!r} or its neighbours outside the sentence itself")
    row_ND = occurrence_rows(encoder, [query, *candidates])
    cosine_N = row_ND[1:] @ row_ND[0]
    order = np.argsort(-cosine_N, kind="stable")[:k]
    return [Neighbor(candidates[number], float(cosine_N[number])) for number in order]


@dataclass(frozen=True, slots=True)
class SenseScore:
    """How well the two words behind one pseudo-word are told apart; accuracies × 100.

    ``most_frequent`` is the accuracy of always saying the word that is the more frequent one among the labelled
    occurrences: all that a static vector, which is the same everywhere, can do.
    """

    words: tuple[str, str]
    labelled: int
    tested: int
    accuracy: float
    most_frequent: float


def pseudo_word_senses(
    encoder: WordEncoder,
    sentences: Sequence[Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    *,
    occurrences: int = 100,
    seed: int = 0,
) -> list[SenseScore]:
    """Two words are written as one; the nearest labelled occurrence then says which of them a test occurrence was.

    Occurrences are halved at random into labelled ones and tested ones. In the sentence asked about both words are
    replaced wherever they occur, so that nothing but the context can tell.

    Args:
        encoder: Under evaluation.
        sentences: Tokenised text.
        pairs: Words to merge.
        occurrences: Of each word, at most.
        seed: Of the halving.

    Raises:
        ValueError: A word of a pair occurs less than four times.

    Source: Gale, Church and Yarowsky 1992, and Schütze 1992, for pseudo-words; nearest neighbour as in Peters et al.
    2018, section 5.3.
    """
    scores = []
    for number, pair in enumerate(pairs):
        merged = {word: f"{pair[0]}{pair[1]}" for word in pair}
        found = [find_occurrences(sentences, [word], limit=occurrences) for word in pair]
        for word, group in zip(pair, found, strict=True):
            if len(group) < 4:
                raise ValueError(f"{word!r} occurs {len(group)} times, too seldom to label some and test others")
        hidden = [_replaced(occurrence, merged) for group in found for occurrence in group]
        label_N = np.repeat([0, 1], [len(group) for group in found])
        order = np.random.default_rng([seed, number]).permutation(len(label_N))
        labelled, tested = order[: len(order) // 2], order[len(order) // 2 :]
        row_ND = occurrence_rows(encoder, hidden)
        guess = label_N[labelled][(row_ND[tested] @ row_ND[labelled].T).argmax(axis=1)]
        common = np.bincount(label_N[labelled], minlength=2).argmax()
        scores.append(
            SenseScore(
                words=pair,
                labelled=len(labelled),
                tested=len(tested),
                accuracy=_percent(guess == label_N[tested]),
                most_frequent=_percent(label_N[tested] == common),
            )
        )
    return scores


def _replaced(occurrence: Occurrence, merged: Mapping[str, str]) -> Occurrence:
    words = tuple(merged.get(word.lower(), word) for word in occurrence.words)
    return Occurrence(words, occurrence.place)


def _percent(right: NDArray[np.bool_]) -> float:
    return 100 * float(right.mean())
