"""Optimizer and learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer and its schedule: ``warmup_steps`` rise linearly to the peak, ``linear`` falls to 0 at the end.

    ``optimizer``: ``adamw`` unless a published run needs another; ``beta1``, ``beta2`` and ``epsilon`` are AdamW's.
    ``initial_accumulator`` is where ``adagrad``'s sums of squares start.
    """

    learning_rate: float
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    schedule: Literal["linear", "constant"] = "linear"
    warmup_steps: int = 0
    optimizer: Literal["adamw", "adagrad", "sgd"] = "adamw"
    initial_accumulator: float = 0.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optim.learning_rate: must be positive, got {self.learning_rate}")
        if self.max_grad_norm <= 0:
            raise ValueError(f"optim.max_grad_norm: must be positive, got {self.max_grad_norm}")
        if self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps: must be 0 or more, got {self.warmup_steps}")
        if self.initial_accumulator < 0 or (self.initial_accumulator and self.optimizer != "adagrad"):
            raise ValueError(
                f"optim.initial_accumulator: must be 0 or more, and 0 but for adagrad, got {self.initial_accumulator} "
                f"for {self.optimizer}"
            )
        if self.optimizer != "adamw" and (self.beta1, self.beta2, self.epsilon) != (0.9, 0.999, 1e-8):
            raise ValueError(f"optim.beta1, optim.beta2, optim.epsilon: {self.optimizer} has none of them")

    def factor(self, step: int, *, total_steps: int) -> float:
        """What the peak learning rate is multiplied by at ``step``, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - self.warmup_steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class SteppedOptimConfig(OptimConfig):
    """``OptimConfig`` whose rate is, beside its schedule, multiplied by ``decay_factor`` after each ``decay_steps``."""

    decay_steps: int | None = None
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        OptimConfig.__post_init__(self)
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"optim.decay_steps: must be 1 or more, got {self.decay_steps}")
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"optim.decay_factor: must be above 0 and at most 1, got {self.decay_factor}")
        if self.decay_steps is None and self.decay_factor != 0.1:
            raise ValueError(f"optim.decay_factor: {self.decay_factor} would do nothing without optim.decay_steps")

    def factor(self, step: int, *, total_steps: int) -> float:
        """As ``OptimConfig.factor``, times the decay so far."""
        plain = OptimConfig.factor(self, step, total_steps=total_steps)
        return plain if self.decay_steps is None else plain * self.decay_factor ** (step // self.decay_steps)


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer over the parameters that train; biases and norm weights are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.learning_rate)
    if config.optimizer == "adagrad":
        return Adagrad(groups, lr=config.learning_rate, initial_accumulator_value=config.initial_accumulator)
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def check_schedule(config: OptimConfig, *, total_steps: int) -> None:
    """Refuses a warm-up that is longer than the run."""
    if config.warmup_steps > total_steps:
        raise ValueError(f"optim.warmup_steps: {config.warmup_steps} is more than the run's {total_steps} steps")


def build_schedule(optimizer: Optimizer, config: OptimConfig, *, total_steps: int) -> LambdaLR:
    """Factor of the peak learning rate by optimizer step; stepped once a step, whatever the number of processes."""
    check_schedule(config, total_steps=total_steps)
    return LambdaLR(optimizer, partial(config.factor, total_steps=total_steps))


def clip_gradients(model: nn.Module, max_norm: float) -> torch.Tensor:
    """Scales gradients to an L2 norm of at most ``max_norm``; returns the norm before, as a tensor (no host sync)."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
