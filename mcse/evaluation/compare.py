"""Two models, or two groups of seeds, score by score: difference, interval, p-value, and what could have been seen.

P items, B bootstrap draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcse.evaluation.uncertainty import Means, Replicates, clean_part, point_score, replicate
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.significance import (
    Difference,
    group_difference,
    group_interval,
    holm,
    interval,
    paired_difference,
)
from mcse.progress import in_phase, progress_bar
from mcse.types import Column, ComparedScore, ModelScores, Sample, ScoreKey

Draw = Callable[[Sample, ScoreKey], Replicates]
"""Draws a sample's statistic again, as ``replicate`` does; whoever compares one model often keeps what it drew."""


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """One score: the values of all seeds of both groups, and the draws of the difference of the groups' means.

    Of a single group ``draws_B`` are of its mean.
    """

    values: NDArray[np.float64]
    draws_B: Replicates
    items: int


class DifferentItemsError(ValueError):
    """What is compared was evaluated on different data."""


def compare(
    first: Sequence[ModelScores],
    second: Sequence[ModelScores],
    *,
    only: Collection[ScoreKey] | None = None,
    draw: Draw = replicate,
) -> tuple[ComparedScore, ...]:
    """Every headline number that both sides have, over all items, then over those that no known training text holds.

    Both sides' items are drawn together. With two seeds or more on each side, the seeds' variance counts too.

    Args:
        first: Seeds of one side.
        second: Seeds of the other.
        only: The numbers to compare; all by default.
        draw: Of samples.

    Raises:
        DifferentItemsError: The two sides were evaluated on different data.
        ValueError: They share no score.
    """
    models = [model.all for model in (*first, *second)]
    keys = set.intersection(*({column.key for column in model.compared} for model in models))
    columns = [column for column in models[0].compared if column.key in keys]
    weight_M = np.array([1 / len(first)] * len(first) + [-1 / len(second)] * len(second))
    shared = set.intersection(*(set(model.samples) for model in models))
    every = {key: [model.samples[key] for model in models] for key in shared}
    found: list[ComparedScore] = []
    for is_clean in (False, True):
        samples = _clean_samples(every) if is_clean else every
        asked = [column for column in columns if only is None or (column.key.clean if is_clean else column.key) in only]
        measured = _measure(asked, samples, models[0].means, weight_M=weight_M, draw=draw)
        found += _compared(measured, asked, number_first=len(first), is_clean=is_clean)
    if not found:
        raise ValueError("the two sides share no score that can be compared")
    return tuple(found)


def mean_interval(
    seeds: Sequence[ModelScores], column: Column, *, draw: Draw = replicate
) -> tuple[float, float] | None:
    """The 95 % interval of a headline number's mean over seeds and items; of one seed, over items.

    A clean key is over the items that none of the seeds has seen. ``None`` where a single seed has no items.

    Raises:
        DifferentItemsError: The seeds were evaluated on different data.
    """
    key, models = replace(column.key, part=None), [model.all for model in seeds]
    samples = {name: [model.samples[name] for model in models] for name in models[0].samples}
    if column.key.part == "clean":
        samples = _clean_samples(samples)
    weight_M = np.full(len(models), 1 / len(models))
    measured = _measure([replace(column, key=key)], samples, models[0].means, weight_M=weight_M, draw=draw).get(key)
    if len(models) == 1:
        return None if measured is None else interval(measured.draws_B)
    if measured is not None:
        return group_interval(measured.values, measured.draws_B)
    values = [model.get(column.key) for model in seeds]
    return group_interval([value for value in values if value is not None], np.zeros(2))


def _measure(
    columns: Sequence[Column],
    samples: Mapping[ScoreKey, Sequence[Sample]],
    means: Means,
    *,
    weight_M: NDArray[np.float64],
    draw: Draw,
) -> dict[ScoreKey, _Measured]:
    """The columns that are samples, and those that are means of such; what is undefined on one side is left out.

    ``weight_M`` is each model's in the difference of the groups' means.
    """
    known: dict[ScoreKey, _Measured] = {}
    parts = [part for column in columns for part in means.get(column.key, {})]
    keys = [key for key in dict.fromkeys([column.key for column in columns] + parts) if key in samples]
    with progress_bar(total=len(keys), unit="score", title="bootstrap", is_shown=in_phase(), stays=False) as bar:
        for key in keys:
            several = samples[key]
            _check_same_items(key, several)
            with contextlib.suppress(UndefinedScoreError):
                values = np.array([point_score(sample) for sample in several])
                difference_B = weight_M @ np.array([draw(sample, key) for sample in several])
                known[key] = _Measured(values, difference_B, len(several[0].value_P))
            bar.update()
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
            raise DifferentItemsError(f"{key}: the two sides were evaluated on different data ({sizes})")
        if one.gold_P is not None and (other.gold_P is None or not np.array_equal(one.gold_P, other.gold_P)):
            raise DifferentItemsError(f"{key}: the two sides were evaluated on different data (their gold differs)")


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
            item_sd=float(np.nanstd(measured[key].draws_B, ddof=1)),
            first_sd=_sd(first),
            second_sd=_sd(second),
            test=difference.test,
            items=measured[key].items,
        )


def _sd(values: NDArray[np.float64]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _is_summary(key: ScoreKey) -> bool:
    return key.task.rpartition(".")[2] in ("average", "rsum")


def _difference(first: NDArray[np.float64], second: NDArray[np.float64], draws_B: Replicates) -> Difference:
    if min(len(first), len(second)) > 1:
        return group_difference(first, second, draws_B)
    found = paired_difference(float(np.mean(first) - np.mean(second)), draws_B)
    if max(len(first), len(second)) > 1:
        return replace(found, test=f"{found.test}; one side has one seed, so the seeds' variance is not in it")
    return found
