"""Predictions of a tagger or classifier on word features, on a dev set: span F1 or accuracy × 100."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from mcse.evaluation.evaluators.base import DevSet
from mcse.metrics.spans import span_scores
from mcse.types import Score

Predict = Callable[[], Sequence[Sequence[str]]]


class SpanF1Evaluator(DevSet):
    """``<name>.f1`` of the tags that ``predict`` gives, in the lenient reading that published scores use.

    Args:
        gold: tags as written in the file.
        predict: Gives tags of the same sentences, in order; the same on every process.
        name: Of the score.
    """

    METRICS: ClassVar = ("f1",)

    def __init__(self, gold: Sequence[Sequence[str]], predict: Predict, *, name: str) -> None:
        super().__init__(name)
        self._gold, self._predict = gold, predict

    def __call__(self) -> Mapping[str, Score]:
        """The score."""
        overall, _ = span_scores(self._gold, self._predict(), reading="lenient")
        return self._named({"f1": Score(overall.f1)})


class AccuracyEvaluator(DevSet):
    """``<name>.accuracy`` of the classes that ``predict`` gives.

    Args:
        gold: Classes.
        predict: Gives classes of the same sentences, in order; the same on every process.
        name: Of the score.
    """

    METRICS: ClassVar = ("accuracy",)

    def __init__(self, gold: Sequence[int], predict: Callable[[], Sequence[int]], *, name: str) -> None:
        if not gold:
            raise ValueError(f"{name}: there are no sentences to predict")
        super().__init__(name)
        self._gold, self._predict = gold, predict

    def __call__(self) -> Mapping[str, Score]:
        """The score."""
        right = sum(wanted == found for wanted, found in zip(self._gold, self._predict(), strict=True))
        return self._named({"accuracy": Score(100 * right / len(self._gold))})
