"""Tables as dev sets, each evaluated by what its columns are: scores, labels, triplets, or queries with answers.

P pairs, Q queries, T texts that may be found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from mcse.data.named_columns import Example, NamedColumns
from mcse.data.table_config import DevTable
from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.encoding import RowStore, cosines
from mcse.evaluation.evaluators.base import DevSet
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.labels import average_precision, best_f1
from mcse.metrics.retrieval import mean_reciprocal_rank, ranked_answers, recall_at
from mcse.types import Encoder, Score

logger = logging.getLogger(__name__)

_RECALLS = (1, 5, 10)
_NDCG = 10
_ALIKE = 0.8
"""Of the range of scores: from there on pairs count as alike for alignment, as 4 of 5 does on STS-B."""


def table_evaluator(columns: NamedColumns, config: DevTable, encoder: Encoder) -> ScoredPairsEvaluator | TableEvaluator:
    """The evaluator that fits the table's columns.

    Of a ``score`` Spearman, alignment and uniformity; of a ``label`` average precision and the best F1 with its
    threshold; of negatives the accuracy of triplets; of pairs alone how queries find their positives among all of them.

    Raises:
        ValueError: It cannot be read, or holds nothing to compare.
    """
    examples = list(columns.rows())
    if len(columns.texts) == 1:
        raise ValueError(f"evaluate: {config.name}: {columns.source} has no second text to compare with")
    if columns.value is None:
        metrics, score = _TRIPLETS if len(columns.texts) > 2 else _RETRIEVAL
        return TableEvaluator(config.name, encoder, examples, metrics=metrics, score=score)
    value_P = np.array([example.value for example in examples])
    if columns.is_label:
        if len(set(value_P.tolist())) < 2:
            raise ValueError(f"evaluate: {config.name}: all labels of {columns.source} are {value_P[0]:g}")
        return TableEvaluator(config.name, encoder, examples, metrics=_LABELS[0], score=_LABELS[1])
    low, high = config.score_range or (value_P.min(), value_P.max())
    pairs = scored_pairs(config.name, columns, examples)
    return ScoredPairsEvaluator(pairs, encoder, name=config.name, positive_above=low + _ALIKE * (high - low))


def scored_pairs(name: str, columns: NamedColumns, examples: list[Example]) -> ScoredPairs:
    """The pairs of a table with scores."""
    return ScoredPairs(
        name=name,
        subset=name,
        sentence1=tuple(example.texts[0] for example in examples),
        sentence2=tuple(example.texts[1] for example in examples),
        gold=np.array([example.value for example in examples]),
        files=(columns.source,),
    )


class TableEvaluator(DevSet):
    """Scores of one table; those that do not exist are logged and left out, so that they do not end a run.

    Args:
        name: Before the scores' names.
        encoder: The model as it is now.
        examples: The rows.
        metrics: Those of ``score`` that say how good the model is.
        score: Of the rows' embeddings.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        examples: list[Example],
        *,
        metrics: tuple[str, ...],
        score: Callable[[RowStore, list[Example]], Mapping[str, float]],
    ) -> None:
        super().__init__(name)
        self._encoder, self._examples, self._metrics, self._score = encoder, examples, metrics, score

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores, for ``train.select_by``."""
        return tuple(f"{self._name}.{metric}" for metric in self._metrics)

    def __call__(self) -> dict[str, Score]:
        """The scores by name; higher is better."""
        rows = RowStore(self._encoder, normalize=True)
        try:
            rows.encode([text for example in self._examples for text in example.texts])
            found = self._score(rows, self._examples)
        except UndefinedScoreError as error:
            logger.warning("%s: no scores: %s", self._name, error)
            return {}
        return self._named({name: Score(value) for name, value in found.items()})


def _score_labels(rows: RowStore, examples: list[Example]) -> dict[str, float]:
    cosine_P = _cosines(rows, examples, 1)
    label_P = np.array([example.value for example in examples])
    f1, threshold = best_f1(cosine_P, label_P)
    return {"average_precision": average_precision(cosine_P, label_P), "f1": f1, "f1_threshold": threshold}


def _score_triplets(rows: RowStore, examples: list[Example]) -> dict[str, float]:
    positive_P = _cosines(rows, examples, 1)
    negatives = [_cosines(rows, examples, number) for number in range(2, len(examples[0].texts))]
    return {"accuracy": 100 * float((positive_P > np.max(negatives, axis=0)).mean())}


def _score_retrieval(rows: RowStore, examples: list[Example]) -> dict[str, float]:
    """Queries of one text are one query, and each of its positives is an answer to it, among all positives."""
    answers: dict[str, set[int]] = {}
    targets: dict[str, int] = {}
    for example in examples:
        query, answer = example.texts
        answers.setdefault(query, set()).add(targets.setdefault(answer, len(targets)))
    query_QD, target_TD = rows.unit(list(answers)), rows.unit(list(targets))
    rank_Q, gain_Q = ranked_answers(query_QD, target_TD, list(answers.values()), k=_NDCG)
    return {
        **{f"recall@{k}": recall_at(rank_Q, k) for k in _RECALLS},
        "mrr": mean_reciprocal_rank(rank_Q),
        f"ndcg@{_NDCG}": float(gain_Q.mean()),
    }


def _cosines(rows: RowStore, examples: list[Example], number: int) -> np.ndarray:
    left, right = ([example.texts[place] for example in examples] for place in (0, number))
    return cosines(rows.raw(left), rows.raw(right))


# The threshold is noted beside the F1 that it gives; it is no quality that could choose best/.
_LABELS = (("average_precision", "f1"), _score_labels)
_TRIPLETS = (("accuracy",), _score_triplets)
_RETRIEVAL = ((*(f"recall@{k}" for k in _RECALLS), "mrr", f"ndcg@{_NDCG}"), _score_retrieval)
