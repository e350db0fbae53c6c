"""What a table by named columns is evaluated on, by what its columns hold: the items behind each of its scores.

P pairs or rows, Q queries, T texts that may be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mcse.data.named_columns import Example, NamedColumns
from mcse.evaluation.encoding import Rows, cosines
from mcse.evaluation.uncertainty import point_score
from mcse.metrics.labels import best_f1
from mcse.metrics.retrieval import ranked_answers
from mcse.types import Sample

RECALLS = (1, 5, 10)
NDCG = 10

METRICS: Mapping[str, tuple[str, ...]] = {
    "scores": ("spearman", "pearson"),
    "labels": ("average_precision", "f1"),
    "triplets": ("accuracy",),
    "answers": (*(f"recall@{k}" for k in RECALLS), "mrr", f"ndcg@{NDCG}"),
}
"""What the scores of each kind of table are called. A threshold is noted beside its F1, and is nothing to select by."""


@dataclass(frozen=True, slots=True)
class TableItems:
    """The items behind a table's scores by metric, and the texts that each item stands for.

    Attributes:
        samples: By metric; each score is a sample's statistic.
        texts: Of each item the texts by which it counts as seen in training.
        settings: Numbers that are no score of items, such as the best threshold.
    """

    samples: Mapping[str, Sample]
    texts: Sequence[Sequence[str]]
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The statistics × 100 as far as they are, and the settings.

        Raises:
            UndefinedScoreError: One does not exist.
        """
        return {**{metric: point_score(sample) for metric, sample in self.samples.items()}, **self.settings}


def kind_of(columns: NamedColumns) -> str:
    """``scores`` or ``labels`` of pairs, ``triplets``, or queries with ``answers``.

    Raises:
        ValueError: There is one text a row, and nothing to compare it with.
    """
    if len(columns.texts) == 1:
        raise ValueError(f"{columns.source} has no second text to compare with")
    if columns.value is not None:
        return "labels" if columns.is_label else "scores"
    return "triplets" if len(columns.texts) > 2 else "answers"


def check_values(columns: NamedColumns, examples: Sequence[Example]) -> None:
    """Refuses scores and labels that are all the same, which nothing can be compared with.

    Raises:
        ValueError: They are.
    """
    if columns.value is not None and len({example.value for example in examples}) < 2:
        what = "labels" if columns.is_label else "gold scores"
        raise ValueError(f"all {what} of {columns.source} are {examples[0].value:g}")


def items_of(kind: str, rows: Rows, examples: Sequence[Example]) -> TableItems:
    """The items of a table of ``kind``.

    Raises:
        ValueError, UndefinedScoreError: As for encoding.
    """
    return {"scores": _scored, "labels": _labelled, "triplets": _triplets, "answers": _answers}[kind](rows, examples)


def _scored(rows: Rows, examples: Sequence[Example]) -> TableItems:
    cosine_P = _cosines(rows, examples, 1)
    samples = {
        "spearman": Sample(statistic="spearman", value_P=cosine_P, gold_P=_values(examples)),
        "pearson": Sample(statistic="pearson", value_P=cosine_P, gold_P=_values(examples)),
    }
    return TableItems(samples, [example.texts for example in examples])


def _labelled(rows: Rows, examples: Sequence[Example]) -> TableItems:
    cosine_P, label_P = _cosines(rows, examples, 1), _values(examples)
    samples = {
        "average_precision": Sample(statistic="average_precision", value_P=cosine_P, gold_P=label_P),
        "f1": Sample(statistic="best_f1", value_P=cosine_P, gold_P=label_P),
    }
    texts = [example.texts for example in examples]
    return TableItems(samples, texts, {"f1_threshold": best_f1(cosine_P, label_P)[1]})


def _triplets(rows: Rows, examples: Sequence[Example]) -> TableItems:
    """A tie is no success: the positive must be nearer than every negative."""
    positive_P = _cosines(rows, examples, 1)
    nearest_P = np.max([_cosines(rows, examples, number) for number in range(2, len(examples[0].texts))], axis=0)
    sample = Sample(statistic="mean", value_P=100.0 * (positive_P > nearest_P))
    return TableItems({"accuracy": sample}, [example.texts[:2] for example in examples])


def _answers(rows: Rows, examples: Sequence[Example]) -> TableItems:
    """Queries of one text are one query, and each of its positives is an answer to it, among all positives."""
    answers: dict[str, set[int]] = {}
    targets: dict[str, int] = {}
    for example in examples:
        query, answer = example.texts
        answers.setdefault(query, set()).add(targets.setdefault(answer, len(targets)))
    texts = list(targets)
    rank_Q, gain_Q = ranked_answers(rows.unit(list(answers)), rows.unit(texts), list(answers.values()), k=NDCG)
    values: dict[str, NDArray[np.float64]] = {f"recall@{k}": 100 * (rank_Q <= k).astype(np.float64) for k in RECALLS}
    values |= {"mrr": np.asarray(100 / rank_Q, dtype=np.float64), f"ndcg@{NDCG}": gain_Q}
    return TableItems(
        {metric: Sample(statistic="mean", value_P=value_Q) for metric, value_Q in values.items()},
        [(query, *(texts[place] for place in sorted(own))) for query, own in answers.items()],
    )


def _values(examples: Sequence[Example]) -> NDArray[np.float64]:
    return np.array([example.value for example in examples], dtype=np.float64)


def _cosines(rows: Rows, examples: Sequence[Example], number: int) -> NDArray[np.float64]:
    """(P,) of each row's query with its text ``number``."""
    left, right = ([example.texts[place] for example in examples] for place in (0, number))
    return cosines(rows.raw(left), rows.raw(right))
