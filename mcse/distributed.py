"""Facts about the processes, collectives, and weights cut over processes: the only user of ``torch.distributed``.

B rows of this process, N rows of all processes, D width.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.optim import Optimizer

from mcse.errors import said

Value = TypeVar("Value")

_GONE = ("connection closed", "connection reset", "connection refused", "broken pipe", "remote process exited")
_LATE = ("timed out", "timeout")
"""Words in which the libraries below say that another process is gone, or does not answer."""

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_TRAINED = replace(_WHOLE, ignore_frozen_params=True, strict=False)


class LostProcessError(RuntimeError):
    """Another process of this run ended, or did not answer in time."""


@contextlib.contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turns the libraries' many errors about a process that is gone into one that says so.

    Raises:
        LostProcessError: An exchange with another process failed inside.
    """
    try:
        yield
    except RuntimeError as error:
        # The process group may be gone by now; what the launcher said is not.
        rank, size = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
        if isinstance(error, LostProcessError) or size == 1 or not _is_about_processes(error):
            raise
        if _says(error, _GONE):
            what = "another one has ended, and its own last lines may say why"
        elif _says(error, _LATE):
            what = "another one did not answer in time"
        else:
            what = "an exchange with the others failed"
        raise LostProcessError(f"process {rank} of {size} stops, since {what}: {said(error)}") from None


def _is_about_processes(error: RuntimeError) -> bool:
    """Gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or _says(error, (*_GONE, "timed out waiting", "application timeout"))


def _says(error: RuntimeError, words: tuple[str, ...]) -> bool:
    return any(word in str(error).lower() for word in words)


def join_world() -> None:
    """Joins the processes that a launcher started beside this one, for programs that no Accelerator starts.

    Raises:
        ValueError: The launcher started more processes than found each other.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and "RANK" in os.environ and not _is_running():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    check_world()


