"""What a run is given by Accelerate, whatever its environment variables say."""

from __future__ import annotations

import pytest
import torch

from mcse.training.runtime import start_runtime


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState, GradientState

    for state in (AcceleratorState, GradientState):
        monkeypatch.setattr(state, "_shared_state", {})


def test_the_environment_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    runtime = start_runtime(precision="fp32", seed=0)
    weight = torch.ones(3, requires_grad=True)
    runtime.accelerator.backward((weight * torch.tensor([1.0, 2.0, 3.0])).sum())
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 2, 3]
    model = torch.nn.Linear(3, 2)
    assert runtime.prepare(model, torch.optim.SGD(model.parameters(), 0.1))[0] is model  # not compiled


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_what_is_not_supported_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"^{name}: not supported"):
        start_runtime(precision="fp32", seed=0)
