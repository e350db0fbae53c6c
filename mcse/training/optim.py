"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
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
    if config.optimizer == "adamw_hf":
        return AdamWHF(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon)
    if config.optimizer == "adagrad":
        return Adagrad(groups, lr=config.learning_rate, initial_accumulator_value=config.initial_accumulator)
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


class AdamWHF(Optimizer):
    """AdamW as transformers had it: epsilon is added before the bias correction, and decay follows the update.

    So epsilon weighs most in the first steps: after one it is 1/sqrt(1 - beta2) = 32 times that of ``AdamW``.

    Source: ``transformers.AdamW`` of version 4.8.2 (optimization.py), which MCSE's released code trains with.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    # The count stays on the host, so that reading it waits for no device.
                    self.state[param] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(param)}
                    self.state[param]["exp_avg_sq"] = torch.zeros_like(param)
                self.state[param]["step"] += 1
            grads = [p.grad for p in params if p.grad is not None]
            mean, square = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq"))
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(mean, grads, 1 - beta1)
            torch._foreach_mul_(square, beta2)
            torch._foreach_addcmul_(square, grads, grads, 1 - beta2)
            denominator = torch._foreach_sqrt(square)
            torch._foreach_add_(denominator, group["eps"])
            steps = [int(self.state[p]["step"]) for p in params]
            sizes = [-group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step) for step in steps]
            torch._foreach_addcdiv_(params, mean, denominator, sizes)
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


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
