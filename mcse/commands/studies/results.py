"""What a study has found so far: the scores of every row, the declared comparisons, and what is missing.

It reads what ``mcse evaluate --items`` wrote into the runs, so that a report needs neither models nor test data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mcse.commands.studies.cells import Pair, Places, Row, evaluation_folder, is_evaluated
from mcse.commands.studies.declaration import Evaluation, Study
from mcse.evaluation.compare import DifferentItemsError, Draw, compare, mean_interval
from mcse.evaluation.result_cache import ITEMS, read_items
from mcse.evaluation.uncertainty import Replicates, replicate
from mcse.files import digest_of
from mcse.metrics.significance import group_difference, holm, seeds_needed
from mcse.types import Column, ComparedScore, ModelScores, Sample, ScoreKey


@dataclass(frozen=True, slots=True, eq=False)
class FoundRow:
    """A row with the scores of the seeds that were evaluated, by evaluation and seed."""

    row: Row
    scores: Mapping[str, Mapping[int | None, ModelScores]]

    def seeds_of(self, evaluation: Evaluation) -> list[ModelScores]:
        """Of the seeds that were evaluated, in order."""
        return list(self.scores[evaluation.name].values())


@dataclass(frozen=True, slots=True)
class RowScore:
    """One reported number of a row: by seed, and its mean's 95 % interval."""

    values: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """One comparison by one score; ``found`` is ``None`` with the ``reason``.

    ``p_holm`` is corrected over the comparisons of the family, for primary scores; ``needed`` is the number of seeds on
    each side that would show the study's ``difference``, ``None`` with ``found`` where no number would.
    """

    pair: Pair
    score: str
    found: ComparedScore | None = None
    reason: str = ""
    p_holm: float | None = None
    needed: int | None = None
    seeds: tuple[int, int] = (0, 0)


