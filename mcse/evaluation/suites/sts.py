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
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, average_over, pairs_digest
from mcse.evaluation.uncertainty import Means, Samples, clean_part, point_score, with_intervals
from mcse.metrics.correlation import UndefinedScoreError, pearson, spearman
from mcse.types import Column, Encoder, PairList, Sample, ScoreKey, Scores, SuiteScores, keyed_scores

_SHORT_NAMES = {"STSBenchmark": "STS-B", "SICKRelatedness": "SICK-R", SICK_ALL_SPLITS: "SICK-R 9,927"}

_DOMAINS = "sts_domains"
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
    average, absent = average_over(STS_TASKS, {score.name: score.spearman for score in scores})
    return StsResult(tasks=scores, average=average, average_absent=absent)


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
        means[_key("average")] = {_key(name): 1.0 for name in STS_TASKS}
    absent = dict(data.absent)
    if result.average is None and any(task.name in STS_TASKS for task in result.tasks):
        absent["average"] = result.average_absent
    scores = {**keyed_scores("sts", _full_scores(result)), **_domain_scores(samples, means)}
    scores = with_intervals(scores, samples, means)
    if subject.seen is not None:
        clean, without = _clean_scores(samples, means)
        scores |= clean
        absent |= without
    elif subject.why_unknown:
        absent["sts_clean"] = subject.why_unknown
    domains = [key for key in means if key.suite == _DOMAINS]
    return SuiteScores(
        scores=scores,
        protocols=_protocols(result.tasks, scores),
        columns=_columns(result),
        details=tuple(Column(label=key.task, key=key) for key in domains),
        absent=absent,
        samples=samples,
        means=means,
        pairs={_key(task.name): task.pair_list for task in result.tasks},
    )


def _key(task: str, metric: str = "spearman") -> ScoreKey:
    return ScoreKey("sts", task, metric)


def _task_samples(task: StsTaskScore, *, seen: frozenset[str] | None) -> dict[ScoreKey, Sample]:
    """Of the task, drawn within its subsets, and of each subset."""
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
        _key(name, statistic): replace(sample, statistic=statistic)
        for name, sample in parts.items()
        for statistic in _STATISTICS
    }


def _full_scores(result: StsResult) -> dict[str, dict[str, float]]:
    """By task and subset, over all pairs; and the average."""
    scores: dict[str, dict[str, float]] = {}
    for task in result.tasks:
        scores[task.name] = {"spearman": task.spearman, "pearson": task.pearson, "pairs": task.pairs}
        # The hub's copies do not say which subset a pair is of: means over one subset would pass for what they are not.
        if len(task.subsets) > 1:
            scores[task.name] |= {"spearman_mean": task.spearman_mean, "spearman_wmean": task.spearman_wmean}
            for part in task.subsets:
                own = {"spearman": part.spearman, "pearson": part.pearson, "pairs": part.pairs}
                scores[f"{task.name}/{part.name}"] = own
    if result.average is not None:
        seven = [task for task in result.tasks if task.name in STS_TASKS]
        scores["average"] = {"spearman": result.average, "pairs": sum(task.pairs for task in seven)}
    return scores


def _clean_scores(samples: Samples, means: Means) -> tuple[dict[ScoreKey, float], dict[str, str]]:
    """Scores of tasks and domains over the pairs that the model has not seen, and why one is missing."""
    absent: dict[str, str] = {}
    clean: dict[ScoreKey, Sample] = {}
    scores: dict[ScoreKey, float] = {}
    for key, sample in samples.items():
        part = clean_part(sample)
        try:
            if part is None:
                raise UndefinedScoreError("fewer than two pairs are clean")
            score = point_score(part)
        except UndefinedScoreError as error:
            absent[f"sts_clean.{key.task}"] = str(error)
            continue
        clean[key.clean] = part
        if not key.subset:
            scores |= {key.clean: score, key.clean.with_metric("pairs"): len(part.value_P)}
    average, missing = average_over(STS_TASKS, {key.task: scores[key] for key in scores if key.metric == "spearman"})
    if average is None:
        absent["sts_clean.average"] = missing
    else:
        pairs = sum(scores[_key(name, "pairs").clean] for name in STS_TASKS)
        scores |= {_key("average").clean: average, _key("average", "pairs").clean: pairs}
    means = {key.clean: {part.clean: weight for part, weight in parts.items()} for key, parts in means.items()}
    return with_intervals({**scores, **_domain_scores(clean, means)}, clean, means), absent


def _means_of_subsets(tasks: Sequence[StsTaskScore]) -> dict[ScoreKey, dict[ScoreKey, float]]:
    means = {}
    for task in tasks:
        parts = {_key(f"{task.name}/{subset.name}"): float(subset.pairs) for subset in task.subsets}
        if len(parts) > 1:
            means[_key(task.name, "spearman_mean")] = dict.fromkeys(parts, 1.0)
            means[_key(task.name, "spearman_wmean")] = parts
    return means


def _domain_means(samples: Samples) -> dict[ScoreKey, dict[ScoreKey, float]]:
    """Of the domains all of whose subsets are there."""
    keys = {domain: [_key(part) for part in parts] for domain, parts in DOMAINS.items()}
    return {
        ScoreKey(_DOMAINS, domain, "spearman"): dict.fromkeys(parts, 1.0)
        for domain, parts in keys.items()
        if all(part in samples for part in parts)
    }


def _domain_scores(samples: Samples, means: Means) -> dict[ScoreKey, float]:
    """Of the domains all of whose subsets are there: the plain mean of their own Spearman, and how many pairs."""
    scores: dict[ScoreKey, float] = {}
    for key, parts in means.items():
        if key.suite == _DOMAINS and parts.keys() <= samples.keys():
            own = [samples[part] for part in parts]
            scores[key] = float(np.mean([point_score(sample) for sample in own]))
            scores[key.with_metric("pairs")] = sum(len(sample.value_P) for sample in own)
    return scores


def _protocols(tasks: Sequence[StsTaskScore], scores: Scores) -> dict[str, str]:
    protocols = {f"sts.{task.name}": task.protocol for task in tasks}
    protocols["sts intervals"] = "95 % percentile bootstrap, 1,000 draws of pairs within each subset"
    if any(key.part == "clean" for key in scores):
        protocols["sts_clean"] = "without the pairs of which a normalised sentence stands in the model's training text"
    if domains := dict.fromkeys(key.task for key in scores if key.suite == _DOMAINS):
        parts = "; ".join(f"{domain}: {', '.join(DOMAINS[domain])}" for domain in domains)
        protocols["sts_domains"] = f"mean of the subsets' own Spearman ({parts})"
    return protocols


def _columns(result: StsResult) -> tuple[Column, ...]:
    """As papers print them: the seven, their average, and what is not of them behind it."""
    names = [task.name for task in result.tasks]
    published = [name for name in STS_TASKS if name in names]
    average = ["average"] if result.average is not None else []
    others = [name for name in names if name not in published]
    labels = {**_SHORT_NAMES, "average": "Avg."}
    return tuple(Column(label=labels.get(name, name), key=_key(name)) for name in (*published, *average, *others))
