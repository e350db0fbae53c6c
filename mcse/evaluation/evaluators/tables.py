"""Tables as dev sets, each evaluated by what its columns hold: scores, labels, triplets, or queries with answers."""

from __future__ import annotations

import logging

import numpy as np

from mcse.data.named_columns import Example, NamedColumns
from mcse.data.table_config import DevTable
from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.evaluators.base import DevSet
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.evaluation.named_tables import METRICS, check_values, items_of, kind_of
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import Encoder, Score

logger = logging.getLogger(__name__)

_ALIKE = 0.8
"""Of the range of scores: pairs from there on count as positive for alignment, as 4 of 5 does on STS-B."""


def table_evaluator(columns: NamedColumns, config: DevTable, encoder: Encoder) -> ScoredPairsEvaluator | TableEvaluator:
    """The evaluator that fits the table's columns.

    Of a ``score`` Spearman, alignment and uniformity; of a ``label`` average precision and the best F1 with its
    threshold; of negatives the accuracy of triplets; of pairs alone how queries find their positives among all of them.

    Raises:
        ValueError: It cannot be read, or holds nothing to compare.
    """
    try:
        kind, examples = kind_of(columns), list(columns.rows())
        check_values(columns, examples)
    except ValueError as error:
        raise ValueError(f"evaluate: {config.name}: {error}") from None
    if kind != "scores":
        return TableEvaluator(config.name, encoder, examples, kind=kind)
    pairs = ScoredPairs(
        name=config.name,
        subset=config.name,
        sentence1=tuple(example.texts[0] for example in examples),
        sentence2=tuple(example.texts[1] for example in examples),
        gold=np.array([example.value for example in examples]),
        files=(columns.source,),
    )
    low, high = config.score_range or (pairs.gold.min(), pairs.gold.max())
    return ScoredPairsEvaluator(pairs, encoder, name=config.name, positive_above=low + _ALIKE * (high - low))


class TableEvaluator(DevSet):
    """Scores of one table; those that do not exist are logged and left out, so that they do not end a run.

    Args:
        name: Before the scores' names.
        encoder: The model as it is now.
        examples: The rows.
        kind: What the table holds, as ``kind_of`` says.
    """

    def __init__(self, name: str, encoder: Encoder, examples: list[Example], *, kind: str) -> None:
        super().__init__(name)
        self._encoder, self._examples, self._kind = encoder, examples, kind

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores, for ``train.select_by``."""
        return tuple(f"{self._name}.{metric}" for metric in METRICS[self._kind])

    def __call__(self) -> dict[str, Score]:
        """The scores by name; higher is better."""
        rows = RowStore(self._encoder, normalize=True)
        try:
            rows.encode([text for example in self._examples for text in example.texts])
            found = items_of(self._kind, rows, self._examples).scores
        except UndefinedScoreError as error:
            logger.warning("%s: no scores: %s", self._name, error)
            return {}
        return self._named({name: Score(value) for name, value in found.items()})
