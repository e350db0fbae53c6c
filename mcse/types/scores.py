"""What an evaluation says of a model: scores by key, and the items that they were computed from.

P items (sentence pairs, sentences or queries).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

Part = Literal["clean"]
Bound = Literal["low", "high"]
Statistic = Literal["spearman", "pearson", "mean", "median", "f1", "average_precision", "best_f1"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class ScoreKey:
    """The name of one number, written ``suite.task.metric``, such as ``sts_clean.STS12/MSRvid.spearman_low``.

    Args:
        suite: ``sts``, ``transfer``, …
        task: Of the suite; a subset of a task is ``task/subset``.
        metric: ``spearman``, ``accuracy``, …; ``pairs`` is how many items the task's scores are over.
        part: ``clean`` where only items count that the model has not seen in training; written behind the suite.
        bound: Which end of the score's 95 % interval; written behind the metric.
    """

    suite: str
    task: str
    metric: str
    part: Part | None = None
    bound: Bound | None = None

    @classmethod
    def parse(cls, text: str) -> ScoreKey:
        """The key that ``str`` wrote.

        Raises:
            ValueError: ``text`` has fewer than three parts.
        """
        suite, _, rest = text.partition(".")
        task, _, metric = rest.rpartition(".")
        if not (suite and task and metric):
            raise ValueError(f"a score is named suite.task.metric, got {text!r}")
        for part in get_args(Part):
            if suite.endswith(f"_{part}"):
                return replace(cls.parse(f"{suite.removesuffix(f'_{part}')}.{rest}"), part=part)
        for bound in get_args(Bound):
            if metric.endswith(f"_{bound}"):
                return cls(suite, task, metric.removesuffix(f"_{bound}"), bound=bound)
        return cls(suite, task, metric)

    def __str__(self) -> str:
        return f"{self.written_suite}.{self.task}.{self.written_metric}"

    @property
    def written_suite(self) -> str:
        """The suite with its part, as files name it."""
        return f"{self.suite}_{self.part}" if self.part else self.suite

    @property
    def written_metric(self) -> str:
        """The metric with its bound, as files name it."""
        return f"{self.metric}_{self.bound}" if self.bound else self.metric

    @property
    def subset(self) -> str:
        """The subset alone; empty where the score is of a whole task."""
        return self.task.partition("/")[2]

    @property
    def clean(self) -> ScoreKey:
        """The same score over the items that the model has not seen."""
        return replace(self, part="clean")

    @property
    def ends(self) -> tuple[ScoreKey, ScoreKey]:
        """Lower and upper end of the score's interval."""
        return replace(self, bound="low"), replace(self, bound="high")

    def with_metric(self, metric: str) -> ScoreKey:
        """Another metric of the same task and part."""
        return replace(self, metric=metric, bound=None)


Scores = Mapping[ScoreKey, float]
"""Correlations and accuracies × 100."""

ScoreTree = dict[str, dict[str, dict[str, float]]]
"""Suite → task → metric → value, as files hold scores."""


def keyed_scores(suite: str, tasks: Mapping[str, Mapping[str, float]]) -> dict[ScoreKey, float]:
    """A suite's scores by key, from task → metric → value."""
    return {
        ScoreKey(suite, task, metric): value for task, metrics in tasks.items() for metric, value in metrics.items()
    }


def score_tree(scores: Scores) -> ScoreTree:
    """The scores of whole tasks as files hold them."""
    tree: ScoreTree = {}
    for key, value in scores.items():
        if not key.subset:
            tree.setdefault(key.written_suite, {}).setdefault(key.task, {})[key.written_metric] = value
    return tree


