"""Held-out translations as a dev set: BLEU, and the perplexity of the right translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mcse.distributed import all_gather_object, fail_together, gather_arrays, rank, world_size
from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.bleu import corpus_bleu
from mcse.metrics.perplexity import perplexity
from mcse.types import Score, Translator


class TranslationEvaluator(DevSet):
    """``<name>.bleu`` (× 100, higher is better) and ``<name>.perplexity`` (of target words and ends, lower is better).

    The processes share the sentences.

    Args:
        translator: The model as it is now.
        sentences: To translate.
        references: One right translation each.
        name: Of the scores.
        beams: 1 is greedy.
        batch_size: Sentences at a time.
    """

    METRICS: ClassVar = ("bleu", "perplexity")

    def __init__(
        self,
        translator: Translator,
        sentences: Sequence[str],
        references: Sequence[str],
        *,
        name: str = "dev",
        beams: int = 1,
        batch_size: int = 64,
    ) -> None:
        if len(sentences) != len(references) or not sentences:
            raise ValueError(f"{name}: {len(sentences)} sentences and {len(references)} references are no pairs")
        super().__init__(name)
        self._translator, self._sentences, self._references = translator, sentences, references
        self._beams, self._batch_size = beams, batch_size

    def __call__(self) -> dict[str, Score]:
        """Both scores."""
        left = self._sentences[rank() :: world_size()]
        right = self._references[rank() :: world_size()]

        def evaluate() -> tuple[list[str], list[np.ndarray[tuple[int], np.dtype[np.float64]]]]:
            translations = self._translator.translate(left, beams=self._beams, batch_size=self._batch_size)
            return translations, self._translator.nll(left, right, batch_size=self._batch_size)

        translations, nll = fail_together(evaluate)
        found = [text for part in all_gather_object(translations) for text in part]
        wanted = [text for part in all_gather_object(list(right)) for text in part]
        surprise = gather_arrays(np.concatenate([*nll, np.empty(0)]))
        return self._named(
            {
                "bleu": Score(corpus_bleu(found, wanted)),
                "perplexity": Score(perplexity(surprise), higher_is_better=False),
            }
        )
