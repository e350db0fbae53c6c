"""What an evaluation says of a model: scores by suite, task and metric, and the items that they were computed from.

P items (sentence pairs, sentences or queries).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TaskScores = Mapping[str, Mapping[str, float]]
"""Task → metric → value; correlations and accuracies × 100."""

Statistic = Literal["spearman", "pearson", "mean", "median", "f1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One headline number: where it stands in the scores, how a table calls it and which way is better."""

    label: str
    suite: str
    task: str
    metric: str
    higher_is_better: bool = True

    @property
    def key(self) -> str:
        """``suite.task.metric``."""
        return f"{self.suite}.{self.task}.{self.metric}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The items of one score, for intervals and for the comparison of two models item by item.

    Args:
        statistic: ``spearman`` and ``pearson`` of values with gold, × 100; ``mean`` or ``median`` of values; ``f1`` of
            predicted labels (values, 0 or 1) and true ones (gold), × 100.
        value_P: Cosines, 100 or 0 for right or wrong, ranks, or predicted labels.
        gold_P: What the values are compared with, where the statistic needs it.
        group_P: Number of the group that an item belongs to. Items are drawn again within their group.
        clean_P: Whether the model has not seen the item while training; ``None`` where that is not known.
    """

    statistic: Statistic
    value_P: NDArray[np.float64]
    gold_P: NDArray[np.float64] | None = None
    group_P: NDArray[np.int64] | None = None
    clean_P: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairList:
    """The sentence pairs of a task, in the order of its sample, for listings and breakdowns."""

    sentence1: tuple[str, ...]
    sentence2: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteScores:
    """A suite's verdict on one model.

    ``scores`` may hold more than one name (``sts``, ``sts_clean``). ``columns`` are the headlines; ``details`` are
    further numbers that comparisons take. ``subsets`` is suite → task → subset → metric.
    ``absent`` says for each number that is missing why. ``samples`` are by ``suite.task.metric``; ``means`` says which
    scores are weighted means of samples: the score's key → the samples' keys → weight. ``pairs`` are by ``suite.task``.
    """

    scores: Mapping[str, TaskScores]
    protocols: Mapping[str, str]
    columns: tuple[Column, ...]
    details: tuple[Column, ...] = ()
    subsets: Mapping[str, Mapping[str, TaskScores]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[str, Sample] = field(default_factory=dict)
    means: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pairs: Mapping[str, PairList] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the suites found for one model."""

    model: str
    pooling: str
    suites: tuple[SuiteScores, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The headline numbers of all suites."""
        return tuple(column for suite in self.suites for column in suite.columns)

    @property
    def compared(self) -> tuple[Column, ...]:
        """The headlines and details of all suites."""
        return self.columns + tuple(column for suite in self.suites for column in suite.details)

    @property
    def scores(self) -> dict[str, TaskScores]:
        """Suite → task → metric → value."""
        return {name: tasks for suite in self.suites for name, tasks in suite.scores.items()}

    @property
    def subsets(self) -> dict[str, Mapping[str, TaskScores]]:
        """Suite → task → subset → metric → value."""
        return {name: tasks for suite in self.suites for name, tasks in suite.subsets.items()}

    @property
    def protocols(self) -> dict[str, str]:
        """How each number came about, in words."""
        return {name: words for suite in self.suites for name, words in suite.protocols.items()}

    @property
    def absent(self) -> dict[str, str]:
        """What is missing, and why."""
        return {name: reason for suite in self.suites for name, reason in suite.absent.items()}

    @property
    def samples(self) -> dict[str, Sample]:
        """By ``suite.task.metric``."""
        return {name: sample for suite in self.suites for name, sample in suite.samples.items()}

    @property
    def means(self) -> dict[str, Mapping[str, float]]:
        """Score's key → samples' keys → weight."""
        return {name: weights for suite in self.suites for name, weights in suite.means.items()}

    @property
    def pairs(self) -> dict[str, PairList]:
        """By ``suite.task``."""
        return {name: pairs for suite in self.suites for name, pairs in suite.pairs.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScore:
    """One headline number of two models or groups of seeds, the first minus the second.

    Args:
        column: Which number.
        is_clean: Whether only items count that no training text holds.
        first: Score of the first, the mean over its seeds.
        second: Score of the second.
        difference: ``first - second``.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p: Of the hypothesis that there is no difference.
        p_holm: Corrected for the number of tasks; ``None`` for an average, which is a test of its own.
        smallest: The smallest true difference that this comparison would find in four of five cases.
        test: In words.
        items: How many items the score is over.
    """

    column: Column
    is_clean: bool
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None
    smallest: float
    test: str
    items: int
