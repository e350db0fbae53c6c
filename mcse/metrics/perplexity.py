"""Perplexity, and the n-gram models that a language model has to beat.

V words, N sentences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Sentences = Sequence[Sequence[int]]


def perplexity(nll: ArrayLike) -> float:
    """The exponential of the mean of negative log-likelihoods in nats.

    Raises:
        ValueError: There are none.
    """
    values = np.asarray(nll, dtype=np.float64)
    if values.size == 0:
        raise ValueError("the perplexity of no words does not exist")
    return math.exp(values.mean())


class UnigramModel:
    """Words by how often they occur, with one added to every count.

    Args:
        sentences: Ids in [0, V), the end mark of each sentence among them.
        size: V.
    """

    def __init__(self, sentences: Iterable[Sequence[int]], *, size: int) -> None:
        counts = np.ones(size)
        for sentence in sentences:
            np.add.at(counts, np.asarray(sentence, dtype=np.int64), 1)
        self._nll_V = -np.log(counts / counts.sum())

    def nll(self, sentences: Sentences) -> list[NDArray[np.float64]]:
        """Nats of every word, sentence by sentence."""
        return [self._nll_V[np.asarray(sentence, dtype=np.int64)] for sentence in sentences]


class TrigramModel:
    """An interpolated Kneser–Ney trigram model.

    P(w | u v) takes a discount from every count and gives what it took to P(w | v), likewise to P(w), whose counts are
    those of the different words that w was seen after; that gives to the uniform distribution over V words.

    Args:
        sentences: Ids in [0, V), the end mark among them; the two places before a sentence are filled with -1.
        size: V.
        discount: In (0, 1); by default estimated for each order as n1 / (n1 + 2 n2).

    Source: Ney, Essen and Kneser 1994; interpolated as in Chen and Goodman 1999, section 3.
    """

    def __init__(self, sentences: Iterable[Sequence[int]], *, size: int, discount: float | None = None) -> None:
        trigrams: Counter[tuple[int, int, int]] = Counter()
        for sentence in sentences:
            u, v = -1, -1
            for w in sentence:
                trigrams[u, v, w] += 1
                u, v = v, w
        if not trigrams:
            raise ValueError("a trigram model of no words does not exist")
        bigrams = Counter((v, w) for _, v, w in trigrams)
        unigrams = Counter(w for _, w in bigrams)
        self._size = size
        self._orders = tuple(_Order(counts, discount=discount) for counts in (trigrams, bigrams, unigrams))

    def probability(self, history: tuple[int, int], word: int) -> float:
        """P(word | the two words before)."""
        u, v = history
        trigram, bigram, unigram = self._orders
        # A word alone has no history; the tuple around it keeps the three orders alike.
        below = unigram.interpolate((), word, below=1 / self._size)
        below = bigram.interpolate(v, (v, word), below=below)
        return trigram.interpolate((u, v), (u, v, word), below=below)

    def nll(self, sentences: Sentences) -> list[NDArray[np.float64]]:
        """Nats of every word, sentence by sentence."""
        found = []
        for sentence in sentences:
            history = (-1, -1)
            nll = np.empty(len(sentence))
            for place, word in enumerate(sentence):
                nll[place] = -math.log(self.probability(history, word))
                history = (history[1], word)
            found.append(nll)
        return found


class _Order:
    """Counts of one order: how often each n-gram, and by history the sum and the number of different words."""

    def __init__(self, counts: Mapping[Any, int], *, discount: float | None) -> None:
        self._counts = counts
        self._sums: Counter[object] = Counter()
        self._kinds: Counter[object] = Counter()
        for gram, count in counts.items():
            history = _history(gram)
            self._sums[history] += count
            self._kinds[history] += 1
        singles = sum(count == 1 for count in counts.values())
        doubles = sum(count == 2 for count in counts.values())
        # Without n-grams seen once there is nothing to estimate a discount from.
        self._discount = discount or (singles / (singles + 2 * doubles) if singles and doubles else 0.5)

    def interpolate(self, history: object, gram: object, *, below: float) -> float:
        total = self._sums.get(history, 0)
        if total == 0:
            return below
        kept = max(self._counts.get(gram, 0) - self._discount, 0.0)
        return (kept + self._discount * self._kinds[history] * below) / total


def _history(gram: object) -> object:
    if not isinstance(gram, tuple):
        return ()
    return gram[:2] if len(gram) == 3 else gram[0]