def check_world() -> None:
    """Refuses processes that do not know each other: each would do the whole work and write into the same folder.

    Raises:
        ValueError: ``WORLD_SIZE`` in the environment is not the size of the world that this process is in.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size() != started:
        raise ValueError(
            f"the launcher started {started} processes, but this one is in a world of {world_size()}; "
            "see configs/accelerate for launch commands that work"
        )


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if _is_running() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _is_running() else 0


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if _is_running():
        dist.barrier()


def gather_rows(x_BD: Tensor) -> tuple[Tensor, int]:
    """Concatenate ``x_BD`` over processes in rank order, keeping the graph.

    Contract: if every process differentiates a sum over its *own* B rows, divided by the number of rows of all
    processes and multiplied by the number of processes (the loop's work), the average of the parameter gradients over
    processes, which is what DDP computes, equals the gradient of the mean over all N rows in one process. Callers must
    not multiply the loss by the number of processes.

    Returns:
        The (N, D) matrix, and the row at which this process's B rows start. One process: ``(x_BD, 0)``.

    Raises:
        ValueError: The processes hold different numbers of rows (training streams drop the last partial batch).

    Source: SimCSE, GradCache and open_clip's default leave this gradient too small by the number of processes; here the
    backward pass adds up what every process's loss says about these rows.
    """
    if world_size() == 1:
        return x_BD, 0
    sizes = all_gather_object(tuple(x_BD.shape)) if _checks_shapes(x_BD) else None
    if sizes is not None and len(set(sizes)) > 1:
        raise ValueError(f"processes hold rows of different shapes, {sizes}: every process needs the same batch size")
    return _GatherRows.apply(x_BD), rank() * len(x_BD)


def gather_ids(id_B: Tensor) -> Tensor:
    """Concatenate integer ids over processes, in the row order of ``gather_rows``."""
    if world_size() == 1:
        return id_B
    parts = [torch.empty_like(id_B) for _ in range(world_size())]
    dist.all_gather(parts, id_B.contiguous())
    return torch.cat(parts)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of ``value`` over processes, without gradient."""
    value = value.detach().clone()
    if _is_running():
        dist.all_reduce(value)
    return value


def gather_arrays(array: NDArray[Any]) -> NDArray[Any]:
    """Concatenate arrays over processes in rank order; row counts may differ."""
    if world_size() == 1:
        return array
    return np.concatenate(all_gather_object(array))


def all_gather_object(value: Value) -> list[Value]:
    """Every process's ``value``, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Value) -> Value:
    """The main process's ``value``, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def fail_together(attempt: Callable[[], Value]) -> Value:
    """What ``attempt`` gives. Where it fails on one process it fails on all, so that none waits for another.

    Raises:
        ValueError: ``attempt`` raised it, or an ``OSError``, on some process.
    """
    failure: str | None = None
    value: Value | None = None
    try:
        value = attempt()
    except (ValueError, OSError) as error:
        if world_size() == 1:
            raise
        failure = str(error)
    if failures := [text for text in all_gather_object(failure) if text is not None]:
        raise ValueError(failures[0])
    return cast(Value, value)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process holds a part (under FSDP); another tensor itself. All must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_states(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of model and optimizer by the parameters' names: whole tensors on the CPU of the main process.

    All processes must ask, and the others get nothing. Training does not change what they get. Tied weights stand under
    the first of their names alone. Frozen weights are left out: whoever builds the model again has them.
    """
    weights = get_model_state_dict(model, options=_TRAINED)
    state = cast(dict[str, Any], get_optimizer_state_dict(model, optimizer, options=_WHOLE))
    if not is_main():
        return {}, {}
    tied, lent = _tied(model), _host_memory(model, optimizer)

    def own(tensor: Any) -> Tensor:
        whole: Tensor = tensor.clone() if tensor.untyped_storage().data_ptr() in lent else tensor
        return whole

    state["state"] = {name: {key: own(t) for key, t in entry.items()} for name, entry in state["state"].items()}
    return {name: own(t) for name, t in weights.items() if name not in tied}, state


def _host_memory(model: nn.Module, optimizer: Optimizer) -> set[int]:
    """Where on the host training writes to. What lies on a GPU is copied from there in any case."""
    moments = (value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor))
    trained = itertools.chain(model.parameters(), model.buffers(), moments)
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in trained)
    return {tensor.untyped_storage().data_ptr() for tensor in local if tensor.device.type == "cpu"}


def put_back_states(model: nn.Module, optimizer: Optimizer, *, weights: dict[str, Any], state: dict[str, Any]) -> None:
    """Puts back what ``whole_states`` gave, on every process the part that it holds; all must bring all of it.

    Raises:
        ValueError: The weights are of another model.
    """
    tied = _tied(model)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    known = model.state_dict().keys() - tied.keys()
    # PyTorch itself passes over what lacks.
    if wrong := sorted((known - frozen - weights.keys()) | (weights.keys() - known)):
        raise ValueError(f"train.resume: the saved weights are of another model, which differs in {wrong[0]}")
    also = {name: weights[first] for name, first in tied.items() if first in weights}
    set_model_state_dict(model, weights | also, options=_TRAINED)
    if state["state"]:  # plain SGD keeps nothing
        set_optimizer_state_dict(model, optimizer, state, options=replace(_WHOLE, strict=False))
    for name, parameter in model.named_parameters():
        # PyTorch gives every parameter a state; one that had no gradient so far must begin with its first.
        if name not in state["state"]:
            optimizer.state.pop(parameter, None)


def _tied(model: nn.Module) -> dict[str, str]:
    """Names of weights that are another one, with that one's first name."""
    first: dict[Tensor, str] = {}
    names = {name: first.setdefault(tensor, name) for name, tensor in model.state_dict(keep_vars=True).items()}
    return {name: known for name, known in names.items() if name != known}


@contextlib.contextmanager
def whole_for_forward(model: nn.Module, *, cuts_again: bool) -> Iterator[None]:
    """Inside, each process holds all weights of a model cut by FSDP, and runs parts of it without waiting for others.

    Args:
        model: The whole model, after a training step; one that is not cut is left alone.
        cuts_again: Whether a layer's weights are cut again after each forward pass in training.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # The root's weights are wanted again at once, when the backward pass begins.
            part.set_reshard_after_forward(cuts_again and part is not model, recurse=False)


def on_main_with_whole_weights(model: nn.Module, act: Callable[[], None]) -> None:
    """Calls ``act`` on the main process while a model cut by FSDP has whole weights there, on the CPU.

    All processes must call this. ``act`` may read weights; it must not run the model.
    """
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        if is_main():
            act()
        return
    whole = cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))
    if is_main():
        tied = _tied(model)  # they are lent under the first of their names alone
        lent = {f"model.{name}": tensor for name, tensor in whole.items() if name not in tied}
        functional_call(_Acting(model, act), lent, ())


class _Acting(nn.Module):
    """A module whose forward pass is any act, so that PyTorch lends its model other weights for the time of it."""

    def __init__(self, model: nn.Module, act: Callable[[], None]) -> None:
        super().__init__()
        self.model, self._act = model, act

    def forward(self) -> None:
        self._act()


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()


_checked_shapes: set[tuple[int, ...]] = set()


def _checks_shapes(x_BD: Tensor) -> bool:
    """Whether this shape is new here.

    Comparing shapes costs a round trip, so each shape is compared once. A process that meets a new shape while another
    does not would wait for it; the collectives' own time-out ends that.
    """
    shape = tuple(x_BD.shape)
    if shape in _checked_shapes:
        return False
    _checked_shapes.add(shape)
    return True


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward pass sums every process's gradient of this process's rows."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(x_BD) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x_BD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> Tensor:
        return _own_part_of_sum(grad_ND.contiguous())


def _own_part_of_sum(grad_ND: Tensor) -> Tensor:
    """This process's rows of the sum over processes."""
    size = len(grad_ND) // dist.get_world_size()
    if _scatters(grad_ND):
        part_BD = torch.empty_like(grad_ND[:size])
        dist.reduce_scatter_tensor(part_BD, grad_ND)
        return part_BD
    dist.all_reduce(grad_ND)
    return grad_ND[dist.get_rank() * size :][:size]


def _scatters(tensor: Tensor) -> bool:
    """Whether processes are sent their own part of a sum alone, which is half the bytes: NCCL does that."""
    return tensor.is_cuda
