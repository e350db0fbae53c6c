"""Word similarity while training: Spearman's correlation of words' cosines with what people say, set by set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mcse.data.test_sets.wordsim import WordPairs
from mcse.evaluation.encoding import RowStore
from mcse.evaluation.evaluators.base import DevSet
from mcse.evaluation.suites.wordsim import score_wordsim
from mcse.types import Encoder, Score

logger = logging.getLogger(__name__)


class WordSimilarityEvaluator(DevSet):
    """Word similarity of a model that trains, for ``train.select_by``: whatever set selects is a dev set from then on.

    Gives ``wordsim.<set>.spearman`` × 100 of each set, and ``wordsim.mean``, their plain mean. Where one of them is
    undefined there are no scores, which is logged.
    """

    def __init__(self, sets: Sequence[WordPairs], encoder: Encoder) -> None:
        super().__init__("wordsim")
        self._sets, self._encoder = tuple(sets), encoder

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores."""
        return (*(f"wordsim.{pairs.name}.spearman" for pairs in self._sets), "wordsim.mean")

    def __call__(self) -> dict[str, Score]:
        """Scores by name, all the better when higher."""
        try:
            found = score_wordsim(RowStore(self._encoder), self._sets)
            values = {f"{score.pairs.name}.spearman": score.spearman() for score in found}
        except ValueError as error:
            logger.warning("wordsim: no scores: %s", error)
            return {}
        values["mean"] = float(np.mean(list(values.values())))
        return self._named({metric: Score(value) for metric, value in values.items()})
