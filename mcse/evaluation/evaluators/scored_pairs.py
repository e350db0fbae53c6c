"""Scored pairs of sentences as a dev set: Spearman's correlation, alignment and uniformity.

P pairs, D width.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import numpy as np

from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.encoding import RowStore, cosines
from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.correlation import UndefinedScoreError, spearman
from mcse.metrics.geometry import alignment, uniformity
from mcse.types import Encoder, Score

logger = logging.getLogger(__name__)


class ScoredPairsEvaluator(DevSet):
    """Spearman × 100, alignment of the pairs with gold above ``positive_above``, and uniformity over all sentences.

    The processes share the encoding. A score that does not exist, such as the correlation of an encoder that still says
    the same of every pair, is left out and logged, so that it does not end a run. Without positive pairs there is no
    alignment.
    """

    METRICS: ClassVar = ("spearman", "alignment", "uniformity")

    def __init__(
        self,
        pairs: ScoredPairs,
        encoder: Encoder,
        *,
        name: str = "stsb_dev",
        batch_size: int = 64,
        positive_above: float = 4.0,
    ) -> None:
        if np.ptp(pairs.gold) == 0:
            raise ValueError(
                f"{', '.join(pairs.files)}: all gold scores are {pairs.gold[0]:g}, so no correlation exists"
            )
        super().__init__(name)
        self._pairs = pairs
        self._encoder = encoder
        self._batch_size = batch_size
        self._positive_P = pairs.gold > positive_above

    def __call__(self) -> dict[str, Score]:
        """``<name>.spearman`` (higher is better), ``<name>.alignment`` and ``<name>.uniformity`` (lower)."""
        left, right = self._pairs.sentence1, self._pairs.sentence2
        rows = RowStore(self._encoder, batch_size=self._batch_size, normalize=True)
        try:
            rows.encode((*left, *right))
        except UndefinedScoreError as error:
            logger.warning("%s: no scores: %s", self._name, error)
            return {}
        left_PD, right_PD = rows.raw(left), rows.raw(right)
        values = {
            "uniformity": Score(
                uniformity(np.concatenate([left_PD, right_PD]), dtype=np.float32), higher_is_better=False
            )
        }
        positive = self._positive_P
        if positive.any():
            values["alignment"] = Score(alignment(left_PD[positive], right_PD[positive]), higher_is_better=False)
        try:
            values["spearman"] = Score(100 * spearman(cosines(left_PD, right_PD), self._pairs.gold))
        except UndefinedScoreError as error:
            logger.warning("%s.spearman: no score: %s", self._name, error)
        return self._named(values)
