"""A tagger or classifier on word features judged by its predictions: span F1 or accuracy × 100."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mcse.metrics.spans import span_scores
from mcse.types import Score

Predict = Callable[[], Sequence[Sequence[str]]]


class SpanF1Evaluator:
    """``<name>.f1`` of the tags that ``predict`` gives, in the lenient reading that published scores use.

    Args:
        gold: Tags as they stand in the file.
        predict: Gives tags of the same sentences, in order; the same on every process.
        name: Of the score.
    """

    def __init__(self, gold: Sequence[Sequence[str]], predict: Predict, *, name: str) -> None:
        self._gold, self._predict, self._name = gold, predict, name

    def __call__(self) -> Mapping[str, Score]:
        """The score."""
        overall, _ = span_scores(self._gold, self._predict(), reading="lenient")
        return {f"{self._name}.f1": Score(overall.f1)}


class AccuracyEvaluator:
    """``<name>.accuracy`` of the classes that ``predict`` gives.

    Args:
        gold: Classes.
        predict: Gives classes of the same sentences, in order; the same on every process.
        name: Of the score.
    """

    def __init__(self, gold: Sequence[int], predict: Callable[[], Sequence[int]], *, name: str) -> None:
        if not gold:
            raise ValueError(f"{name}: there are no sentences to judge by")
        self._gold, self._predict, self._name = gold, predict, name

    def __call__(self) -> Mapping[str, Score]:
        """The score."""
        right = sum(wanted == found for wanted, found in zip(self._gold, self._predict(), strict=True))
        return {f"{self._name}.accuracy": Score(100 * right / len(self._gold))}