def subset_tree(scores: Scores) -> dict[str, ScoreTree]:
    """The scores of subsets as files hold them: suite → task → subset → metric → value."""
    tree: dict[str, ScoreTree] = {}
    for key, value in scores.items():
        if key.subset:
            tasks = tree.setdefault(key.written_suite, {}).setdefault(key.task.partition("/")[0], {})
            tasks.setdefault(key.subset, {})[key.written_metric] = value
    return tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One headline number: its key, its heading in a table and which way is better."""

    label: str
    key: ScoreKey
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """The items of one score, for intervals and for the comparison of two models item by item.

    Args:
        statistic: ``spearman`` and ``pearson`` of values with gold, × 100; ``mean`` or ``median`` of values; ``f1`` of
            predicted labels (values, 0 or 1) and true ones (gold), × 100; ``average_precision`` of values by labels
            (gold), and ``best_f1`` at the threshold of the values that gives most, × 100.
        value_P: Cosines, 100 or 0 for right or wrong, ranks, or predicted labels.
        gold_P: What the values are compared with, where the statistic needs it.
        group_P: Number of the group that an item belongs to. Items are drawn again within their group.
        cluster_P: Number of the items that are drawn together, as those that share a sentence or an image are no
            independent evidence; ``None`` where each item is drawn by itself.
        clean_P: Whether the model has not seen the item while training; ``None`` where that is not known.
    """

    statistic: Statistic
    value_P: NDArray[np.float64]
    gold_P: NDArray[np.float64] | None = None
    group_P: NDArray[np.int64] | None = None
    cluster_P: NDArray[np.int64] | None = None
    clean_P: NDArray[np.bool_] | None = None

    def part(self, kept_P: NDArray[np.bool_]) -> Sample:
        """The items that ``kept_P`` marks."""
        arrays = {name: getattr(self, name) for name in ("value_P", "gold_P", "group_P", "cluster_P", "clean_P")}
        return replace(self, **{name: array[kept_P] for name, array in arrays.items() if array is not None})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairList:
    """The sentence pairs of a task, in the order of its sample, for listings and breakdowns."""

    sentence1: tuple[str, ...]
    sentence2: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteScores:
    """What one suite found for one model.

    Args:
        scores: Of tasks and subsets, with the ends of their intervals; a suite may give further ones
            (``sts``, ``sts_domains``).
        protocols: How each number came about, in words.
        columns: The headlines.
        details: Further numbers that comparisons take.
        absent: For each number that is missing the reason.
        samples: The items behind a score.
        means: Which scores are weighted means of samples: the score → the samples → weight.
        pairs: The sentence pairs behind a sample, where there are such.
        form: What the rows were, in words, where they were not as the encoder gives them.
    """

    scores: Scores
    protocols: Mapping[str, str]
    columns: tuple[Column, ...]
    details: tuple[Column, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[ScoreKey, Sample] = field(default_factory=dict)
    means: Mapping[ScoreKey, Mapping[ScoreKey, float]] = field(default_factory=dict)
    pairs: Mapping[ScoreKey, PairList] = field(default_factory=dict)
    form: str = ""

    @property
    def compared(self) -> tuple[Column, ...]:
        """The headlines, then the details."""
        return self.columns + self.details


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """What the suites found for one model."""

    name: str
    pooling: str
    suites: tuple[SuiteScores, ...]
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> SuiteScores:
        """The suites joined to one."""
        return SuiteScores(
            scores=_joined(suite.scores for suite in self.suites),
            protocols=_joined(suite.protocols for suite in self.suites),
            columns=tuple(column for suite in self.suites for column in suite.columns),
            details=tuple(column for suite in self.suites for column in suite.details),
            absent=_joined(suite.absent for suite in self.suites),
            samples=_joined(suite.samples for suite in self.suites),
            means=_joined(suite.means for suite in self.suites),
            pairs=_joined(suite.pairs for suite in self.suites),
        )

    def get(self, key: ScoreKey) -> float | None:
        """One score; ``None`` where it is missing."""
        return next((suite.scores[key] for suite in self.suites if key in suite.scores), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScore:
    """One headline number of two models or groups of seeds, the first minus the second.

    Args:
        column: Which number; its key says whether only items count that no known training text holds.
        first: Score of the first, the mean over its seeds.
        second: Score of the second.
        difference: ``first - second``.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p: Of the hypothesis that there is no difference.
        p_holm: Corrected for the number of tasks; ``None`` for an average, which is a test of its own.
        smallest: The smallest true difference that this comparison would find in four of five cases.
        item_sd: Standard deviation of the difference over draws of the items.
        first_sd: Over the seeds of the first; ``None`` of one seed.
        second_sd: Over the seeds of the second.
        test: In words.
        items: How many items the score is over.
    """

    column: Column
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float | None
    smallest: float
    item_sd: float
    first_sd: float | None
    second_sd: float | None
    test: str
    items: int


def _joined(parts: Iterable[Mapping[_Key, _Value]]) -> dict[_Key, _Value]:
    return {key: value for part in parts for key, value in part.items()}
