"""What a run will need, before anything starts: parameters, states, activations, negatives, steps.

Activations are counted, not guessed: a few examples of the first batch pass through the model, on the host, twice as
many as before the second time, and what the backward pass would want is added up. The difference grows with the number
of examples; the rest, such as weights in half precision, does not. A GPU's kernels keep less of attention and of masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcse.training.config import OptimConfig, TrainConfig, count_steps
from mcse.training.run import Run
from mcse.training.runtime import Runtime
from mcse.types.batches import split_batch

_SAMPLE = 8
"""Examples that are passed through the model."""

_STATES = {"adamw": 2, "adamw_hf": 2, "adagrad": 1, "sgd": 0}
"""Numbers that an optimizer keeps for each parameter."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device while it takes a step."""

    parameters: int
    gradients: int
    optimizer_states: int
    activations: int

    @property
    def total(self) -> int:
        """All of them; what kernels need for a moment is not in it."""
        return self.parameters + self.gradients + self.optimizer_states + self.activations


def forecast(run: Run, train: TrainConfig, optim: OptimConfig, runtime: Runtime) -> Mapping[str, str]:
    """What a run will need, by name, as it is shown."""
    memory = predict_memory(run, train, optim, precision=runtime.precision)
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    free = free_memory(runtime.device)
    at_a_time = train.cached_chunk_size or train.batch_size
    on_gpu = runtime.device.type == "cuda"
    # Frozen weights are not saved; gradients are as large as the others.
    state = memory.gradients + memory.optimizer_states
    shown = {
        "device": str(runtime.device),
        "parameters": f"{sum(p.numel() for p in run.model.parameters()):,}, of which {trained:,} train",
        "memory of parameters": _gib(memory.parameters),
        "memory of gradients": _gib(memory.gradients),
        "memory of optimizer states": _gib(memory.optimizer_states),
        "memory of activations": f"{_gib(memory.activations)} ({at_a_time} examples as wide as the first batch's)",
        "memory of a step": _gib(memory.total),
        "free on the device": "unknown" if free is None else _gib(free),
        "memory of a saved state": f"{_gib(state)} on the host, until it is written",
        "should fit": _fits(memory.total + (0 if on_gpu else state), free, on_gpu=on_gpu),
        "steps": f"{count_steps(train, steps_per_epoch=run.stream.steps_per_epoch):,}",
        "global batch": str(train.batch_size * runtime.world_size),
    }
    return shown | {name: str(value) for name, value in run.facts.items()}


def predict_memory(run: Run, train: TrainConfig, optim: OptimConfig, *, precision: str) -> Memory:
    """Of one process without FSDP; draws nothing from the run's generators and leaves its model as it was."""
    parameters = list({id(p): p for p in run.model.parameters()}.values())
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    return Memory(
        parameters=sum(p.numel() * p.element_size() for p in parameters),
        gradients=trained,
        optimizer_states=_STATES[optim.optimizer] * trained,
        activations=_activations(run, train, precision=precision),
    )


def _activations(run: Run, train: TrainConfig, *, precision: str) -> int:
    batch = run.stream.batch(0)
    at_a_time = train.cached_chunk_size or train.batch_size
    most = min(_SAMPLE, train.batch_size)
    fewer = max(1, most // 2)
    try:
        large, small = (_count(run, split_batch(batch, size, narrows=False)[0], precision) for size in (most, fewer))
    except (RuntimeError, ValueError):
        # Lanes and stored layers are not cut by examples.
        return _count(run, batch, precision)
    # What does not grow with the examples, such as weights in half precision, is there once.
    each = (large - small) / (most - fewer) if most > fewer else 0
    return int(large + each * (at_a_time - most))


def _count(run: Run, sample: Any, precision: str) -> int:
    was_training = run.model.training
    with torch.random.fork_rng(devices=[]), _counting(run.model) as count:
        run.model.train()
        # Half precision of either kind has equally many bytes, and the host has bf16 alone.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "fp32"):
            run.step(run.model, sample)
        run.model.train(was_training)
    return sum(count.values())


@contextmanager
def _counting(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes that backward passes inside would want, by where they lie; the model's own weights are not among them."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    count: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in count:
            count[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # or its place might be given away, and be counted once for two
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or in main memory where the system says it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _fits(needed: int, free: int | None, *, on_gpu: bool) -> str:
    if free is None:
        return "unknown"
    if needed < free:
        return "yes"
    return "perhaps: a GPU's kernels keep less than is counted here" if on_gpu and needed < 1.25 * free else "no"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
