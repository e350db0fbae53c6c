"""fp16's gradient scaler, on the host: gradients are clipped as they are, not as they were scaled."""

from __future__ import annotations

import contextlib

import pytest
import torch

from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import Loop
from mcse.training.runtime import start_runtime
from tests.cuda.fake import Unwritten
from tests.fixtures.launch import arguments_of, one_thread, own_cache
from tests.fixtures.tiny_run import build_tiny_run

# A limit that every gradient is above, and far below what it is times the scale.
KEYS = {"optim.max_grad_norm": 0.05, "optim.epsilon": 1e-4, "optim.schedule": "constant"}


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


def weights_after(still, keys, *, scaler, monkeypatch, spoil=None, steps=2):
    with one_thread(), own_cache(still):
        config = load_config(None, arguments_of(still, "simcse", still / "unused", KEYS | keys))
        runtime = start_runtime(precision="fp32", seed=0, show_progress=False)
        run = method("simcse").build(config, runtime)
        accelerator = runtime.accelerator
        monkeypatch.setattr(accelerator, "scaler", scaler)
        loop = Loop(run, config.train, optim=config.optim, runtime=runtime, folder=still, journal=Unwritten())
        if scaler is not None:
            # What ``unscale_gradients`` asks; products stay in fp32.
            monkeypatch.setattr(accelerator, "native_amp", True)
            monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
            monkeypatch.setattr(accelerator, "autocast", contextlib.nullcontext)
        loop.meter = loop._new_meter()
        loop.prefetcher.begin_at(0)
        with loop.prefetcher:
            for step in range(steps):
                handle = None
                if step == spoil:
                    parameter = next(run.model.parameters())
                    handle = parameter.register_hook(lambda gradient: gradient * torch.inf)
                loop._step()
                if handle is not None:
                    handle.remove()
        return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize(
    "keys",
    [{}, {"train.accumulation_steps": 2}, {"train.cached_chunk_size": 3}],
    ids=["plain", "accumulated", "cached"],
)
def test_scaled_steps_are_plain_steps(keys, still, monkeypatch):
    plain = weights_after(still, keys, scaler=None, monkeypatch=monkeypatch)
    with monkeypatch.context() as patch:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
        scaled = weights_after(still, keys, scaler=scaler, monkeypatch=patch)
    for name, tensor in plain.items():
        torch.testing.assert_close(scaled[name], tensor, rtol=1e-6, atol=1e-7, msg=name)


def test_a_step_that_overflows_is_skipped_and_halves_the_scale(still, monkeypatch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    two = weights_after(still, {}, scaler=scaler, monkeypatch=monkeypatch, spoil=1)
    assert scaler.get_scale() == 2.0**13
    one = weights_after(still, {}, scaler=None, monkeypatch=monkeypatch, steps=1)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
