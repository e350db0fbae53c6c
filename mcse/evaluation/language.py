"""Perplexity of a language model each way on held-out sentences.

N sentences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mcse.distributed import fail_together, gather_arrays, rank, world_size
from mcse.metrics.perplexity import perplexity
from mcse.types import LanguageModel, Score

PERPLEXITY_METRICS = ("perplexity", "perplexity_forward", "perplexity_backward")


class PerplexityEvaluator:
    """``<name>.perplexity_forward``, ``.perplexity_backward`` and, over both, ``.perplexity``: lower is better.

    Words are those of the sentences and the mark that ends each of them in reading direction; the mark that it starts
    with is given. Every process must call it: they share the sentences and all get the same scores.

    Args:
        model: Judged as it is when called.
        sentences: Tokenised.
        name: Of the scores.
        batch_size: Sentences at a time.
    """

    def __init__(
        self, model: LanguageModel, sentences: Sequence[Sequence[str]], *, name: str = "dev", batch_size: int = 64
    ) -> None:
        if not sentences:
            raise ValueError(f"{name}: there are no sentences to judge a language model by")
        self._model, self._sentences, self._name, self._batch_size = model, sentences, name, batch_size

    def __call__(self) -> dict[str, Score]:
        """The three scores."""
        own = self._sentences[rank() :: world_size()]
        means = {}
        for backward, metric in ((False, "perplexity_forward"), (True, "perplexity_backward")):
            found = fail_together(partial(self._model.nll, own, backward=backward, batch_size=self._batch_size))
            parts = gather_arrays(np.concatenate([*found, np.empty(0)]))
            means[metric] = float(np.log(perplexity(parts)))
        values = {"perplexity": float(np.mean(list(means.values()))), **means}
        return {
            f"{self._name}.{metric}": Score(float(np.exp(value)), higher_is_better=False)
            for metric, value in values.items()
        }
