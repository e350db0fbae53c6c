"""Rank correlation part by part: of long and short sentence pairs, and of pairs that share many words or few.

P pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcse.metrics.correlation import UndefinedScoreError, spearman

MIN_PAIRS = 10
"""Pairs that a task needs within a bin: the correlation of fewer says nothing."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BinScore:
    """One bin.

    Args:
        smallest: Of the values by which the pairs were binned; NaN where the bin is empty.
        largest: Likewise.
        score: Rank correlation × 100; ``None`` where no task has enough pairs in the bin.
        error: Its standard error.
        pairs: How many the score is over.
    """

    smallest: float
    largest: float
    score: float | None
    error: float
    pairs: int


def words(text: str) -> list[str]:
    """The lower-cased runs of letters, digits and underscores, with the apostrophes inside them."""
    return _WORD.findall(text.lower())


def mean_length(left: str, right: str) -> float:
    """Words a sentence, the mean of the two."""
    return (len(words(left)) + len(words(right))) / 2


def word_overlap(left: str, right: str) -> float:
    """Words of both sentences over words of either, in [0, 1]; 1 where neither has any.

    Source: Jaccard 1912.
    """
    first, second = set(words(left)), set(words(right))
    union = first | second
    return len(first & second) / len(union) if union else 1.0


def quartile_edges(value_P: ArrayLike) -> NDArray[np.float64]:
    """The distinct quartiles, at most three. A value that equals an edge belongs to the bin below it.

    Raises:
        UndefinedScoreError: There are no values.
    """
    value = np.asarray(value_P, dtype=np.float64)
    if not len(value):
        raise UndefinedScoreError("quartiles need at least one value")
    edges: NDArray[np.float64] = np.unique(np.quantile(value, [0.25, 0.5, 0.75], method="inverted_cdf"))
    inner: NDArray[np.float64] = edges[edges < value.max()]  # an edge at the top would have nothing above it
    return inner


def first_places(key_P: Sequence[object]) -> NDArray[np.bool_]:
    """(P,) whether a key stands there for the first time."""
    seen: set[object] = set()
    is_first = np.zeros(len(key_P), dtype=bool)
    for place, key in enumerate(key_P):
        is_first[place] = key not in seen
        seen.add(key)
    return is_first


def binned_spearman(
    value_P: ArrayLike, gold_P: ArrayLike, *, task_P: ArrayLike, by_P: ArrayLike, edges: ArrayLike
) -> tuple[BinScore, ...]:
    """For each bin of ``by_P`` the tasks' own rank correlations, averaged by their pairs in the bin.

    Tasks are kept apart because their gold is not on one scale: over all of them together, the correlation would
    also say which task's gold is high. A task with fewer than ``MIN_PAIRS`` pairs in a bin, or with constant gold
    or values there, is left out of it.

    Args:
        value_P: Cosines.
        gold_P: Gold scores.
        task_P: Number of the task that a pair is of.
        by_P: Length, overlap or another property of the pair.
        edges: Upper ends of all bins but the last, as of ``quartile_edges``.

    Raises:
        ValueError: The lists are not of one length.
    """
    value, gold, by = (np.asarray(values, dtype=np.float64) for values in (value_P, gold_P, by_P))
    task, edge = np.asarray(task_P), np.asarray(edges, dtype=np.float64)
    if not value.shape == gold.shape == by.shape == task.shape or value.ndim != 1:
        shapes = ", ".join(str(values.shape) for values in (value, gold, task, by))
        raise ValueError(f"values, gold, tasks and bins must be lists of one length, got {shapes}")
    bin_P = np.searchsorted(edge, by, side="left")
    return tuple(
        _bin_score(value[here], gold[here], task[here], by[here])
        for number in range(len(edge) + 1)
        for here in [bin_P == number]
    )


def spearman_error(score: float, pairs: int) -> float:
    """Standard error of a rank correlation in [-1, 1] over four pairs or more.

    Source: Bonett & Wright 2000, the variance (1 + ρ²/2) / (n - 3) of Fisher's z; here on the scale of ρ itself, by
    the slope 1 - ρ².
    """
    return (1 - score**2) * math.sqrt((1 + score**2 / 2) / (pairs - 3))


def _bin_score(
    value_P: NDArray[np.float64], gold_P: NDArray[np.float64], task_P: NDArray[np.generic], by_P: NDArray[np.float64]
) -> BinScore:
    scores, counts = [], []
    for number in np.unique(task_P):
        here = task_P == number
        if (count := int(here.sum())) < MIN_PAIRS:
            continue
        try:
            scores.append(spearman(value_P[here], gold_P[here]))
        except UndefinedScoreError:
            continue
        counts.append(count)
    total = sum(counts)
    variance = sum((n / total * spearman_error(rho, n)) ** 2 for rho, n in zip(scores, counts, strict=True))
    return BinScore(
        smallest=float(by_P.min()) if len(by_P) else math.nan,
        largest=float(by_P.max()) if len(by_P) else math.nan,
        score=100 * float(np.average(scores, weights=counts)) if counts else None,
        error=100 * math.sqrt(variance),
        pairs=total,
    )
