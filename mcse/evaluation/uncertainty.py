"""Bootstrap draws of a sample, and the intervals that stand beside every score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.contamination import normalise
from mcse.distributed import broadcast_object, fail_together, is_main
from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman
from mcse.metrics.significance import (
    Counts,
    LabelReplicates,
    SpearmanReplicates,
    bootstrap_counts,
    connected_pairs,
    interval,
    replicate_f1,
    replicate_mean,
    replicate_median,
    replicate_pearson,
)
from mcse.progress import in_phase, progress_bar
from mcse.types import Sample, ScoreKey, SuiteScores

Replicates = NDArray[np.float64]
Samples = Mapping[ScoreKey, Sample]
Means = Mapping[ScoreKey, Mapping[ScoreKey, float]]
"""A score → the samples that it is the mean of → weight."""

FEWEST_CLUSTERS = 5
"""Of two clusters, one of them of nearly all pairs, every second draw is the same, and its interval is a point."""


def replicate(sample: Sample, key: ScoreKey) -> Replicates:
    """(B,) the sample's statistic in each bootstrap draw.

    Draws depend on suite and task of ``key`` and on the items' groups and clusters: samples of two models on the same
    items share them.

    Raises:
        ValueError: The statistic needs gold, and there is none.
    """
    group_P = np.zeros(len(sample.value_P), dtype=np.int64) if sample.group_P is None else sample.group_P
    # Drawn for the task, whatever the metric: all metrics of a task, and all seeds of a model, share the draws.
    blocks = bootstrap_counts(f"{key.suite}.{key.task}", group_P, cluster_P=sample.cluster_P)
    statistic = _statistic(sample)
    return np.concatenate([statistic(count_bP) for count_bP in blocks])


def sharing_pairs(
    sentence1: Sequence[str], sentence2: Sequence[str], group_P: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """(P,) the cluster of each pair, for ``Sample.cluster_P``: pairs that share a sentence are drawn together.

    Where that leaves fewer than ``FEWEST_CLUSTERS`` of a group each pair stays by itself, since draws of so few say
    nothing; an interval is then too narrow.
    """
    left, right = ([normalise(sentence) for sentence in side] for side in (sentence1, sentence2))
    group_P = np.zeros(len(left), dtype=np.int64) if group_P is None else group_P
    cluster_P = connected_pairs(left, right, group_P)
    for group in np.unique(group_P):
        place = np.flatnonzero(group_P == group)
        if len(np.unique(cluster_P[place])) < FEWEST_CLUSTERS:
            cluster_P[place] = len(cluster_P) + place
    return cluster_P


def _statistic(sample: Sample) -> Callable[[Counts], Replicates]:
    """The sample's statistic as a function of draws."""
    value_P, gold_P = sample.value_P, sample.gold_P
    if sample.statistic == "mean":
        return lambda count_bP: replicate_mean(value_P, count_bP)
    if sample.statistic == "median":
        return lambda count_bP: replicate_median(value_P, count_bP)
    if gold_P is None:
        raise ValueError(f"the statistic {sample.statistic} needs gold")
    if sample.statistic == "spearman":
        ranked = SpearmanReplicates(value_P, gold_P)
        return lambda count_bP: 100 * ranked(count_bP)
    if sample.statistic in ("average_precision", "best_f1"):
        labelled = LabelReplicates(value_P, gold_P)
        of_draws = labelled.best_f1 if sample.statistic == "best_f1" else labelled.average_precision
        return lambda count_bP: 100 * of_draws(count_bP)
    with_gold = {"pearson": replicate_pearson, "f1": replicate_f1}[sample.statistic]
    return lambda count_bP: 100 * with_gold(value_P, gold_P, count_bP)


