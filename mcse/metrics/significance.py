"""How sure a score is: bootstrap over items, differences of two models on the same items, several tests at once.

P items, C clusters of items, B bootstrap draws, b of them in a block.
"""

from __future__ import annotations

import bisect
import math
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mcse.metrics.retrieval import lower_median

DRAWS = 1000
LEVEL = 0.95
POWER = 0.8

_BLOCK_CELLS = 50_000
"""Draws × items worked on at a time: few enough for a core's own cache, which makes it several times faster."""

_Name = TypeVar("_Name")

Counts = NDArray[np.int64]
"""(b, P): how often each item is drawn."""


def bootstrap_counts(
    name: str, group_P: ArrayLike, *, cluster_P: ArrayLike | None = None, draws: int = DRAWS
) -> Iterator[Counts]:
    """Draws with replacement of whole clusters, as many of each group as it has; some draws at a time.

    The draws depend on ``name``, groups and clusters alone, so that two models on the same items are compared draw by
    draw.

    Args:
        name: Seeds the draws.
        group_P: Number of the group that each item is in: its stratum.
        cluster_P: Number of the items that are drawn together; every item by itself if it is not given. Clusters end
            at groups. Where they differ in size, so do draws.
        draws: B, how many.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 3.2 (strata) and 3.8 (clusters).
    """
    group = np.asarray(group_P)
    cluster = np.arange(len(group)) if cluster_P is None else np.asarray(cluster_P)
    generator = np.random.default_rng([zlib.crc32(name.encode()), len(group)])
    # Of each group the places of its items, the cluster of each, from 0 on, and how many clusters it has.
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
    for number in np.unique(group):
        place = np.flatnonzero(group == number)
        known, own = np.unique(cluster[place], return_inverse=True)
        parts.append((place, own, len(known)))
    step = max(1, _BLOCK_CELLS // max(1, len(group)))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        count_bP = np.empty((size, len(group)), dtype=np.int64)
        for place, own, number in parts:
            cell = generator.integers(number, size=(size, number)) + number * np.arange(size)[:, None]
            count_bP[:, place] = np.bincount(cell.ravel(), minlength=size * number).reshape(size, number)[:, own]
        yield count_bP


def connected_pairs(
    left_P: Sequence[Hashable], right_P: Sequence[Hashable], group_P: ArrayLike | None = None
) -> NDArray[np.int64]:
    """(P,) the cluster that each pair is in: pairs of a group that share a side, or are linked by pairs that do."""
    group = [0] * len(left_P) if group_P is None else np.asarray(group_P).tolist()
    number: dict[tuple[int, Hashable], int] = {}
    left, right = (
        [number.setdefault(side, len(number)) for side in zip(group, sides, strict=True)] for sides in (left_P, right_P)
    )
    links = coo_array((np.ones(len(left)), (left, right)), shape=(len(number), len(number)))
    _, cluster = connected_components(links, directed=False)
    return np.asarray(cluster[left], dtype=np.int64)


class SpearmanReplicates:
    """Rank correlations of draws; what does not depend on the draw is sorted once.

    Args:
        value_P: Any values that can be ordered.
        gold_P: What they are compared with.
    """

    def __init__(self, value_P: ArrayLike, gold_P: ArrayLike) -> None:
        self._value, self._gold = _Ties(value_P), _Ties(gold_P)

    def __call__(self, count_BP: Counts) -> NDArray[np.float64]:
        """(B,) correlations in [-1, 1], one for each draw, ranks taken anew; NaN where a draw is constant."""
        value_BP, value_square_B = self._value.centred_ranks(count_BP)
        gold_BP, gold_square_B = self._gold.centred_ranks(count_BP)
        spread = np.sqrt(value_square_B * gold_square_B)
        covariance = np.einsum("bp,bp,bp->b", count_BP, value_BP, gold_BP)
        correlation: NDArray[np.float64] = covariance / np.where(spread == 0, np.nan, spread)
        return correlation


def replicate_pearson(value_P: ArrayLike, gold_P: ArrayLike, count_BP: Counts) -> NDArray[np.float64]:
    """(B,) linear correlations in [-1, 1], one for each draw; NaN where a draw is constant."""
    value, gold = np.asarray(value_P, dtype=np.float64), np.asarray(gold_P, dtype=np.float64)
    return _weighted_pearson(value[None], gold[None], count_BP)


def replicate_mean(value_P: ArrayLike, count_BP: Counts) -> NDArray[np.float64]:
    """(B,) means, one for each draw."""
    mean: NDArray[np.float64] = count_BP @ np.asarray(value_P, dtype=np.float64) / count_BP.sum(1)
    return mean


def replicate_median(value_P: ArrayLike, count_BP: Counts) -> NDArray[np.float64]:
    """(B,) lower medians, one for each draw."""
    value = np.asarray(value_P, dtype=np.float64)
    return np.array([lower_median(np.repeat(value, counts)) for counts in count_BP])


def replicate_f1(predicted_P: ArrayLike, true_P: ArrayLike, count_BP: Counts) -> NDArray[np.float64]:
    """(B,) F1 of label 1 in [0, 1], one for each draw; 0 where a draw has neither label nor prediction of it."""
    predicted, true = np.asarray(predicted_P, dtype=bool), np.asarray(true_P, dtype=bool)
    hits = count_BP @ (predicted & true).astype(np.int64)
    marked = count_BP @ (predicted.astype(np.int64) + true.astype(np.int64))
    f1: NDArray[np.float64] = 2 * hits / np.maximum(marked, 1)
    return f1


class LabelReplicates:
    """Average precision and the best F1 of labelled pairs in draws; what does not depend on the draw is sorted once.

    Args:
        value_P: Similarities; pairs of one similarity stand above or below a threshold together.
        label_P: 1 for pairs that belong together, else 0.
    """

    def __init__(self, value_P: ArrayLike, label_P: ArrayLike) -> None:
        value = np.asarray(value_P, dtype=np.float64)
        self._order_P = np.argsort(-value, kind="stable")
        self._label_P = np.asarray(label_P)[self._order_P] == 1
        falling_P = value[self._order_P]
        self._end_T = np.flatnonzero(np.r_[falling_P[1:] != falling_P[:-1], True])

    def average_precision(self, count_BP: Counts) -> NDArray[np.float64]:
        """(B,) in [0, 1], one for each draw; NaN where none belongs together."""
        true_BT, above_BT, total_B1 = self._above(count_BP)
        gained_BT = np.diff(true_BT, axis=1, prepend=0)
        precision: NDArray[np.float64] = (gained_BT * true_BT / np.maximum(above_BT, 1)).sum(1, keepdims=True)
        return (precision / total_B1)[:, 0]

    def best_f1(self, count_BP: Counts) -> NDArray[np.float64]:
        """(B,) F1 in [0, 1] at the threshold that is best in each draw; NaN where none belongs together."""
        true_BT, above_BT, total_B1 = self._above(count_BP)
        f1: NDArray[np.float64] = (2 * true_BT / (above_BT + total_B1)).max(1)
        return f1

    def _above(self, count_BP: Counts) -> tuple[Counts, Counts, NDArray[np.float64]]:
        """How many pairs stand above each threshold, those that belong together and all; and how many do at all."""
        count_bP = count_BP[:, self._order_P]
        true_BT = np.cumsum(count_bP * self._label_P, axis=1)[:, self._end_T]
        above_BT = np.cumsum(count_bP, axis=1)[:, self._end_T]
        return true_BT, above_BT, np.where(true_BT[:, -1:] == 0, np.nan, true_BT[:, -1:])


def interval(replicate_B: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the draws. Draws in which the score does not exist are left out.

    Its ends are the draws of rank (B + 1) · tail: with NumPy's usual interpolation 1,000 draws hold .948 for .95.

    Source: Davison and Hinkley 1997, section 5.2.1.
    """
    replicate = np.asarray(replicate_B, dtype=np.float64)
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(replicate, [tail, 100 - tail], method="weibull")
    return float(low), float(high)


def two_sided_p(difference_B: ArrayLike) -> float:
    """Twice the smaller share of draws on either side of no difference, in (0, 1]; never 0, which no sample shows."""
    difference = np.asarray(difference_B, dtype=np.float64)
    difference = difference[np.isfinite(difference)]
    below, above = int((difference <= 0).sum()), int((difference >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(difference) + 1))


def holm(p_by_name: Mapping[_Name, float]) -> dict[_Name, float]:
    """p-values corrected for their number, in the order given.

    Source: Holm 1979, the step-down form of Bonferroni's correction.
    """
    corrected: dict[_Name, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_by_name, key=lambda name: p_by_name[name])):
        largest = max(largest, min(1.0, (len(p_by_name) - place) * p_by_name[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_by_name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of two means of scores, with its interval and p-value.

    ``smallest``: the smallest true difference that such a comparison finds with probability 0.8 at level 0.05.
    """

    value: float
    low: float
    high: float
    p: float
    smallest: float
    test: str


def paired_difference(value: float, difference_B: ArrayLike) -> Difference:
    """Two models on the same items: percentile interval and p-value of the paired bootstrap."""
    difference = np.asarray(difference_B, dtype=np.float64)
    low, high = interval(difference)
    spread = float(np.nanstd(difference, ddof=1))
    z = stats.norm.ppf([1 - (1 - LEVEL) / 2, POWER])
    return Difference(
        value=value,
        low=low,
        high=high,
        p=two_sided_p(difference),
        smallest=float(z.sum()) * spread,
        test="paired bootstrap over items",
    )


def group_difference(
    first: ArrayLike, second: ArrayLike, difference_B: ArrayLike, *, level: float = LEVEL
) -> Difference:
    """Means of several seeds each: the seeds differ, and the items are a sample, so both variances are added.

    The variance of the difference is s²₁/n₁ + s²₂/n₂ + the bootstrap variance over items of the difference of the
    means; the test is Student's t with Welch and Satterthwaite's degrees of freedom, the items' part having infinitely
    many.

    Args:
        first: Scores of the first group's seeds, two or more.
        second: Scores of the second group's seeds, two or more.
        difference_B: Bootstrap draws over items of the difference of the groups' means.
        level: Of the interval.

    Raises:
        ValueError: A group has fewer than two seeds.
    """
    scores = [np.asarray(group, dtype=np.float64) for group in (first, second)]
    if min(map(len, scores)) < 2:
        raise ValueError(f"groups need two seeds or more each, got {len(scores[0])} and {len(scores[1])}")
    value = float(scores[0].mean() - scores[1].mean())
    variances, sizes = [float(group.var(ddof=1)) for group in scores], list(map(len, scores))
    error, freedom = error_of_means(variances, sizes, item_variance=_variance(difference_B))
    reach = float(stats.t.ppf(1 - (1 - level) / 2, freedom)) * error
    return Difference(
        value=value,
        low=value - reach,
        high=value + reach,
        p=float(2 * stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0),
        smallest=float(stats.t.ppf(1 - (1 - level) / 2, freedom) + stats.t.ppf(POWER, freedom)) * error,
        test=f"Welch's t over {len(scores[0])} and {len(scores[1])} seeds, bootstrap variance over items added",
    )


def group_interval(scores: ArrayLike, replicate_B: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the mean of several seeds: their variance and that over items are added, as in ``group_difference``.

    Args:
        scores: Of the seeds, two or more.
        replicate_B: Bootstrap draws over items of the seeds' mean; constant where there are no items.
        level: Of the interval.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    seeds = np.asarray(scores, dtype=np.float64)
    if len(seeds) < 2:
        raise ValueError(f"an interval over seeds needs two or more, got {len(seeds)}")
    error, freedom = error_of_means([float(seeds.var(ddof=1))], [len(seeds)], item_variance=_variance(replicate_B))
    reach = float(stats.t.ppf(1 - (1 - level) / 2, freedom)) * error
    return float(seeds.mean()) - reach, float(seeds.mean()) + reach


def seeds_needed(first_sd: float, second_sd: float, *, item_sd: float, difference: float) -> int | None:
    """The fewest seeds on each side with which ``group_difference`` finds a true difference with probability 0.8.

    Args:
        first_sd: Standard deviation over the first group's seeds, as measured.
        second_sd: Over the second group's.
        item_sd: Of the difference over draws of the items, which no number of seeds makes smaller.
        difference: The true one, above 0.

    Returns:
        Two or more; ``None`` where no number is enough, since the items alone vary too much.
    """

    def smallest(seeds: int) -> float:
        error, freedom = error_of_means([first_sd**2, second_sd**2], [seeds] * 2, item_variance=item_sd**2)
        return float(stats.t.ppf(1 - (1 - LEVEL) / 2, freedom) + stats.t.ppf(POWER, freedom)) * error

    if item_sd > 0 and float(stats.norm.ppf([1 - (1 - LEVEL) / 2, POWER]).sum()) * item_sd >= difference:
        return None
    most = 2
    while smallest(most) > difference:
        most *= 2
    return bisect.bisect_left(range(most), True, lo=2, key=lambda seeds: smallest(seeds) <= difference)


def error_of_means(variances: Sequence[float], sizes: Sequence[int], *, item_variance: float) -> tuple[float, float]:
    """Standard error of a sum or difference of means over seeds, and its degrees of freedom by Satterthwaite.

    Args:
        variances: Over the seeds of each group.
        sizes: Seeds of each group, two or more.
        item_variance: Of the sum or difference over draws of the items; this part has infinitely many degrees.
    """
    parts = [variance / size for variance, size in zip(variances, sizes, strict=True)]
    variance = sum(parts) + item_variance
    divisor = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    return math.sqrt(variance), variance**2 / divisor if divisor > 0 else math.inf


def _variance(replicate_B: ArrayLike) -> float:
    return float(np.nanvar(np.asarray(replicate_B, dtype=np.float64), ddof=1))


class _Ties:
    """Items in order, equal ones together."""

    def __init__(self, value_P: ArrayLike) -> None:
        value = np.asarray(value_P, dtype=np.float64)
        self._order_P = np.argsort(value, kind="stable")
        is_new_P = np.r_[True, value[self._order_P][1:] != value[self._order_P][:-1]]
        self._starts = np.flatnonzero(is_new_P)
        self._tie_P = np.empty(len(value), dtype=np.intp)
        self._tie_P[self._order_P] = np.cumsum(is_new_P) - 1

    def centred_ranks(self, count_BP: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, P) midranks less their mean that the items have in each draw, and (B,) the sum of their squares."""
        size_BT = np.add.reduceat(count_BP[:, self._order_P], self._starts, axis=1)
        upper_BT = np.cumsum(size_BT, axis=1)
        # The mean of midranks is known, so that those of a constant draw are 0 to the last bit.
        rank_BT = upper_BT - (size_BT - 1) / 2 - (upper_BT[:, -1:] + 1) / 2
        return rank_BT[:, self._tie_P], np.einsum("bt,bt,bt->b", size_BT, rank_BT, rank_BT)


def _weighted_pearson(
    left_BP: NDArray[np.float64], right_BP: NDArray[np.float64], count_BP: Counts
) -> NDArray[np.float64]:
    total = count_BP.sum(1, keepdims=True)
    left = left_BP - (count_BP * left_BP).sum(1, keepdims=True) / total
    right = right_BP - (count_BP * right_BP).sum(1, keepdims=True) / total
    covariance = (count_BP * left * right).sum(1)
    spread = np.sqrt((count_BP * left * left).sum(1) * (count_BP * right * right).sum(1))
    correlation: NDArray[np.float64] = covariance / np.where(spread == 0, np.nan, spread)
    return correlation
