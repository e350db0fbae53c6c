"""The STS suite: Spearman's correlation of cosines with gold, under SentEval's "all" protocol and its variants.

P pairs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from mcse.data.test_sets.contamination import NEAR_MEASURE
from mcse.data.test_sets.sts import SICK_ALL_SPLITS, STS_TASKS, StsTask, load_sts
from mcse.evaluation.encoding import cosines
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, pairs_digest, why_no_average
from mcse.evaluation.uncertainty import (
    Means,
    Samples,
    clean_means,
    clean_samples,
    point_scores,
    sharing_pairs,
)
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import Column, PairList, Sample, ScoreKey, Scores, SuiteScores

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


def score_sts(subject: Subject, tasks: Sequence[StsTask]) -> SuiteScores:
    """Correlations × 100 of tasks, of their subsets, and of domains; where the training text is known clean ones, too.

    ``spearman`` and ``pearson`` are over the pairs of all subsets together ("all"), ``spearman_mean`` and
    ``spearman_wmean`` are means of the subsets' own, plain and weighted by pairs. No sentence is encoded twice.

    Raises:
        ValueError: Two tasks of one name, or an encoder that does not give one row a sentence.
        UndefinedScoreError: NaN rows, or a task or subset whose cosines or gold are constant; the message names it.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks must have different names, got {', '.join(names)}")
    subject.rows.encode(
        [text for task in tasks for part in task.subsets for text in (*part.sentence1, *part.sentence2)]
    )
    pairs = {
        _key(task.name): PairList(
            sentence1=tuple(text for subset in task.subsets for text in subset.sentence1),
            sentence2=tuple(text for subset in task.subsets for text in subset.sentence2),
        )
        for task in tasks
    }
    samples = {
        key: sample for task in tasks for key, sample in _task_samples(task, pairs[_key(task.name)], subject).items()
    }
    means = {**_means_of_subsets(tasks), **_means_over_tasks(samples)}
    scores, undefined = point_scores(samples, means)
    for key, reason in undefined.items():
        raise UndefinedScoreError(f"{key.task}: {reason}")
    absent = {}
    if (reason := why_no_average(STS_TASKS, names)) and any(name in STS_TASKS for name in names):
        absent["average"] = reason
    if subject.seen is not None:
        clean, without = _clean_scores(samples, means)
        scores |= clean
        scores |= _near_duplicates(subject, {key: task for key, task in pairs.items() if key.clean in clean}, samples)
        absent |= without
    elif subject.why_unknown:
        absent["sts_clean"] = subject.why_unknown
    return SuiteScores(
        scores=scores,
        protocols=_protocols(tasks, scores),
        columns=_columns(names, scores),
        details=tuple(Column(label=key.task, key=key) for key in means if key.suite == _DOMAINS),
        absent=absent,
        samples=samples,
        means=means,
        pairs=pairs,
    )


def prepare_sts(options: SuiteOptions) -> PreparedSuite:
    """Reads the STS tasks that ``options`` name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file cannot be read.
    """
    data = load_sts(options.pairs or options.data)
    options.check_whole(data.cut, data.absent)

    def score(subject: Subject) -> SuiteScores:
        found = score_sts(subject, data.tasks)
        return replace(found, absent={**data.absent, **found.absent})

    summary = f"{len(data.tasks)} task{'s' * (len(data.tasks) > 1)}, {sum(map(len, data.tasks)):,} pairs"
    if data.absent:
        summary += f"; without {', '.join(data.absent)}"
    digest = pairs_digest(subset for task in data.tasks for subset in task.subsets)
    return PreparedSuite(summary=summary, digest=digest, score=score)


SUITE = Suite(
    name="sts",
    version=3,
    needs="a SentEval folder (STS/, SICK/) or one .tsv/.csv/.jsonl file by --data; otherwise mteb's copies on the hub",
    prepare=prepare_sts,
)


def _key(task: str, metric: str = "spearman") -> ScoreKey:
    return ScoreKey("sts", task, metric)


