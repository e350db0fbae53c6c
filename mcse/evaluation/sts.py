"""The STS suite: Spearman's correlation of cosines with gold, under SentEval's "all" protocol and its variants.

P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.data.sts import SICK_ALL_SPLITS, STS_TASKS, ScoredPairs, StsData, StsTask, load_sts
from mcse.evaluation.encoding import DistinctRows, cosines, encode_distinct
from mcse.evaluation.suite import Column, PreparedSuite, Suite, SuiteOptions, SuiteScores, TaskScores
from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman
from mcse.types import Encoder

_SHORT_NAMES = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R", SICK_ALL_SPLITS: "SICK-R 9,927"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetScore:
    """Correlations × 100 over one subset's pairs."""

    name: str
    spearman: float
    pearson: float
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StsTaskScore:
    """Correlations × 100 of one task.

    ``spearman`` and ``pearson`` are over the pairs of all subsets together ("all"), ``spearman_mean`` and
    ``spearman_wmean`` are means of the subsets' own, plain and weighted by pairs. ``cosine_P`` and ``gold_P`` keep the
    pairs, in the order of the subsets, for intervals and plots.
    """

    name: str
    protocol: str
    spearman: float
    pearson: float
    spearman_mean: float
    spearman_wmean: float
    pairs: int
    subsets: tuple[SubsetScore, ...]
    cosine_P: NDArray[np.float64]
    gold_P: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StsResult:
    """Scores by task in the order asked for. ``average`` is over the seven, or ``None`` with the reason."""

    tasks: tuple[StsTaskScore, ...]
    average: float | None
    average_absent: str


def evaluate_sts(encoder: Encoder, tasks: Sequence[StsTask], *, batch_size: int = 64) -> StsResult:
    """Scores of every task, from rows of the distinct sentences of all of them, each encoded once.

    Raises:
        ValueError: Two tasks of one name, or an encoder that does not give one unit row a sentence.
        UndefinedScoreError: NaN rows, or a task or subset whose cosines or gold are constant; the message names it.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks must have different names, got {', '.join(names)}")
    subsets = [subset for task in tasks for subset in task.subsets]
    sentences = (sentence for subset in subsets for sentence in (*subset.sentence1, *subset.sentence2))
    rows = encode_distinct(encoder, sentences, batch_size=batch_size)
    scores = tuple(_score_task(task, rows) for task in tasks)
    average, absent = average_of_seven({score.name: score.spearman for score in scores})
    return StsResult(tasks=scores, average=average, average_absent=absent)


def average_of_seven(spearman_by_task: Mapping[str, float]) -> tuple[float | None, str]:
    """The plain mean over exactly the seven tasks that papers average, or ``None`` and which are missing."""
    missing = [name for name in STS_TASKS if name not in spearman_by_task]
    if missing:
        return None, f"no average: it is over seven tasks, and {', '.join(missing)} {_is_or_are(missing)} missing"
    return float(np.mean([spearman_by_task[name] for name in STS_TASKS])), ""


def prepare_sts(options: SuiteOptions) -> PreparedSuite:
    """Reads the STS tasks that ``options`` name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file cannot be read.
    """
    data = load_sts(options.data)

    def run(encoder: Encoder) -> SuiteScores:
        return _suite_scores(evaluate_sts(encoder, data.tasks, batch_size=options.batch_size), data)

    summary = f"{len(data.tasks)} tasks, {sum(map(len, data.tasks)):,} pairs"
    if data.absent:
        summary += f"; without {', '.join(data.absent)}"
    return PreparedSuite(summary=summary, run=run)


SUITE = Suite(
    name="sts",
    needs="a SentEval folder (STS/, SICK/) or one .tsv/.csv/.jsonl file by --data; otherwise mteb's copies on the hub",
    prepare=prepare_sts,
)


def _score_task(task: StsTask, rows: DistinctRows) -> StsTaskScore:
    cosine = [cosines(rows[subset.sentence1], rows[subset.sentence2]) for subset in task.subsets]
    cosine_P = np.concatenate(cosine)
    gold_P = np.concatenate([subset.gold for subset in task.subsets])
    try:
        subsets = tuple(_score_subset(subset, part) for subset, part in zip(task.subsets, cosine, strict=True))
        values = [subset.spearman for subset in subsets]
        return StsTaskScore(
            name=task.name,
            protocol=task.protocol,
            spearman=100 * spearman(cosine_P, gold_P),
            pearson=100 * pearson(cosine_P, gold_P),
            spearman_mean=float(np.mean(values)),
            spearman_wmean=float(np.average(values, weights=[subset.pairs for subset in subsets])),
            pairs=len(gold_P),
            subsets=subsets,
            cosine_P=cosine_P,
            gold_P=gold_P,
        )
    except UndefinedScoreError as error:
        raise UndefinedScoreError(f"{task.name}: {error}") from None


def _score_subset(subset: ScoredPairs, cosine_P: NDArray[np.float64]) -> SubsetScore:
    try:
        return SubsetScore(
            name=subset.subset,
            spearman=100 * spearman(cosine_P, subset.gold),
            pearson=100 * pearson(cosine_P, subset.gold),
            pairs=len(subset),
        )
    except UndefinedScoreError as error:
        raise UndefinedScoreError(f"subset {subset.subset}: {error}") from None


def _suite_scores(result: StsResult, data: StsData) -> SuiteScores:
    scores: dict[str, Mapping[str, float]] = {}
    for task in result.tasks:
        means = {"spearman_mean": task.spearman_mean, "spearman_wmean": task.spearman_wmean}
        # The hub's copies do not say which subset a pair is of: means over one subset would pass for what they are not.
        known = means if len(task.subsets) > 1 else {}
        scores[task.name] = {"spearman": task.spearman, "pearson": task.pearson, **known, "pairs": task.pairs}
    absent = dict(data.absent)
    if result.average is not None:
        seven = [task for task in result.tasks if task.name in STS_TASKS]
        scores["average"] = {"spearman": result.average, "pairs": sum(task.pairs for task in seven)}
    elif any(task.name in STS_TASKS for task in result.tasks):
        absent["average"] = result.average_absent
    return SuiteScores(
        scores={"sts": scores},
        protocols={f"sts.{task.name}": task.protocol for task in result.tasks},
        columns=_columns(scores),
        subsets={"sts": {task.name: _subset_scores(task) for task in result.tasks if len(task.subsets) > 1}},
        absent=absent,
    )


def _subset_scores(task: StsTaskScore) -> TaskScores:
    return {
        subset.name: {"spearman": subset.spearman, "pearson": subset.pearson, "pairs": subset.pairs}
        for subset in task.subsets
    }


def _columns(scores: TaskScores) -> tuple[Column, ...]:
    """As papers print them: the seven, their average, and what is not of them behind it."""
    published = [name for name in STS_TASKS if name in scores]
    others = [name for name in scores if name not in published and name != "average"]
    average = ["average"] if "average" in scores else []
    return tuple(
        Column(
            label="Avg." if name == "average" else _SHORT_NAMES.get(name, name),
            suite="sts",
            task=name,
            metric="spearman",
        )
        for name in (*published, *average, *others)
    )


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
