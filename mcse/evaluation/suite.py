"""What a suite is: data prepared once, then judged model after model, as named scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mcse.types import Encoder

TaskScores = Mapping[str, Mapping[str, float]]
"""Task → metric → value; correlations and accuracies × 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOptions:
    """What the command line says to every suite."""

    data: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be positive, got {self.batch_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One headline number: where it stands in the scores, how a table calls it and which way is better."""

    label: str
    suite: str
    task: str
    metric: str
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteScores:
    """A suite's verdict on one model.

    ``scores`` may hold more than one name (``sts``, later ``sts_clean``). ``subsets`` is suite → task → subset →
    metric. ``absent`` says for each number that is missing why.
    """

    scores: Mapping[str, TaskScores]
    protocols: Mapping[str, str]
    columns: tuple[Column, ...]
    subsets: Mapping[str, Mapping[str, TaskScores]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSuite:
    """A suite whose data has been read and found good."""

    summary: str
    run: Callable[[Encoder], SuiteScores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite that ``evaluate.py`` can name. ``prepare`` raises where the data is missing or bad."""

    name: str
    needs: str
    prepare: Callable[[SuiteOptions], PreparedSuite]
