"""The STS suite: Spearman's correlation of cosines with gold, under SentEval's "all" protocol and its variants.

P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.contamination import unseen
from mcse.data.test_sets.sts import SICK_ALL_SPLITS, STS_TASKS, ScoredPairs, StsData, StsTask, load_sts
from mcse.evaluation.encoding import RowStore, cosines
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, pairs_digest
from mcse.evaluation.uncertainty import add_intervals, clean_part, point_score, replicate_all
from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman
from mcse.types import Column, Encoder, PairList, Sample, SuiteScores, TaskScores

_SHORT_NAMES = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R", SICK_ALL_SPLITS: "SICK-R 9,927"}

_STATISTICS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "captions": ("STS12/MSRvid", "STS14/images", "STS15/images", "SICKRelatedness"),
    "news": (
        "STS12/MSRpar",
        "STS13/headlines",
        "STS14/deft-news",
        "STS14/headlines",
        "STS15/headlines",
        "STS16/headlines",
    ),
    "forums": (
        "STS14/deft-forum",
        "STS15/answers-forums",
        "STS15/belief",
        "STS16/answer-answer",
        "STS16/question-question",
    ),
    "glosses": ("STS12/surprise.OnWN", "STS13/FNWN", "STS13/OnWN", "STS14/OnWN"),
    "translations": ("STS12/SMTeuroparl", "STS12/surprise.SMTnews", "STS16/postediting"),
    "tweets": ("STS14/tweet-news",),
    "student answers": ("STS15/answers-students", "STS16/plagiarism"),
}
"""Domain → task/subset. STS-B is in none: its pairs are drawn from the other tasks."""


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
    ``spearman_wmean`` are means of the subsets' own, plain and weighted by pairs. ``cosine_P``, ``gold_P``
    and ``pair_list`` keep the pairs, in the order of the subsets.
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
    pair_list: PairList


@dataclass(frozen=True, slots=True, kw_only=True)
class StsResult:
    """Scores by task in the order asked for. ``average`` is over the seven, or ``None`` with the reason."""

    tasks: tuple[StsTaskScore, ...]
    average: float | None
    average_absent: str


def evaluate_sts(encoder: Encoder, tasks: Sequence[StsTask], *, batch_size: int = 64) -> StsResult:
    """Scores of every task, from rows of the distinct sentences of all of them, each encoded once.

    Raises:
        ValueError: Two tasks of one name, or an encoder that does not give one row a sentence.
        UndefinedScoreError: NaN rows, or a task or subset whose cosines or gold are constant; the message names it.
    """
    return score_sts(RowStore(encoder, batch_size=batch_size), tasks)


def score_sts(rows: RowStore, tasks: Sequence[StsTask]) -> StsResult:
    """As ``evaluate_sts``, from rows that other suites share."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks must have different names, got {', '.join(names)}")
    rows.encode([text for task in tasks for part in task.subsets for text in (*part.sentence1, *part.sentence2)])
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

    def run(subject: Subject) -> SuiteScores:
        return _suite_scores(score_sts(subject.rows, data.tasks), data, subject=subject)

    summary = f"{len(data.tasks)} tasks, {sum(map(len, data.tasks)):,} pairs"
    if data.absent:
        summary += f"; without {', '.join(data.absent)}"
    digest = pairs_digest(subset for task in data.tasks for subset in task.subsets)
    return PreparedSuite(summary=summary, digest=digest, run=run)


SUITE = Suite(
    name="sts",
    version=1,
    needs="a SentEval folder (STS/, SICK/) or one .tsv/.csv/.jsonl file by --data; otherwise mteb's copies on the hub",
    prepare=prepare_sts,
)


def _score_task(task: StsTask, rows: RowStore) -> StsTaskScore:
    cosine = [cosines(rows.raw(subset.sentence1), rows.raw(subset.sentence2)) for subset in task.subsets]
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
            pair_list=PairList(
                sentence1=tuple(text for subset in task.subsets for text in subset.sentence1),
                sentence2=tuple(text for subset in task.subsets for text in subset.sentence2),
            ),
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


