"""Weights cut over two processes (FSDP2): the run of DDP, its files and its resuming.

Accelerate takes its FSDP settings only where processes have accelerators of their own. The tests say so to it in the
place of the GPUs that are not there, with the settings of ``configs/accelerate/fsdp.yaml``; what then cuts, gathers and
reduces is PyTorch's own FSDP2, over gloo.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModel

from mcse import SentenceEncoder, distributed
from mcse.recipes import method
from mcse.recipes.launch import load_config, train
from mcse.training import runtime as runtime_module
from mcse.training.journal import Journal
from mcse.training.loop import Loop
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import (
    arguments_of,
    assert_same_run,
    differing,
    entries,
    forget_accelerate,
    losses,
    one_thread,
    own_cache,
    run,
    tensors,
)
from tests.fixtures.processes import REPOSITORY, run_processes
from tests.fixtures.tiny_run import allowing_equal_views, build_tiny_run

KEYS = {
    "train.batch_size": 4,
    "train.max_steps": 5,
    "train.eval_steps": 2,
    "train.log_steps": 1,
    "train.resume": "auto",
    "optim.epsilon": 1e-4,  # Adam divides a vanishing gradient by itself; rounding must not grow into a step
}
ADAPTERS = {"encoder.lora": {"rank": 2}}
NAMES = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}


def settings():
    """What ``accelerate launch`` puts into the environment from the file."""
    given = yaml.safe_load((REPOSITORY / "configs" / "accelerate" / "fsdp.yaml").read_text())["fsdp_config"]
    return {"ACCELERATE_USE_FSDP": "true"} | {NAMES.get(key, key.upper()): str(value) for key, value in given.items()}


class Cutting(Accelerator):
    """As on GPUs, where Accelerate would set these two itself."""

    def __init__(self, *arguments, **keys):
        super().__init__(*arguments, **keys)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()


def fit(tiny, recipe, output, keys):
    return train(
        load_config(None, arguments_of(tiny, recipe, output, KEYS | keys)), overwrite=False, show_progress=False
    )


def watched(tiny, recipe, output, keys, seen):
    """``fit``, noting how the model is held in training."""
    plain = Loop._step

    def noting(self, *rest):
        held = dict(self.run.model.named_parameters())
        seen["cut"] = sum(isinstance(parameter, DTensor) for parameter in held.values()), len(held)
        seen["parts"] = sum(isinstance(module, FSDPModule) for module in self.run.model.modules())
        seen["numbers"] = [sum(p.to_local().numel() for p in held.values()), sum(p.numel() for p in held.values())]
        plain(self, *rest)

    Loop._step = noting
    try:
        return fit(tiny, recipe, output, keys)
    finally:
        Loop._step = plain


def stopped(tiny, recipe, output, keys):
    plain = Loop._step

    def signalled(self, *rest):
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)
        plain(self, *rest)

    Loop._step = signalled
    try:
        return fit(tiny, recipe, output, keys)
    finally:
        Loop._step = plain


def everything(tiny, noisy, output):
    Journal.close = lambda self: None  # it would end the process group, and the next part needs it
    seen = {}
    cached = {"train.cached_chunk_size": 3}
    with own_cache(tiny), allowing_equal_views():
        for recipe in ("mlm", "simcse", "mcse"):
            assert fit(tiny, recipe, output / f"{recipe} whole", {}) == 0
            forget_accelerate()
        for name, keys in (("cached", cached), ("adapters", ADAPTERS)):
            assert fit(tiny, "simcse", output / f"{name} whole", keys) == 0
            forget_accelerate()
        os.environ |= settings()
        try:
            start_runtime(precision="fp32", seed=0)
        except ValueError as error:
            seen["refused"] = str(error)
        forget_accelerate()
        runtime_module.Accelerator = Cutting
        for recipe in ("mlm", "simcse", "mcse"):
            assert watched(tiny, recipe, output / f"{recipe} cut", {}, seen) == 0
            forget_accelerate()
        for name, keys in (("cached", cached), ("adapters", ADAPTERS)):
            assert fit(tiny, "simcse", output / f"{name} cut", keys) == 0
            forget_accelerate()
    with own_cache(noisy):
        assert fit(noisy, "mcse", output / "straight", {"train.accumulation_steps": 2}) == 0
        forget_accelerate()
        assert stopped(noisy, "mcse", output / "stopped", {"train.accumulation_steps": 2}) == 143
        forget_accelerate()
        assert fit(noisy, "mcse", output / "stopped", {"train.accumulation_steps": 2}) == 0
    return seen


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"), dropout=0.0)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    noisy = build_tiny_run(tmp_path_factory.mktemp("noisy"))
    output = tmp_path_factory.mktemp("runs")
    return output, run_processes(everything, 2, tiny, noisy, output)


def test_each_process_holds_a_part_of_every_weight(runs):
    for seen in runs[1]:
        cut, of = seen["cut"]
        assert cut == of > 30
        assert seen["parts"] == 3, "the model and its two layers"
    held, whole = zip(*(seen["numbers"] for seen in runs[1]), strict=True)
    assert sum(held) == whole[0] == whole[1]
    assert max(held) < 0.6 * whole[0]


@pytest.mark.parametrize("recipe", ["mlm", "simcse", "mcse", "cached", "adapters"])
def test_losses_scores_and_files_are_those_of_whole_weights(recipe, runs, tiny):
    cut, whole = (runs[0] / f"{recipe} {kind}" for kind in ("cut", "whole"))
    ours, theirs = entries(cut), entries(whole)
    assert [set(line) for line in ours] == [set(line) for line in theirs]
    assert any("dev.spearman" in line for line in ours)
    for left, right in zip(ours, theirs, strict=True):
        assert left.pop("higher_is_better", None) == right.pop("higher_is_better", None)
        assert left == pytest.approx(right, rel=1e-4, abs=1e-5)
    assert len(set(losses(cut))) == 5
    for part in ("best", "last", "state"):
        left, right = tensors(cut / part), tensors(whole / part)
        assert left.keys() == right.keys()
        for name, value in right.items():
            torch.testing.assert_close(left[name], value, rtol=1e-4, atol=1e-5, msg=f"{part} {name}")


def test_the_checkpoint_is_one_that_people_load(runs, tiny):
    folder = runs[0] / "mcse cut" / "best"
    rows = SentenceEncoder.from_pretrained(str(folder)).encode(["the dog runs in the park", "a cat"])
    whole = SentenceEncoder.from_pretrained(str(runs[0] / "mcse whole" / "best")).encode(
        ["the dog runs in the park", "a cat"]
    )
    assert abs(rows - whole).max() < 1e-4
    assert AutoModel.from_pretrained(folder).config.hidden_size == rows.shape[1]


def test_a_state_of_cut_weights_is_that_of_whole_ones(runs, tiny, tmp_path):
    """It is resumed by the same number of processes, cut or not; here one process looks at it."""
    state = tensors(max((runs[0] / "simcse cut" / "state").iterdir()))
    model = {name for name in state if name.startswith("model.safetensors")}
    with one_thread(), own_cache(tiny), allowing_equal_views():
        config = load_config(None, arguments_of(tiny, "simcse", tmp_path / "unused", KEYS))
        built = method("simcse").build(config, start_runtime(precision="fp32", seed=0))
    shapes = {name: tuple(value.shape) for name, value in built.model.state_dict().items()}
    assert {name.split(":")[1]: tuple(state[name].shape) for name in model} == shapes
    assert sum(name.startswith("optimizer.safetensors") and name.endswith("exp_avg") for name in state) == len(
        list(built.model.parameters())
    )


def test_stopped_and_resumed_is_bit_for_bit(runs):
    """With dropout, accumulation and both kinds of batches."""
    assert_same_run(runs[0] / "straight", runs[0] / "stopped")
    assert not differing(runs[0] / "straight" / "last", runs[0] / "stopped" / "last")


def test_accelerates_silence_on_cpus_is_refused(runs):
    for seen in runs[1]:
        assert "FSDP: Accelerate leaves it out here (MULTI_CPU on cpu" in seen["refused"]


def test_one_process_is_refused_too(tiny, tmp_path, capsys, monkeypatch):
    for name, value in settings().items():
        monkeypatch.setenv(name, value)
    assert run(tiny, "simcse", tmp_path / "run") == 2
    assert "FSDP: Accelerate leaves it out here" in capsys.readouterr().err
    assert distributed.world_size() == 1
