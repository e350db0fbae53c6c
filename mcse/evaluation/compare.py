"""Two models, or two groups of seeds, score by score: difference, interval, p-value, and what could have been seen.

P items, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcse.evaluation.uncertainty import Replicates, clean_part, point_score, replicate
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.significance import Difference, group_difference, holm, paired_difference
from mcse.types import Column, ComparedScore, ModelScores, Sample, ScoreKey


@dataclass(frozen=True, slots=True)
class _Measured:
    """One score of all seeds of both groups: values, and the draws of the difference of the groups' means."""

    first: list[float]
    second: list[float]
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
    every = [model.samples for model in models]
    found: list[ComparedScore] = []
    for is_clean in (False, True):
        samples = _clean_samples(every) if is_clean else every
        measured = dict(_measure(columns, samples, models[0].means, number_first=len(first)))
        found += _compared(measured, columns, is_clean=is_clean)
    if not found:
        raise ValueError("the two sides share no score that can be compared")
    return tuple(found)


def _measure(
    columns: Sequence[Column],
    samples: Sequence[Mapping[ScoreKey, Sample]],
    means: Mapping[ScoreKey, Mapping[ScoreKey, float]],
    *,
    number_first: int,
) -> Iterator[tuple[ScoreKey, _Measured]]:
    """The scores that are samples, then those that are means of such; what is undefined on one side is left out."""
    known: dict[ScoreKey, _Measured] = {}
    parts = [part for column in columns for part in means.get(column.key, {})]
    for key in dict.fromkeys([column.key for column in columns] + parts):
        if not all(key in by_key for by_key in samples):
            continue
        try:
            known[key] = _measure_sample(key, [by_key[key] for by_key in samples], number_first=number_first)
        except UndefinedScoreError:
            continue
    for column in columns:
        weights = means.get(column.key)
        if column.key in known:
            yield column.key, known[column.key]
        elif weights and weights.keys() <= known.keys():
            yield column.key, _weighted(known, weights)


def _measure_sample(key: ScoreKey, samples: Sequence[Sample], *, number_first: int) -> _Measured:
    _check_same_items(key, samples)
    values = [point_score(sample) for sample in samples]
    draws = [replicate(sample, key) for sample in samples]
    return _Measured(
        first=values[:number_first],
        second=values[number_first:],
        draws_B=np.mean(draws[:number_first], axis=0) - np.mean(draws[number_first:], axis=0),
        items=len(samples[0].value_P),
    )


def _weighted(known: Mapping[ScoreKey, _Measured], weights: Mapping[ScoreKey, float]) -> _Measured:
    parts, weight = [known[key] for key in weights], list(weights.values())
    return _Measured(
        first=np.average([part.first for part in parts], axis=0, weights=weight).tolist(),
        second=np.average([part.second for part in parts], axis=0, weights=weight).tolist(),
        draws_B=np.average([part.draws_B for part in parts], axis=0, weights=weight),
        items=sum(part.items for part in parts),
    )


def _check_same_items(key: ScoreKey, samples: Sequence[Sample]) -> None:
    """Right or wrong and ranks have no gold; that their number agrees is all that can be said of them."""
    one = samples[0]
    for other in samples[1:]:
        if len(one.value_P) != len(other.value_P):
            sizes = f"{len(one.value_P)} and {len(other.value_P)} items"
            raise ValueError(f"{key}: the two sides were evaluated on different data ({sizes})")
        if one.gold_P is not None and (other.gold_P is None or not np.array_equal(one.gold_P, other.gold_P)):
            raise ValueError(f"{key}: the two sides were evaluated on different data (their gold differs)")


def _clean_samples(samples: Sequence[Mapping[ScoreKey, Sample]]) -> list[dict[ScoreKey, Sample]]:
    """Of every model the samples without the items that any of the models has seen, as far as that is known."""
    found: list[dict[ScoreKey, Sample]] = [{} for _ in samples]
    for key in set.intersection(*map(set, samples)):
        masks = [mask for by_key in samples if (mask := by_key[key].clean_P) is not None]
        if not masks or len({len(mask) for mask in masks}) > 1:
            continue
        clean_P: NDArray[np.bool_] = np.logical_and.reduce(masks)
        for clean, by_key in zip(found, samples, strict=True):
            part = clean_part(replace(by_key[key], clean_P=clean_P))
            if part is not None:
                clean[key] = part
    return found


def _compared(
    measured: Mapping[ScoreKey, _Measured], columns: Sequence[Column], *, is_clean: bool
) -> Iterator[ComparedScore]:
    differences = {key: _difference(score) for key, score in measured.items()}
    corrected: dict[ScoreKey, float] = {}
    # Each suite's tasks are one family; an average is not one more task.
    for suite in dict.fromkeys(key.suite for key in measured):
        family = [key for key in measured if key.suite == suite and not _is_summary(key)]
        corrected |= holm({key: differences[key].p for key in family})
    for column in columns:
        key = column.key
        if key not in measured:
            continue
        score, difference = measured[key], differences[key]
        yield ComparedScore(
            column=replace(column, key=key.clean) if is_clean else column,
            first=float(np.mean(score.first)),
            second=float(np.mean(score.second)),
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p=difference.p,
            p_holm=corrected.get(key),
            smallest=difference.smallest,
            test=difference.test,
            items=score.items,
        )


def _is_summary(key: ScoreKey) -> bool:
    return key.task in ("average", "rsum")


def _difference(score: _Measured) -> Difference:
    if min(len(score.first), len(score.second)) > 1:
        return group_difference(score.first, score.second, score.draws_B)
    found = paired_difference(float(np.mean(score.first) - np.mean(score.second)), score.draws_B)
    if max(len(score.first), len(score.second)) > 1:
        return replace(found, test=f"{found.test}; one side has one seed, so the seeds' variance is not in it")
    return found
