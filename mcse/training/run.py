"""The contract between loop and recipe: a recipe builds one ``Run``; the loop calls it and never looks inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mcse.types import DataFile, Evaluator, LossTerms, Score, Stateful, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything one training run is made of.

    Attributes:
        model: Called as ``model(batch)`` inside ``step`` alone, so that DDP sees every forward pass.
        step: Loss terms of one batch, from the (possibly wrapped) model.
        stream: Batches; pure functions of the step.
        optimizer: Over the model's parameters.
        evaluators: Each evaluates the model every ``train.eval_steps`` steps.
        metrics: The names that the evaluators can give, so that ``train.select_by`` is checked before the first step.
        export: Writes a checkpoint folder that people load, into a folder that is empty or absent; the second argument
            holds the dev scores for the manifest and the card.
        state: Whatever else must be saved to resume bit for bit.
        carried: The part of the stream, if any, that reads on from where it stopped. Batches are made ahead, so what is
            saved is its state after the batch that was used last.
        facts: What people get wrong, by name, printed at the start.
        data: What was read, for ``run.json``.
    """

    model: nn.Module
    step: Callable[[nn.Module, Any], LossTerms]
    stream: Stream[Any]
    optimizer: Optimizer
    export: Callable[[Path, Mapping[str, Score]], None]
    evaluators: Sequence[Evaluator] = ()
    metrics: Sequence[str] = ()
    state: Mapping[str, Stateful] = field(default_factory=dict)
    carried: Stateful | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    data: Sequence[DataFile] = ()