def _suite_scores(result: StsResult, data: StsData, *, subject: Subject) -> SuiteScores:
    samples = {key: sample for task in result.tasks for key, sample in _task_samples(task, seen=subject.seen).items()}
    means = {**_means_of_subsets(result.tasks), **_domain_means(samples)}
    if result.average is not None:
        means["sts.average.spearman"] = {f"sts.{name}.spearman": 1.0 for name in STS_TASKS}
    draws = replicate_all(samples, means)
    scores: dict[str, TaskScores] = {"sts": add_intervals(_full_scores(result), draws, suite="sts")}
    subsets = {
        task.name: {
            part.name: add_intervals({f"{task.name}/{part.name}": _subset_scores(part)}, draws, suite="sts")[
                f"{task.name}/{part.name}"
            ]
            for part in task.subsets
        }
        for task in result.tasks
        if len(task.subsets) > 1
    }
    absent = dict(data.absent)
    if result.average is None and any(task.name in STS_TASKS for task in result.tasks):
        absent["average"] = result.average_absent
    domains = _domain_scores(samples, means)
    if domains:
        scores["sts_domains"] = add_intervals(domains, draws, suite="sts_domains")
    if subject.seen is not None:
        clean, without = _clean_scores(samples, means)
        scores |= clean
        absent |= without
    elif subject.why_unknown:
        absent["sts_clean"] = subject.why_unknown
    return SuiteScores(
        scores=scores,
        protocols=_protocols(result.tasks, scores),
        columns=_columns(scores["sts"]),
        details=tuple(
            Column(label=domain, suite="sts_domains", task=domain, metric="spearman") for domain in domains or ()
        ),
        subsets={"sts": subsets},
        absent=absent,
        samples=samples,
        means=means,
        pairs={f"sts.{task.name}": task.pair_list for task in result.tasks},
    )


def _task_samples(task: StsTaskScore, *, seen: frozenset[str] | None) -> dict[str, Sample]:
    """By key: of the task, drawn within its subsets, and of each subset."""
    group_P = np.repeat(np.arange(len(task.subsets)), [subset.pairs for subset in task.subsets])
    clean_P = None if seen is None else unseen(task.pair_list.sentence1, task.pair_list.sentence2, seen=seen)
    whole = Sample(statistic="spearman", value_P=task.cosine_P, gold_P=task.gold_P, group_P=group_P, clean_P=clean_P)
    parts = {task.name: whole}
    for number, subset in enumerate(task.subsets if len(task.subsets) > 1 else ()):
        part = group_P == number
        parts[f"{task.name}/{subset.name}"] = Sample(
            statistic="spearman",
            value_P=task.cosine_P[part],
            gold_P=task.gold_P[part],
            clean_P=None if clean_P is None else clean_P[part],
        )
    return {
        f"sts.{name}.{statistic}": replace(sample, statistic=statistic)
        for name, sample in parts.items()
        for statistic in _STATISTICS
    }


def _full_scores(result: StsResult) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for task in result.tasks:
        means = {"spearman_mean": task.spearman_mean, "spearman_wmean": task.spearman_wmean}
        # The hub's copies do not say which subset a pair is of: means over one subset would pass for what they are not.
        known = means if len(task.subsets) > 1 else {}
        scores[task.name] = {"spearman": task.spearman, "pearson": task.pearson, **known, "pairs": task.pairs}
    if result.average is not None:
        seven = [task for task in result.tasks if task.name in STS_TASKS]
        scores["average"] = {"spearman": result.average, "pairs": sum(task.pairs for task in seven)}
    return scores


