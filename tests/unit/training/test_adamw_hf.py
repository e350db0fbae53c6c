"""``adamw_hf`` equals transformers' former AdamW, written in loops over single numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mcse.training.config import OptimConfig
from mcse.training.optim import AdamWHF, build_optimizer
from tests.fixtures.launch import differing, run
from tests.fixtures.tiny_run import build_tiny_run
from tests.recipes.test_training import stop_after

STEPS, RATE, BETAS, EPSILON = 6, 1e-2, (0.9, 0.999), 1e-6
# As small as the gradients of MCSE's heads, where epsilon weighs; and none at all in some steps.
SIZES = (1e-7, 1e-6, 1.0)


def gradients(*, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [size * torch.randn(2, 3, generator=generator, dtype=torch.float64) for size in SIZES] for _ in range(STEPS)
    ]


def by_definition(weights, grads, *, decay, left_out=frozenset()):
    """Step by step and number by number, as optimization.py of transformers 4.8.2 says."""
    after = [weight.flatten().tolist() for weight in weights]
    for number, weight in enumerate(after):
        for place in range(len(weight)):
            mean = square = 0.0
            step = 0
            for time in range(STEPS):
                if (time, number) in left_out:
                    continue
                grad = float(grads[time][number].flatten()[place])
                step += 1
                mean = BETAS[0] * mean + (1 - BETAS[0]) * grad
                square = BETAS[1] * square + (1 - BETAS[1]) * grad * grad
                size = RATE * math.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
                weight[place] -= size * mean / (math.sqrt(square) + EPSILON)
                weight[place] -= RATE * decay * weight[place]
    return [torch.tensor(weight, dtype=torch.float64).view(2, 3) for weight in after]


def by_optimizer(kind, weights, grads, *, decay, left_out=frozenset()):
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    optimizer = kind([{"params": parameters, "weight_decay": decay}], lr=RATE, betas=BETAS, eps=EPSILON)
    for time in range(STEPS):
        for number, parameter in enumerate(parameters):
            parameter.grad = None if (time, number) in left_out else grads[time][number]
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("left_out", [frozenset(), frozenset({(0, 1), (3, 2)})], ids=["all", "some without gradient"])
def test_it_is_its_definition(decay, left_out):
    weights = [torch.full((2, 3), 0.5, dtype=torch.float64) for _ in SIZES]
    grads = gradients()
    expected = by_definition(weights, grads, decay=decay, left_out=left_out)
    found = by_optimizer(AdamWHF, weights, grads, decay=decay, left_out=left_out)
    for tensor, other in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-12, atol=0)


def test_it_is_not_pytorchs():
    weights = [torch.zeros(2, 3, dtype=torch.float64) for _ in SIZES]
    ours, torchs = (by_optimizer(kind, weights, gradients(), decay=0.0) for kind in (AdamWHF, torch.optim.AdamW))
    small, medium, large = (float(a.norm() / b.norm()) for a, b in zip(ours, torchs, strict=True))
    # At the first step epsilon is 32 times as much; of gradients far above it nothing is left of that.
    assert small < medium < 0.1 < 0.9999 < large < 1


def test_the_setting_builds_it_and_its_state_is_put_back():
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    config = OptimConfig(learning_rate=0.1, optimizer="adamw_hf", epsilon=1e-6, weight_decay=0.1)
    optimizers = [build_optimizer(layer, config) for layer in layers]
    assert all(isinstance(optimizer, AdamWHF) for optimizer in optimizers)
    assert [group["weight_decay"] for group in optimizers[0].param_groups] == [0.1, 0.0]
    for step in range(4):
        if step == 2:
            layers[1].load_state_dict(layers[0].state_dict())
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            layer(torch.ones(1, 3) * step).square().sum().backward()
            optimizer.step()
    for left, right in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, monkeypatch):
    tiny = build_tiny_run(tmp_path / "tiny")
    keys = {"optim.optimizer": "adamw_hf", "optim.epsilon": 1e-6, "train.resume": "auto"}
    assert run(tiny, "mcse", tmp_path / "straight", keys) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run(tiny, "mcse", tmp_path / "stopped", keys) == 143
    assert run(tiny, "mcse", tmp_path / "stopped", keys) == 0
    assert not differing(tmp_path / "straight" / "last", tmp_path / "stopped" / "last")
    assert run(tiny, "mcse", tmp_path / "torchs", keys | {"optim.optimizer": "adamw"}) == 0
    assert differing(tmp_path / "straight" / "last", tmp_path / "torchs" / "last")
