"""The meter: losses and gradients since the last line of ``metrics.jsonl``, and whether all of them were finite."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mcse import distributed
from mcse.types import LossTerms


class NotFiniteError(RuntimeError):
    """The loss or a gradient became NaN or infinite."""


class _Watched(NamedTuple):
    """A number that must be finite, and the step it belongs to."""

    step: int
    kind: str
    value: Tensor


@dataclass(slots=True)
class Meter:
    """Sums since the last line, kept on the device so that no step waits for it.

    Attributes:
        watches_gradients: Whether a gradient that is not finite is a fault; under fp16 it is none, since the scaler
            skips that step, as long as it does not skip them all.
        skipped: Steps in a row whose gradient was not finite, up to the last line.
        steps: Optimizer steps so far.
    """

    watches_gradients: bool
    skipped: int = 0
    steps: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, Tensor] = field(default_factory=dict)
    _weights: dict[str, float | None] = field(default_factory=dict)
    _losses: list[Tensor] = field(default_factory=list)
    _grad_norms: list[Tensor] = field(default_factory=list)
    _watched: list[_Watched] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    def add_batch(self, step: int, loss: Tensor, terms: LossTerms) -> None:
        """A forward pass of ``step``: its loss, and the terms behind it."""
        self._losses.append(loss.detach())
        self._watched.append(_Watched(step, "loss", loss.detach()))
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + term.sum.detach().float()
            self._counts[name] = self._counts.get(name, 0.0) + term.count_on(loss.device)
            self._weights[name] = term.weight if term.is_loss else None

    def add_step(self, step: int, grad_norm: Tensor) -> None:
        """An optimizer step, with the norm of its gradient before clipping."""
        self.steps += 1
        self._grad_norms.append(grad_norm)
        # A gradient may be NaN though its loss is not, and its step has then spoilt the weights.
        if self.watches_gradients:
            self._watched.append(_Watched(step, "gradient", grad_norm))

    def first_not_finite(self) -> tuple[int, str] | None:
        """The step, and ``loss`` or ``gradient``, of the first that is not finite on some process; all must ask."""
        if not self._watched:
            return None
        # A loss may be finite on one process and not on another; all must stop together.
        finite = torch.stack([torch.isfinite(watched.value) for watched in self._watched])
        bad = distributed.sum_over_processes((~finite).float())
        if not bad.any():
            return None
        first = self._watched[int((bad > 0).int().argmax())]
        return first.step, first.kind

    def skipped_in_a_row(self) -> int:
        """Steps up to the last one whose gradient was not finite on some process, one after the other; all must ask."""
        if not self._grad_norms:
            return self.skipped
        finite = torch.stack([torch.isfinite(norm) for norm in self._grad_norms])
        bad = distributed.sum_over_processes((~finite).float()) > 0
        return self.skipped + len(bad) if bad.all() else bad.tolist()[::-1].index(False)

    def numbers(self, *, learning_rate: float, examples_per_step: int) -> dict[str, float]:
        """Means over all processes, and terms' weights other than 1, after at least one step; all must ask."""
        assert self._grad_norms
        names = sorted(self._sums)
        sums = distributed.sum_over_processes(torch.stack([self._sums[name] for name in names]))
        counts = distributed.sum_over_processes(torch.stack([self._counts[name] for name in names]))
        loss = distributed.sum_over_processes(torch.stack(self._losses).mean())
        found = torch.stack([sums / counts.clamp(min=1), counts]).tolist()
        weights = {name: weight for name, weight in self._weights.items() if weight is not None}
        # What is logged alone, and was of nothing in these steps, is left out.
        means = {name: mean for name, mean, count in zip(names, *found, strict=True) if count or name in weights}
        return {
            "loss": float(loss) / distributed.world_size(),
            **{f"loss.{name}" if name in weights else name: mean for name, mean in means.items()},
            **{f"weight.{name}": weight for name, weight in sorted(weights.items()) if weight != 1},
            "learning_rate": learning_rate,
            "grad_norm": float(self._grad_norms[-1]),
            "sentences_per_second": self.steps * examples_per_step / (time.perf_counter() - self._started),
        }
