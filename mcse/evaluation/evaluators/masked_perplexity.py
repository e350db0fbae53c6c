"""Perplexity of hidden words on held-out sentences.

M masked tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mcse.distributed import fail_together, gather_arrays, rank, world_size
from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.perplexity import perplexity
from mcse.types import MaskedTokens, Score


class MaskedPerplexityEvaluator(DevSet):
    """``<name>.perplexity``: the exponential of the mean nats of masked tokens, over all of them; lower is better.

    The processes share the batches.

    Args:
        nll: A batch → (M,) nats of its masked tokens by the model as it is now.
        batches: Sentences with their masks, the same in every evaluation.
        name: Of the score.

    Raises:
        ValueError: Nothing is masked.
    """

    METRICS: ClassVar = ("perplexity",)

    def __init__(
        self,
        nll: Callable[[MaskedTokens], NDArray[np.float64]],
        batches: Sequence[MaskedTokens],
        *,
        name: str = "dev",
    ) -> None:
        if not any(len(batch.chosen()) for batch in batches):
            raise ValueError(f"{name}: no token of the held-out sentences is masked; hold out more of them")
        super().__init__(name)
        self._nll, self._batches = nll, batches

    def __call__(self) -> dict[str, Score]:
        """The score."""
        own = self._batches[rank() :: world_size()]
        found = fail_together(lambda: [self._nll(batch) for batch in own])
        nll_M = gather_arrays(np.concatenate([*found, np.empty(0)]))
        return self._named({"perplexity": Score(perplexity(nll_M), higher_is_better=False)})