def _clean_scores(
    samples: Mapping[str, Sample], means: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, TaskScores], dict[str, str]]:
    """Scores of tasks and domains over the pairs that the model has not seen, and why one is missing."""
    absent: dict[str, str] = {}
    clean: dict[str, Sample] = {}
    points: dict[str, float] = {}
    for key, sample in samples.items():
        part = clean_part(sample)
        try:
            if part is None:
                raise UndefinedScoreError("fewer than two pairs are clean")
            points[key] = point_score(part, name=key)
        except UndefinedScoreError as error:
            absent[f"sts_clean.{key.removeprefix('sts.').rpartition('.')[0]}"] = str(error)
            continue
        clean[key] = part
    tasks: dict[str, dict[str, float]] = {}
    for key in clean:
        task, _, metric = key.removeprefix("sts.").rpartition(".")
        if "/" not in task:
            tasks.setdefault(task, {"pairs": len(clean[key].value_P)})[metric] = points[key]
    average, missing = average_of_seven({task: metrics["spearman"] for task, metrics in tasks.items()})
    if average is None:
        absent["sts_clean.average"] = missing
    else:
        tasks["average"] = {"spearman": average, "pairs": sum(tasks[name]["pairs"] for name in STS_TASKS)}
    draws = replicate_all(clean, means)
    found = {"sts_clean": add_intervals(tasks, draws, suite="sts")}
    domains = _domain_scores(clean, {key: parts for key, parts in means.items() if parts.keys() <= clean.keys()})
    if domains:
        found["sts_domains_clean"] = add_intervals(domains, draws, suite="sts_domains")
    return found, absent


def _means_of_subsets(tasks: Sequence[StsTaskScore]) -> dict[str, dict[str, float]]:
    means = {}
    for task in tasks:
        parts = {f"sts.{task.name}/{subset.name}.spearman": subset.pairs for subset in task.subsets}
        if len(parts) > 1:
            means[f"sts.{task.name}.spearman_mean"] = dict.fromkeys(parts, 1.0)
            means[f"sts.{task.name}.spearman_wmean"] = {key: float(pairs) for key, pairs in parts.items()}
    return means


def _domain_means(samples: Mapping[str, Sample]) -> dict[str, dict[str, float]]:
    """Of the domains all of whose subsets are there."""
    keys = {domain: [f"sts.{part}.spearman" for part in parts] for domain, parts in DOMAINS.items()}
    return {
        f"sts_domains.{domain}.spearman": dict.fromkeys(parts, 1.0)
        for domain, parts in keys.items()
        if all(part in samples for part in parts)
    }


def _domain_scores(samples: Mapping[str, Sample], means: Mapping[str, object]) -> TaskScores:
    """Of the domains that ``means`` has: the plain mean of their subsets' own Spearman, and how many pairs."""
    scores = {}
    for domain, parts in DOMAINS.items():
        if f"sts_domains.{domain}.spearman" not in means:
            continue
        own = [samples[f"sts.{part}.spearman"] for part in parts]
        scores[domain] = {
            "spearman": float(np.mean([point_score(sample, name=domain) for sample in own])),
            "pairs": sum(len(sample.value_P) for sample in own),
        }
    return scores


def _protocols(tasks: Sequence[StsTaskScore], scores: Mapping[str, TaskScores]) -> dict[str, str]:
    protocols = {f"sts.{task.name}": task.protocol for task in tasks}
    protocols["sts intervals"] = "95 % percentile bootstrap, 1,000 draws of pairs within each subset"
    if "sts_clean" in scores:
        protocols["sts_clean"] = "without the pairs of which a normalised sentence stands in the model's training text"
    if "sts_domains" in scores:
        parts = "; ".join(f"{domain}: {', '.join(DOMAINS[domain])}" for domain in scores["sts_domains"])
        protocols["sts_domains"] = f"mean of the subsets' own Spearman ({parts})"
    return protocols


def _subset_scores(subset: SubsetScore) -> dict[str, float]:
    return {"spearman": subset.spearman, "pearson": subset.pearson, "pairs": subset.pairs}


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