@dataclass(slots=True, eq=False)
class Findings:
    """What a study has found so far.

    Attributes:
        columns: By reported score the headline number that it names, as far as any row has it.
        rows: The rows with their scores.
        scores: By row and score its numbers.
        tests: Comparisons by score, primary scores first.
        missing: Sentences on what is not there.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    rows: list[FoundRow] = field(default_factory=list)
    scores: dict[tuple[str, str], RowScore] = field(default_factory=dict)
    tests: list[Tested] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find(study: Study, rows: Sequence[Row], pairs: Sequence[Pair], places: Places) -> Findings:
    """Reads the scores of every evaluated run, and tests what was declared."""
    draw = _remembered()
    found = Findings(rows=[_read_row(study, row, places) for row in rows])
    owner = {score: evaluation for evaluation in study.evaluations for score in evaluation.scores}
    for score, evaluation in owner.items():
        problems = []
        for model in (model for row in found.rows for model in row.seeds_of(evaluation)):
            try:
                found.columns[score] = named_column(score, model)
                break
            except ValueError as error:
                problems.append(str(error))
        else:
            found.missing += problems[:1]
    for row in found.rows:
        for score, column in found.columns.items():
            try:
                found.scores[row.row.name, score] = _row_score(row.seeds_of(owner[score]), column, draw)
            except DifferentItemsError as error:
                found.missing.append(f"{row.row.name}: {error}; remove the evaluation of the older ones")
    by_name = {row.row.name: row for row in found.rows}
    tests = [
        _test(study, pair, score, owner[score], by_name, column=found.columns.get(score), draw=draw)
        for score in dict.fromkeys([*study.primary_scores, *study.scores])
        for pair in pairs
    ]
    primary = len(study.primary_scores) * len(pairs)
    found.tests = [*_corrected(tests[:primary]), *tests[primary:]]
    return found


def named_column(score: str, model: ModelScores) -> Column:
    """The headline number of a model that ``suite.task.metric``, or two parts of it, names.

    Raises:
        ValueError: There is none, or there are several; names those that there are.
    """
    every = [each for column in model.all.compared for each in (column, replace(column, key=column.key.clean))]
    have = [column for column in every if model.get(column.key) is not None]
    exact = [column for column in have if str(column.key) == score]
    suite, _, rest = score.partition(".")
    near = [
        column for column in have if column.key.written_suite == suite and rest in (column.key.task, column.key.metric)
    ]
    chosen = exact or near
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(str(column.key) for column in (chosen or have))
    raise ValueError(f"score {score}: {'several' if chosen else 'none'} of {model.name}'s is meant; there is {names}")


def _read_row(study: Study, row: Row, places: Places) -> FoundRow:
    scores: dict[str, dict[int | None, ModelScores]] = {}
    for evaluation in study.evaluations:
        own = scores.setdefault(evaluation.name, {})
        for place, model in enumerate(row.models):
            if is_evaluated(row, place, evaluation, places):
                folder = evaluation_folder(row, place, evaluation, places)
                own[row.seeds[place] if row.seeds else None] = read_items(folder / ITEMS, name=model)
    return FoundRow(row, scores)


def _remembered() -> Draw:
    """``replicate``, which draws each sample once, in however many comparisons it stands."""
    kept: dict[str, Replicates] = {}

    def draw(sample: Sample, key: ScoreKey) -> Replicates:
        arrays = (sample.value_P, sample.gold_P, sample.group_P, sample.cluster_P)
        parts = [b"" if array is None else array.tobytes() for array in arrays]
        name = digest_of(sample.statistic, key.suite, key.task, *parts)
        if name not in kept:
            kept[name] = replicate(sample, key)
        return kept[name]

    return draw


def _row_score(seeds: Sequence[ModelScores], column: Column, draw: Draw) -> RowScore:
    having = [seed for seed in seeds if seed.get(column.key) is not None]
    if not having:
        return RowScore()
    values = tuple(value for seed in having if (value := seed.get(column.key)) is not None)
    return RowScore(values, mean_interval(having, column, draw=draw))


def _test(
    study: Study,
    pair: Pair,
    score: str,
    evaluation: Evaluation,
    by_name: Mapping[str, FoundRow],
    *,
    column: Column | None,
    draw: Draw,
) -> Tested:
    sides = [by_name[row.name].seeds_of(evaluation) for row in (pair.first, pair.second)]
    sizes = (len(sides[0]), len(sides[1]))
    if column is None or not all(sides):
        lacking = [row.name for row, side in zip((pair.first, pair.second), sides, strict=True) if not side]
        return Tested(pair, score, reason=f"{' and '.join(lacking) or score}: not evaluated yet", seeds=sizes)
    try:
        compared = compare(*sides, only=[column.key], draw=draw)
        [found] = [one for one in compared if one.column.key == column.key]
    except DifferentItemsError as error:
        return Tested(pair, score, reason=str(error), seeds=sizes)
    except ValueError:
        values = [[value for seed in side if (value := seed.get(column.key)) is not None] for side in sides]
        if min(map(len, values)) < 2:
            return Tested(pair, score, reason=f"{score} has no items, and fewer than two seeds on a side", seeds=sizes)
        found = _without_items(values, column)
    needed = None
    if found.first_sd is not None and found.second_sd is not None:
        needed = seeds_needed(found.first_sd, found.second_sd, item_sd=found.item_sd, difference=study.difference)
    return Tested(pair, score, found, needed=needed, seeds=sizes)


def _without_items(values: Sequence[Sequence[float]], column: Column) -> ComparedScore:
    """Of a score that has no items: Welch's t over the seeds alone."""
    difference = group_difference(values[0], values[1], np.zeros(2))
    first, second = (float(np.mean(side)) for side in values)
    return ComparedScore(
        column=column,
        first=first,
        second=second,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p=difference.p,
        p_holm=None,
        smallest=difference.smallest,
        item_sd=0.0,
        first_sd=float(np.std(values[0], ddof=1)),
        second_sd=float(np.std(values[1], ddof=1)),
        test=f"Welch's t over {len(values[0])} and {len(values[1])} seeds",
        items=0,
    )


def _corrected(tests: Sequence[Tested]) -> list[Tested]:
    """With Holm's correction over each family as it was declared: what is still missing counts as p = 1."""
    p_holm: dict[int, float] = {}
    for family in dict.fromkeys(test.pair.family for test in tests):
        p_holm |= holm(
            {
                number: 1.0 if test.found is None else test.found.p
                for number, test in enumerate(tests)
                if test.pair.family == family
            }
        )
    return [test if test.found is None else replace(test, p_holm=p_holm[number]) for number, test in enumerate(tests)]
