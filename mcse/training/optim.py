"""Optimizer and learning-rate schedule."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mcse import distributed
from mcse.training.config import OptimConfig


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
    return distributed.whole_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm))
