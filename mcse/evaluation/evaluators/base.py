"""What all evaluators of dev sets share: a name before their scores, and which scores they can give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcse.types import Score


class DevSet:
    """A dev set that scores a model as it is when called. Every process must call it; all get the same scores.

    Args:
        name: Before the scores' names.
    """

    METRICS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the scores, for ``train.select_by``."""
        return tuple(f"{self._name}.{metric}" for metric in self.METRICS)

    def _named(self, values: Mapping[str, Score]) -> dict[str, Score]:
        return {f"{self._name}.{metric}": score for metric, score in values.items()}
