"""Entity recognition scored through a tagger's ``tag`` alone: exact spans with types, under both readings of BIO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mcse import distributed
from mcse.data.conll import TaggedTexts
from mcse.data.images.names import ABSENT
from mcse.data.streams import ImageRows
from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.spans import SpanScores, span_scores
from mcse.types import FloatArray, Score, Tagger, Tagging

BLOCK = 256
"""Texts whose images are in memory at a time."""


@dataclass(frozen=True, slots=True)
class TaggingScores:
    """Scores of one tagger on one file.

    Gold is read from the tags as written in the file. ``lenient`` is what published scores use; under ``strict``
    gold entities that open with ``I-`` are none.
    """

    lenient: SpanScores
    lenient_by_type: Mapping[str, SpanScores]
    strict: SpanScores
    strict_by_type: Mapping[str, SpanScores]


def score_taggings(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> TaggingScores:
    """Both readings; texts in the same order."""
    return TaggingScores(
        *span_scores(gold, predicted, reading="lenient"), *span_scores(gold, predicted, reading="strict")
    )


def tag_texts(
    tagger: Tagger, words: Sequence[Sequence[str]], images: ImageRows | None, image_row_N: NDArray[np.int64]
) -> list[Tagging]:
    """Taggings of all texts, in order; processes share the work, and all get all of them.

    Args:
        tagger: Under evaluation.
        words: Of each text.
        images: Images, read a block of texts at a time.
        image_row_N: Each text's row of ``images``; ``ABSENT`` where it has no image.
    """
    own = range(distributed.rank(), len(words), distributed.world_size())
    taggings: dict[int, Tagging] = {}
    for start in range(0, len(own), BLOCK):
        chosen = own[start : start + BLOCK]
        block = tagger.tag([words[row] for row in chosen], _rows(images, image_row_N[list(chosen)]))
        taggings |= dict(zip(chosen, block, strict=True))
    merged = {row: tagging for part in distributed.all_gather_object(taggings) for row, tagging in part.items()}
    return [merged[row] for row in range(len(words))]


def _rows(images: ImageRows | None, row_B: NDArray[np.int64]) -> list[FloatArray | None]:
    if images is None or (row_B == ABSENT).all():
        return [None] * len(row_B)
    found = iter(images.rows(row_B[row_B != ABSENT]))
    return [None if row == ABSENT else next(found) for row in row_B]


class TaggingEvaluator(DevSet):
    """Tagged texts as a dev set; all scores × 100.

    Args:
        tagger: The model as it is now; a function, so that nothing is kept of an earlier state.
        texts: The dev set.
        images: Its images.
        image_row_N: Each text's row of ``images``.
        name: Before the scores' names.
    """

    METRICS: ClassVar = ("f1", "precision", "recall", "f1_strict")

    def __init__(
        self,
        tagger: Callable[[], Tagger],
        texts: TaggedTexts,
        *,
        images: ImageRows | None,
        image_row_N: NDArray[np.int64],
        name: str = "dev",
    ) -> None:
        super().__init__(name)
        self._tagger, self._texts, self._images, self._image_row_N = tagger, texts, images, image_row_N

    def __call__(self) -> dict[str, Score]:
        """``f1``, ``precision`` and ``recall`` under the lenient reading, and ``f1_strict``; all × 100."""
        taggings = tag_texts(self._tagger(), self._texts.words, self._images, self._image_row_N)
        scores = score_taggings(self._texts.tags, [tagging.tags for tagging in taggings])
        values = (scores.lenient.f1, scores.lenient.precision, scores.lenient.recall, scores.strict.f1)
        return {name: Score(value) for name, value in zip(self.metrics, values, strict=True)}
