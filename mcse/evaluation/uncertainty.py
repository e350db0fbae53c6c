"""Bootstrap draws of a sample, and the intervals that stand beside every score."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcse.distributed import broadcast_object, fail_together, is_main
from mcse.metrics.correlation import pearson, spearman
from mcse.metrics.significance import (
    Counts,
    bootstrap_counts,
    interval,
    replicate_f1,
    replicate_mean,
    replicate_median,
    replicate_pearson,
    replicate_spearman,
)
from mcse.types import Sample, ScoreKey, Scores

Replicates = NDArray[np.float64]
Samples = Mapping[ScoreKey, Sample]
Means = Mapping[ScoreKey, Mapping[ScoreKey, float]]
"""A score → the samples that it is the mean of → weight."""


def replicate(sample: Sample, key: ScoreKey) -> Replicates:
    """(B,) the sample's statistic in each bootstrap draw.

    Draws depend on suite and task of ``key`` and on the items' groups: samples of two models on the same items share
    them.

    Raises:
        ValueError: The statistic needs gold, and there is none.
    """
    group_P = np.zeros(len(sample.value_P), dtype=np.int64) if sample.group_P is None else sample.group_P
    # Drawn for the task, whatever the metric: all metrics of a task, and all seeds of a model, share the counts.
    return _replicate(sample, _counts(f"{key.suite}.{key.task}", group_P.astype(np.int64).tobytes()))


@functools.lru_cache(maxsize=1)
def _counts(name: str, groups: bytes) -> Counts:
    return bootstrap_counts(name, np.frombuffer(groups, dtype=np.int64))


def _replicate(sample: Sample, count_BP: Counts) -> Replicates:
    if sample.statistic == "mean":
        return replicate_mean(sample.value_P, count_BP)
    if sample.statistic == "median":
        return replicate_median(sample.value_P, count_BP)
    if sample.gold_P is None:
        raise ValueError(f"the statistic {sample.statistic} needs gold")
    with_gold = {"spearman": replicate_spearman, "pearson": replicate_pearson, "f1": replicate_f1}[sample.statistic]
    return 100 * with_gold(sample.value_P, sample.gold_P, count_BP)


def point_score(sample: Sample) -> float:
    """The sample's statistic over its own items.

    Raises:
        UndefinedScoreError: A correlation of constant values.
        ValueError: The statistic needs gold, and there is none.
    """
    if sample.statistic in ("spearman", "pearson") and sample.gold_P is not None:
        return 100 * (spearman if sample.statistic == "spearman" else pearson)(sample.value_P, sample.gold_P)
    once_1P = np.ones((1, len(sample.value_P)), dtype=np.int64)
    return float(_replicate(sample, once_1P)[0])


def clean_part(sample: Sample) -> Sample | None:
    """The items that the model has not seen; ``None`` where that is not known or fewer than two are left."""
    kept_P = sample.clean_P
    if kept_P is None or kept_P.sum() < 2:
        return None
    return replace(
        sample,
        value_P=sample.value_P[kept_P],
        gold_P=None if sample.gold_P is None else sample.gold_P[kept_P],
        group_P=None if sample.group_P is None else sample.group_P[kept_P],
        clean_P=None,
    )


def replicate_all(samples: Samples, means: Means) -> dict[ScoreKey, Replicates]:
    """Draws of every sample, and of every weighted mean of samples whose parts are all there.

    The parts of a mean are drawn independently of each other.
    """
    draws = {key: replicate(sample, key) for key, sample in samples.items()}
    for key, weights in means.items():
        if weights.keys() <= samples.keys():
            parts = np.array([draws[part] for part in weights])
            draws[key] = np.average(parts, axis=0, weights=list(weights.values()))
    return draws


def with_intervals(scores: Scores, samples: Samples, means: Means | None = None) -> dict[ScoreKey, float]:
    """The scores, behind each the ends of its 95 % interval if it is that of a sample or a mean of samples.

    Every process must call it: one of them draws, and all get the intervals.
    """

    def draw() -> dict[ScoreKey, tuple[float, float]]:
        draws = replicate_all(samples, means or {}) if is_main() else {}
        return {key: interval(draws_B) for key, draws_B in draws.items()}

    ends = broadcast_object(fail_together(draw))
    wide: dict[ScoreKey, float] = {}
    for key, score in scores.items():
        wide[key] = score
        if key in ends:
            wide |= zip(key.ends, ends[key], strict=True)
    return wide
