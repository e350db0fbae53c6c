"""fp16's gradient scaler, on the host: gradients are clipped as they are, not as they were scaled."""

from __future__ import annotations

import contextlib

import pytest
import torch

from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import Loop
from mcse.training.meter import NotFiniteError
from mcse.training.runtime import start_runtime
from tests.cuda.fake import Unwritten
from tests.fixtures.launch import arguments_of, one_thread, own_cache
from tests.fixtures.tiny_run import build_tiny_run

# A limit that every gradient is above, and far below what it is times the scale.
KEYS = {"optim.max_grad_norm": 0.05, "optim.epsilon": 1e-4, "optim.schedule": "constant"}


@pytest.fixture(scope="module")
def still(tmp_path_factory, equal_views):
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


@contextlib.contextmanager
def loop_of(still, keys, *, scaler, monkeypatch):
    """A loop on the host that steps as under ``scaler``."""
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
            yield loop


@contextlib.contextmanager
def spoilt(loop):
    """Gradients are infinite."""
    handle = next(loop.run.model.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    yield
    handle.remove()


def weights_after(still, keys, *, scaler, monkeypatch, spoil=None, steps=2):
    with loop_of(still, keys, scaler=scaler, monkeypatch=monkeypatch) as loop:
        for step in range(steps):
            with spoilt(loop) if step == spoil else contextlib.nullcontext():
                loop._step()
        return {name: tensor.clone() for name, tensor in loop.run.model.state_dict().items()}


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


@pytest.mark.parametrize(("total", "ends_at"), [(200, 50), (12, 12)], ids=["long", "short"])
def test_a_run_that_only_skips_ends_with_an_error(still, monkeypatch, total, ends_at):
    """Bug: without a single update it went on to its end, and said nothing."""
    keys = {"train.max_steps": total, "train.log_steps": 4, "train.eval_steps": 1000}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with loop_of(still, keys, scaler=scaler, monkeypatch=monkeypatch) as loop, spoilt(loop):
        before = {name: tensor.clone() for name, tensor in loop.run.model.state_dict().items()}
        message = "the gradients of [0-9]+ steps in a row up to step [0-9]+ were not finite.*bf16 or fp32"

        def four_steps():
            for _ in range(4):
                loop._step()
            loop._check_finite()
            loop.meter = loop._new_meter()

        for _ in range((ends_at - 1) // 4):
            four_steps()
        with pytest.raises(NotFiniteError, match=message):
            four_steps()
        assert all(torch.equal(before[name], tensor) for name, tensor in loop.run.model.state_dict().items())


def test_steps_skipped_now_and_then_end_no_run(still, monkeypatch):
    keys = {"train.max_steps": 200, "train.log_steps": 4}
    monkeypatch.setattr("mcse.training.loop.MOST_SKIPPED", 6)
    with loop_of(still, keys, scaler=torch.amp.GradScaler("cpu"), monkeypatch=monkeypatch) as loop:
        counts = []
        for step in range(24):
            with contextlib.nullcontext() if step % 6 == 5 else spoilt(loop):
                loop._step()
            if step % 4 == 3:
                loop._check_finite()
                loop.meter = loop._new_meter()
                counts.append(loop.skipped)
        assert counts == [4, 2, 0, 4, 2, 0]
