"""Dev sets judged while training: scored pairs of sentences, or held-out images, by the model as it is now.

P pairs, I images, C captions, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.encoding import cosines, encode_distinct
from mcse.evaluation.retrieval import RECALLS, encode_captions, pair_ranks
from mcse.metrics.correlation import UndefinedScoreError, spearman
from mcse.metrics.geometry import alignment, uniformity
from mcse.metrics.retrieval import median_rank, recall_at
from mcse.types import Encoder, FeatureTextEncoder, FloatArray, Score

logger = logging.getLogger(__name__)


class DevEvaluator:
    """Spearman × 100, alignment of the pairs with gold above ``positive_above``, and uniformity over all sentences.

    Every process must call it: they share the encoding and all get the same scores. It draws nothing at random. A score
    that does not exist, such as the correlation of an encoder that still says the same of every pair, is left out and
    logged, so that it does not end a run. Without positive pairs there is no alignment.
    """

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
            raise ValueError(f"{', '.join(pairs.files)}: all gold scores are {pairs.gold[0]:g}, which judges nothing")
        self._pairs = pairs
        self._encoder = encoder
        self._name = name
        self._batch_size = batch_size
        self._positive_P = pairs.gold > positive_above

    def __call__(self) -> dict[str, Score]:
        """``<name>.spearman`` (higher is better), ``<name>.alignment`` and ``<name>.uniformity`` (lower)."""
        left, right = self._pairs.sentence1, self._pairs.sentence2
        try:
            rows = encode_distinct(self._encoder, (*left, *right), batch_size=self._batch_size)
        except UndefinedScoreError as error:
            logger.warning("%s: no scores: %s", self._name, error)
            return {}
        left_PD, right_PD = rows[left], rows[right]
        values = {"uniformity": Score(uniformity(np.concatenate([left_PD, right_PD])), higher_is_better=False)}
        positive = self._positive_P
        if positive.any():
            values["alignment"] = Score(alignment(left_PD[positive], right_PD[positive]), higher_is_better=False)
        try:
            values["spearman"] = Score(100 * spearman(cosines(left_PD, right_PD), self._pairs.gold))
        except UndefinedScoreError as error:
            logger.warning("%s.spearman: no score: %s", self._name, error)
        return {f"{self._name}.{metric}": score for metric, score in values.items()}


class RetrievalEvaluator:
    """Recalls, median ranks and rsum of held-out images and their captions, as the suite ``retrieval`` has them.

    Every process must call it: they share the captions and all get the same scores. It draws nothing at random. Rows
    that are not finite are logged and give no scores, so that they do not end a run here.

    Args:
        encoder: The model as it is now.
        captions: All of them, image after image.
        image_C: The image, from 0, that each caption belongs to.
        features: Gives the images' features, in order.
        batch_size: Captions a forward pass.
    """

    NAMES = (
        "retrieval.rsum",
        *(
            f"retrieval.{task}.{metric}"
            for task in ("image_to_text", "text_to_image")
            for metric in (*(f"recall@{k}" for k in RECALLS), "median_rank")
        ),
    )
    """Of the scores."""

    def __init__(
        self,
        encoder: FeatureTextEncoder,
        captions: Sequence[str],
        *,
        image_C: NDArray[np.int64],
        features: Callable[[], FloatArray],
        batch_size: int = 256,
    ) -> None:
        self._encoder = encoder
        self._captions = tuple(captions)
        self._image_C = image_C
        self._features = features
        self._batch_size = batch_size

    def __call__(self) -> dict[str, Score]:
        """Scores by ``NAMES``; of median ranks lower is better."""
        try:
            caption_CD = encode_captions(self._encoder, self._captions, batch_size=self._batch_size)
            image_ID = self._encoder.encode_image_features(self._features())
            found = pair_ranks(caption_CD, image_ID, image_C=self._image_C)
        except UndefinedScoreError as error:
            logger.warning("retrieval: no scores: %s", error)
            return {}
        scores: dict[str, Score] = {}
        for task, ranks in found.items():
            for k in RECALLS:
                scores[f"retrieval.{task}.recall@{k}"] = Score(recall_at(ranks.rank_Q, k))
            scores[f"retrieval.{task}.median_rank"] = Score(median_rank(ranks.rank_Q), higher_is_better=False)
        rsum = sum(score.value for name, score in scores.items() if "recall@" in name)
        return {"retrieval.rsum": Score(rsum), **scores}
