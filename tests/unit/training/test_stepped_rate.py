"""The learning rate by step: warm-up, schedule, and decay by steps."""

from __future__ import annotations

import pytest
import torch

from mcse.training.config import OptimConfig, SteppedOptimConfig
from mcse.training.optim import build_optimizer, build_schedule


def rates(config, *, steps):
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config)
    schedule = build_schedule(optimizer, config, total_steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_falls_by_the_factor_after_each_so_many_steps():
    config = SteppedOptimConfig(learning_rate=2.0, schedule="constant", decay_steps=3, decay_factor=0.5)
    assert rates(config, steps=8) == pytest.approx([2, 2, 2, 1, 1, 1, 0.5, 0.5])


def test_without_decay_it_is_the_plain_schedule():
    for keys in ({"schedule": "linear"}, {"schedule": "constant"}, {"schedule": "linear", "warmup_steps": 3}):
        plain, stepped = (kind(learning_rate=1.0, **keys) for kind in (OptimConfig, SteppedOptimConfig))
        assert rates(plain, steps=7) == rates(stepped, steps=7)
    assert rates(OptimConfig(learning_rate=1.0, warmup_steps=2), steps=4) == pytest.approx([0.5, 1, 1, 0.5])


def test_decay_multiplies_warm_up_and_schedule():
    config = SteppedOptimConfig(learning_rate=1.0, warmup_steps=2, decay_steps=2, decay_factor=0.1)
    assert rates(config, steps=4) == pytest.approx([0.5, 1, 0.1, 0.05])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decay_steps": 0}, "optim.decay_steps: must be 1 or more, got 0"),
        ({"decay_steps": 1, "decay_factor": 0.0}, "optim.decay_factor: must be above 0 and at most 1, got 0.0"),
        ({"decay_factor": 0.5}, "optim.decay_factor: 0.5 would do nothing without optim.decay_steps"),
        ({"learning_rate": 0.0}, "optim.learning_rate: must be positive"),
    ],
)
def test_wrong_settings_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        SteppedOptimConfig(**{"learning_rate": 1.0, **keys})


def test_sgd_takes_plain_steps():
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, SteppedOptimConfig(learning_rate=0.5, optimizer="sgd"))
    layer(torch.tensor([[1.0, 3.0]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight, before - 0.5 * torch.tensor([[1.0, 3.0]]))
