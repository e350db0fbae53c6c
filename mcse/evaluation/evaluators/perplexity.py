"""Perplexity of a language model each way on held-out sentences.

N sentences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from mcse.distributed import fail_together, gather_arrays, rank, world_size
from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.perplexity import perplexity
from mcse.types import LanguageModel, Score


class PerplexityEvaluator(DevSet):
    """``<name>.perplexity_forward``, ``.perplexity_backward`` and, over both, ``.perplexity``: lower is better.

    Words are those of the sentences and the mark that ends each of them in reading direction; the mark that it starts
    with is given. The processes share the sentences.

    Args:
        model: The language model as it is now.
        sentences: Tokenised.
        name: Of the scores.
        batch_size: Sentences at a time.
    """

    METRICS: ClassVar = ("perplexity", "perplexity_forward", "perplexity_backward")

    def __init__(
        self, model: LanguageModel, sentences: Sequence[Sequence[str]], *, name: str = "dev", batch_size: int = 64
    ) -> None:
        if not sentences:
            raise ValueError(f"{name}: there are no sentences for a language model's perplexity")
        super().__init__(name)
        self._model, self._sentences, self._batch_size = model, sentences, batch_size

    def __call__(self) -> dict[str, Score]:
        """The three scores."""
        own = self._sentences[rank() :: world_size()]
        means = {}
        for backward, metric in ((False, "perplexity_forward"), (True, "perplexity_backward")):
            found = fail_together(partial(self._model.nll, own, backward=backward, batch_size=self._batch_size))
            parts = gather_arrays(np.concatenate([*found, np.empty(0)]))
            means[metric] = float(np.log(perplexity(parts)))
        values = {"perplexity": float(np.mean(list(means.values()))), **means}
        return self._named(
            {metric: Score(float(np.exp(value)), higher_is_better=False) for metric, value in values.items()}
        )
