"""Two models, or two groups of seeds, score by score: difference, interval, p-value, and what could have been seen.

P items, B bootstrap draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcse.evaluation.uncertainty import Means, Replicates, clean_part, point_score, replicate
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.significance import Difference, group_difference, holm, paired_difference
from mcse.types import Column, ComparedScore, ModelScores, Sample, ScoreKey


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """One score: the values of all seeds of both groups, and the draws of the difference of the groups' means."""

    values: NDArray[np.float64]
    draws_B: Replicates
    items: int


def compare(first: Sequence[ModelScores], second: Sequence[ModelScores]) -> tuple[ComparedScore, ...]:
    """Every headline number that both sides have, over all items, then over those that no known training text holds.

    Both sides' items are drawn together. With two seeds or more on each side, the seeds' variance counts too.

    Raises:
        ValueError: The two sides were evaluated on different data, or share no score.
    """
    models = [model.all for model in (*first, *second)]
    keys = set.intersection(*({column.key for column in model.compared} for model in models))
    columns = [column for column in models[0].compared if column.key in keys]
    shared = set.intersection(*(set(model.samples) for model in models))
    every = {key: [model.samples[key] for model in models] for key in shared}
    found: list[ComparedScore] = []
    for is_clean in (False, True):
        samples = _clean_samples(every) if is_clean else every
        measured = _measure(columns, samples, models[0].means, number_first=len(first))
        found += _compared(measured, columns, number_first=len(first), is_clean=is_clean)
    if not found:
        raise ValueError("the two sides share no score that can be compared")
    return tuple(found)


def _measure(
    columns: Sequence[Column], samples: Mapping[ScoreKey, Sequence[Sample]], means: Means, *, number_first: int
) -> dict[ScoreKey, _Measured]:
    """The columns that are samples, and those that are means of such; what is undefined on one side is left out."""
    known: dict[ScoreKey, _Measured] = {}
    parts = [part for column in columns for part in means.get(column.key, {})]
    for key in dict.fromkeys([column.key for column in columns] + parts):
        if key not in samples:
            continue
        several = samples[key]
        _check_same_items(key, several)
        with contextlib.suppress(UndefinedScoreError):
            values = np.array([point_score(sample) for sample in several])
            draws = [replicate(sample, key) for sample in several]
            difference_B = np.mean(draws[:number_first], axis=0) - np.mean(draws[number_first:], axis=0)
            known[key] = _Measured(values, difference_B, len(several[0].value_P))
    for key, weights in means.items():
        if weights.keys() <= known.keys():
            of, weight = [known[part] for part in weights], list(weights.values())
            values = np.average([part.values for part in of], axis=0, weights=weight)
            difference_B = np.average([part.draws_B for part in of], axis=0, weights=weight)
            known.setdefault(key, _Measured(values, difference_B, sum(part.items for part in of)))
    return {column.key: known[column.key] for column in columns if column.key in known}


def _check_same_items(key: ScoreKey, samples: Sequence[Sample]) -> None:
    """Right or wrong and ranks have no gold; that their number agrees is all that can be said of them."""
    one = samples[0]
    for other in samples[1:]:
        if len(one.value_P) != len(other.value_P):
            sizes = f"{len(one.value_P)} and {len(other.value_P)} items"
            raise ValueError(f"{key}: the two sides were evaluated on different data ({sizes})")
        if one.gold_P is not None and (other.gold_P is None or not np.array_equal(one.gold_P, other.gold_P)):
            raise ValueError(f"{key}: the two sides were evaluated on different data (their gold differs)")


def _clean_samples(samples: Mapping[ScoreKey, Sequence[Sample]]) -> dict[ScoreKey, list[Sample]]:
    """Without the items that any of the models has seen, as far as that is known."""
    found: dict[ScoreKey, list[Sample]] = {}
    for key, several in samples.items():
        masks = [sample.clean_P for sample in several if sample.clean_P is not None]
        if not masks or len({len(mask) for mask in masks}) > 1:
            continue
        clean_P: NDArray[np.bool_] = np.logical_and.reduce(masks)
        parts = [clean_part(replace(sample, clean_P=clean_P)) for sample in several]
        found[key] = [part for part in parts if part is not None]
    return {key: several for key, several in found.items() if several}


def _compared(
    measured: Mapping[ScoreKey, _Measured], columns: Sequence[Column], *, number_first: int, is_clean: bool
) -> Iterator[ComparedScore]:
    groups = {key: (score.values[:number_first], score.values[number_first:]) for key, score in measured.items()}
    differences = {key: _difference(*groups[key], score.draws_B) for key, score in measured.items()}
    corrected: dict[ScoreKey, float] = {}
    # Each suite's tasks are one family; an average is not one more task.
    for suite in dict.fromkeys(key.suite for key in measured):
        family = [key for key in measured if key.suite == suite and not _is_summary(key)]
        corrected |= holm({key: differences[key].p for key in family})
    for column in columns:
        key = column.key
        if key not in measured:
            continue
        first, second = groups[key]
        difference = differences[key]
        yield ComparedScore(
            column=replace(column, key=key.clean) if is_clean else column,
            first=float(np.mean(first)),
            second=float(np.mean(second)),
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p=difference.p,
            p_holm=corrected.get(key),
            smallest=difference.smallest,
            test=difference.test,
            items=measured[key].items,
        )


def _is_summary(key: ScoreKey) -> bool:
    return key.task.rpartition(".")[2] in ("average", "rsum")


def _difference(first: NDArray[np.float64], second: NDArray[np.float64], draws_B: Replicates) -> Difference:
    if min(len(first), len(second)) > 1:
        return group_difference(first, second, draws_B)
    found = paired_difference(float(np.mean(first) - np.mean(second)), draws_B)
    if max(len(first), len(second)) > 1:
        return replace(found, test=f"{found.test}; one side has one seed, so the seeds' variance is not in it")
    return found
