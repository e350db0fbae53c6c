"""Held-out images and their captions as a dev set: recalls, median ranks and rsum.

I images, C captions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mcse.evaluation.evaluators.base import DevSet
from mcse.evaluation.joint_space import RECALLS, encode_captions, pair_ranks
from mcse.metrics.correlation import UndefinedScoreError
from mcse.types import FeatureTextEncoder, FloatArray, Score

logger = logging.getLogger(__name__)


class RetrievalEvaluator(DevSet):
    """Recalls, median ranks and rsum of held-out images and their captions, as the suite ``retrieval`` has them.

    The processes share the captions. Rows that are not finite are logged and give no scores, so that they do not end a
    run here.

    Args:
        encoder: The model as it is now.
        captions: All of them, image after image.
        image_C: The image, from 0, that each caption belongs to.
        features: Gives the images' features, in order.
        batch_size: Captions a forward pass.
    """

    METRICS: ClassVar = (
        "rsum",
        *(
            f"{task}.{metric}"
            for task in ("image_to_text", "text_to_image")
            for metric in (*(f"recall@{k}" for k in RECALLS), "median_rank")
        ),
    )

    def __init__(
        self,
        encoder: FeatureTextEncoder,
        captions: Sequence[str],
        *,
        image_C: NDArray[np.int64],
        features: Callable[[], FloatArray],
        batch_size: int = 256,
    ) -> None:
        super().__init__("retrieval")
        self._encoder = encoder
        self._captions = tuple(captions)
        self._image_C = image_C
        self._features = features
        self._batch_size = batch_size

    def __call__(self) -> dict[str, Score]:
        """The scores by name; of median ranks lower is better."""
        try:
            caption_CD = encode_captions(self._encoder, self._captions, batch_size=self._batch_size)
            image_ID = self._encoder.encode_image_features(self._features())
            found = pair_ranks(caption_CD, image_ID, image_C=self._image_C)
        except UndefinedScoreError as error:
            logger.warning("retrieval: no scores: %s", error)
            return {}
        values = {
            f"{task}.{metric}": Score(value, higher_is_better=metric != "median_rank")
            for task, ranks in found.items()
            for metric, value in ranks.metrics.items()
        }
        rsum = sum(score.value for name, score in values.items() if "recall@" in name)
        return self._named({"rsum": Score(rsum), **values})