def _task_samples(task: StsTask, pairs: PairList, subject: Subject) -> dict[ScoreKey, Sample]:
    """Of the task, drawn within its subsets, and of each subset."""
    group_P = np.repeat(np.arange(len(task.subsets)), [len(subset) for subset in task.subsets])
    whole = Sample(
        statistic="spearman",
        value_P=np.concatenate(
            [cosines(subject.rows.raw(part.sentence1), subject.rows.raw(part.sentence2)) for part in task.subsets]
        ),
        gold_P=np.concatenate([subset.gold for subset in task.subsets]),
        group_P=group_P,
        cluster_P=sharing_pairs(pairs.sentence1, pairs.sentence2, group_P),
        clean_P=subject.unseen(pairs.sentence1, pairs.sentence2),
    )
    parts = {task.name: whole}
    # The hub's copies do not say which subset a pair is of: means over one subset would pass for what they are not.
    for number, subset in enumerate(task.subsets if len(task.subsets) > 1 else ()):
        parts[f"{task.name}/{subset.subset}"] = replace(whole.part(group_P == number), group_P=None)
    return {
        _key(name, statistic): replace(sample, statistic=statistic)
        for name, sample in parts.items()
        for statistic in _STATISTICS
    }


def _clean_scores(samples: Samples, means: Means) -> tuple[dict[ScoreKey, float], dict[str, str]]:
    """Scores of tasks and domains over the pairs that the model has not seen, and why one is missing."""
    clean = clean_samples(samples)
    scores, undefined = point_scores(clean, clean_means({key: means[key] for key in means if key.metric == "spearman"}))
    undefined |= {key.clean: "fewer than two pairs are clean" for key in samples if key.clean not in clean}
    absent = {f"{key.written_suite}.{key.task}": reason for key, reason in undefined.items()}
    names = {key.task for key in scores}
    if (reason := why_no_average(STS_TASKS, names)) and names & set(STS_TASKS):
        absent["sts_clean.average"] = reason
    return {key: score for key, score in scores.items() if not key.subset}, absent


def _near_duplicates(subject: Subject, pairs: Mapping[ScoreKey, PairList], samples: Samples) -> dict[ScoreKey, float]:
    """How many clean pairs of each task have a sentence that is nearly one of the training text."""
    found: dict[ScoreKey, float] = {}
    for key, task in pairs.items():
        clean_P = samples[key].clean_P
        assert clean_P is not None
        near_P = subject.nearly_seen(task.sentence1, task.sentence2) & clean_P
        found[key.clean.with_metric("near_duplicates")] = float(near_P.sum())
    return found


def _means_of_subsets(tasks: Sequence[StsTask]) -> dict[ScoreKey, dict[ScoreKey, float]]:
    means = {}
    for task in tasks:
        parts = {_key(f"{task.name}/{subset.subset}"): float(len(subset)) for subset in task.subsets}
        if len(parts) > 1:
            means[_key(task.name, "spearman_mean")] = dict.fromkeys(parts, 1.0)
            means[_key(task.name, "spearman_wmean")] = parts
    return means


def _means_over_tasks(samples: Samples) -> dict[ScoreKey, dict[ScoreKey, float]]:
    """The average over the seven, and of each domain the mean of its subsets' own; as far as all parts are there."""
    parts: dict[ScoreKey, tuple[str, ...]] = {_key("average"): STS_TASKS}
    parts |= {ScoreKey(_DOMAINS, domain, "spearman"): subsets for domain, subsets in DOMAINS.items()}
    means = {key: dict.fromkeys(map(_key, names), 1.0) for key, names in parts.items()}
    return {key: weights for key, weights in means.items() if weights.keys() <= samples.keys()}


def _protocols(tasks: Sequence[StsTask], scores: Scores) -> dict[str, str]:
    protocols = {f"sts.{task.name}": task.protocol for task in tasks}
    protocols["sts intervals"] = (
        "95 % percentile bootstrap, 1,000 draws within each subset of pairs, with all that share a sentence with them"
    )
    if any(key.part == "clean" for key in scores):
        protocols["sts_clean"] = (
            "without the pairs with a sentence from the model's training text, by letters and digits alone; "
            f"near_duplicates: how many of the pairs that are left have a sentence that is {NEAR_MEASURE}"
        )
    if domains := dict.fromkeys(key.task for key in scores if key.suite == _DOMAINS):
        parts = "; ".join(f"{domain}: {', '.join(DOMAINS[domain])}" for domain in domains)
        protocols["sts_domains"] = f"mean of the subsets' own Spearman ({parts})"
    return protocols


def _columns(names: Sequence[str], scores: Scores) -> tuple[Column, ...]:
    """As papers print them: the seven, their average, and what is not of them behind it."""
    ordered = [*STS_TASKS, "average", *(name for name in names if name not in STS_TASKS)]
    labels = {**_SHORT_NAMES, "average": "Avg."}
    return tuple(Column(label=labels.get(name, name), key=_key(name)) for name in ordered if _key(name) in scores)
