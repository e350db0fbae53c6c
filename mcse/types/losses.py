"""What a step returns: named loss terms that any number of processes add up to the same total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A sum over this process's own rows or tokens, and how many there were.

    The loop alone divides: by ``count`` summed over processes. So DDP's average of gradients is the gradient that one
    process would get on the whole batch. Steps never divide by, or multiply with, a number of processes.

    ``count`` is a plain number or a scalar tensor without gradient. ``weight`` multiplies the mean in the total.
    Without ``is_loss`` a term is a number to be logged beside the loss, such as a share of rows.
    """

    sum: Tensor
    count: float | Tensor
    weight: float = 1.0
    is_loss: bool = True

    def count_on(self, device: torch.device) -> Tensor:
        """``count`` as a float32 scalar there; a number is written by the device itself, so that nothing is copied."""
        if isinstance(self.count, Tensor):
            return self.count.to(device, torch.float32)
        return torch.full((), self.count, dtype=torch.float32, device=device)


LossTerms = Mapping[str, LossTerm]