def point_score(sample: Sample) -> float:
    """The sample's statistic over its own items.

    Raises:
        UndefinedScoreError: A correlation of constant values, or labels of which none is 1.
        ValueError: The statistic needs gold, and there is none.
    """
    if sample.statistic in ("spearman", "pearson") and sample.gold_P is not None:
        return 100 * (spearman if sample.statistic == "spearman" else pearson)(sample.value_P, sample.gold_P)
    once_1P = np.ones((1, len(sample.value_P)), dtype=np.int64)
    score = float(_statistic(sample)(once_1P)[0])
    if math.isnan(score):
        raise UndefinedScoreError("no pair is labelled as belonging together")
    return score


def clean_part(sample: Sample) -> Sample | None:
    """The items that the model has not seen; ``None`` where that is not known or fewer than two are left."""
    kept_P = sample.clean_P
    return None if kept_P is None or kept_P.sum() < 2 else replace(sample.part(kept_P), clean_P=None)


def replicate_all(samples: Samples, means: Means) -> dict[ScoreKey, Replicates]:
    """Draws of every sample, and of every weighted mean of samples whose parts are all there.

    The parts of a mean are drawn independently of each other.
    """
    draws = {}
    with progress_bar(total=len(samples), unit="score", title="bootstrap", is_shown=in_phase(), stays=False) as bar:
        for key, sample in samples.items():
            draws[key] = replicate(sample, key)
            bar.update()
    for key, weights in means.items():
        if weights.keys() <= samples.keys():
            parts = np.array([draws[part] for part in weights])
            draws[key] = np.average(parts, axis=0, weights=list(weights.values()))
    return draws


def point_scores(samples: Samples, means: Means) -> tuple[dict[ScoreKey, float], dict[ScoreKey, str]]:
    """Scores of samples and of their means, with ``pairs``, how many items each is over; and why one is undefined.

    A mean whose parts are not all defined is left out.
    """
    scores: dict[ScoreKey, float] = {}
    undefined: dict[ScoreKey, str] = {}
    for key, sample in samples.items():
        try:
            scores[key] = point_score(sample)
        except UndefinedScoreError as error:
            undefined[key] = str(error)
            continue
        scores[key.with_metric("pairs")] = len(sample.value_P)
    for key, weights in means.items():
        if weights.keys() <= scores.keys():
            scores[key] = float(np.average([scores[part] for part in weights], weights=list(weights.values())))
            scores[key.with_metric("pairs")] = sum(len(samples[part].value_P) for part in weights)
    return scores, undefined


def clean_samples(samples: Samples) -> dict[ScoreKey, Sample]:
    """The clean part of every sample that has one, by its clean key."""
    parts = {key.clean: clean_part(sample) for key, sample in samples.items()}
    return {key: part for key, part in parts.items() if part is not None}


def clean_means(means: Means) -> dict[ScoreKey, dict[ScoreKey, float]]:
    """The same means of clean parts."""
    return {key.clean: {part.clean: weight for part, weight in parts.items()} for key, parts in means.items()}


def add_intervals(found: SuiteScores) -> SuiteScores:
    """What a suite found, behind each score of a sample or a mean of samples the ends of its 95 % interval.

    Every process must call it: one of them draws, and all get the intervals.
    """

    def draw() -> dict[ScoreKey, tuple[float, float]]:
        if not is_main():
            return {}
        every_mean = {**found.means, **clean_means(found.means)}
        means = {key: weights for key, weights in every_mean.items() if key in found.scores}
        wanted = {*found.scores, *(part for weights in means.values() for part in weights)}
        every_sample = {**found.samples, **clean_samples(found.samples)}
        samples = {key: sample for key, sample in every_sample.items() if key in wanted}
        return {key: interval(draws_B) for key, draws_B in replicate_all(samples, means).items()}

    ends = broadcast_object(fail_together(draw))
    wide: dict[ScoreKey, float] = {}
    for key, score in found.scores.items():
        wide[key] = score
        if key in ends:
            wide |= zip(key.ends, ends[key], strict=True)
    return replace(found, scores=wide)
