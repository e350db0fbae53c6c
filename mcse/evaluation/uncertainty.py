"""Bootstrap draws of a sample, and the intervals that stand beside every score."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
from mcse.types import Sample, TaskScores

Replicates = NDArray[np.float64]


def replicate(sample: Sample, *, name: str) -> Replicates:
    """(B,) the sample's statistic in each bootstrap draw.

    Draws depend on the ``suite.task`` of ``name`` and on the items' groups: samples of two models on the same items
    share them.

    Raises:
        ValueError: The statistic needs gold, and there is none.
    """
    group_P = np.zeros(len(sample.value_P), dtype=np.int64) if sample.group_P is None else sample.group_P
    # Drawn for the task, whatever the metric: all metrics of a task, and all seeds of a model, share the counts.
    return _replicate(sample, _counts(name.rpartition(".")[0], group_P.astype(np.int64).tobytes()), name=name)


@functools.lru_cache(maxsize=1)
def _counts(name: str, groups: bytes) -> Counts:
    return bootstrap_counts(name, np.frombuffer(groups, dtype=np.int64))


def _replicate(sample: Sample, count_BP: Counts, *, name: str) -> Replicates:
    if sample.statistic == "mean":
        return replicate_mean(sample.value_P, count_BP)
    if sample.statistic == "median":
        return replicate_median(sample.value_P, count_BP)
    if sample.gold_P is None:
        raise ValueError(f"{name}: the statistic {sample.statistic} needs gold")
    with_gold = {"spearman": replicate_spearman, "pearson": replicate_pearson, "f1": replicate_f1}[sample.statistic]
    return 100 * with_gold(sample.value_P, sample.gold_P, count_BP)


def point_score(sample: Sample, *, name: str) -> float:
    """The sample's statistic over its own items.

    Raises:
        UndefinedScoreError: A correlation of constant values.
    """
    if sample.statistic in ("spearman", "pearson") and sample.gold_P is not None:
        return 100 * (spearman if sample.statistic == "spearman" else pearson)(sample.value_P, sample.gold_P)
    once_1P = np.ones((1, len(sample.value_P)), dtype=np.int64)
    return float(_replicate(sample, once_1P, name=name)[0])


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


def replicate_all(samples: Mapping[str, Sample], means: Mapping[str, Mapping[str, float]]) -> dict[str, Replicates]:
    """Draws of every sample by its key, and of every weighted mean of samples whose parts are all there.

    The parts of a mean are drawn independently of each other.
    """
    draws = {key: replicate(sample, name=key) for key, sample in samples.items()}
    for key, weights in means.items():
        if weights.keys() <= samples.keys():
            parts = np.array([draws[part] for part in weights])
            draws[key] = np.average(parts, axis=0, weights=list(weights.values()))
    return draws


def add_intervals(tasks: TaskScores, draws: Mapping[str, Replicates], *, suite: str) -> TaskScores:
    """The scores with ``<metric>_low`` and ``<metric>_high`` beside each whose ``suite.task.metric`` has draws."""
    wide: dict[str, dict[str, float]] = {}
    for task, metrics in tasks.items():
        wide[task] = {}
        for metric, score in metrics.items():
            wide[task][metric] = score
            if (key := f"{suite}.{task}.{metric}") in draws:
                wide[task][f"{metric}_low"], wide[task][f"{metric}_high"] = interval(draws[key])
    return wide
