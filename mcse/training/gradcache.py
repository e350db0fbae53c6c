"""Contrastive batches far beyond memory: rows chunk by chunk without a graph, then each chunk again with one.

The loss needs every row, but only rows; so the first pass keeps rows alone, the loss gives each row its gradient, and
the second pass carries it on to the weights, a chunk at a time. Random states are put back before each chunk's second
pass: under other dropout masks the rows, and so the gradient, would be those of another batch.

Source: Gao, Zhang, Han and Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from mcse.types import to_device
from mcse.types.batches import pin, split_batch


class CachedForward:
    """Stands in for the model inside one step, and afterwards carries the rows' gradients on to its weights.

    Args:
        model: As the loop calls it, wrapped for several processes or not.
        batch: The whole batch, on the host.
        chunk_size: Examples that pass through the model at a time.
        device: Where the model is.
        autocast: Opens the precision that the model runs in.
        no_sync: Keeps a backward pass from talking to other processes.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        *,
        chunk_size: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        no_sync: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model, self._device, self._autocast, self._no_sync = model, device, autocast, no_sync
        chunks = split_batch(batch, chunk_size)
        # Parts of a pinned batch are copies in plain memory, from which a GPU would make the host wait.
        self._chunks = [pin(chunk) for chunk in chunks] if device.type == "cuda" else chunks
        self._states: list[_RandomState] = []
        self._sizes: list[list[int]] = []
        self._leaves: list[Tensor] = []

    def __call__(self, _: Any) -> Any:
        """The rows of the whole batch, cut off from the model: their gradients stay with them.

        Raises:
            RuntimeError: The step calls its model twice.
        """
        if self._states:
            raise RuntimeError("train.cached_chunk_size: this recipe calls its model more than once a step")
        parts = []
        with torch.no_grad():
            for chunk in self._chunks:
                self._states.append(_RandomState(self._device))
                parts.append(self._forward(chunk))
        self._sizes = [[len(tensor) for tensor in _tensors(part)] for part in parts]
        return _join(parts, self._leaf)

    def backward(self, *, syncs: bool) -> None:
        """Adds the gradient of the whole batch to the model's; with ``syncs`` processes average it at the last chunk.

        To be called when the loss has been differentiated with respect to the rows.
        """
        after = _RandomState(self._device)
        gradients = [
            [None] * len(self._chunks)
            if leaf.grad is None
            else torch.split(leaf.grad, [sizes[i] for sizes in self._sizes])
            for i, leaf in enumerate(self._leaves)
        ]
        for number, (chunk, state) in enumerate(zip(self._chunks, self._states, strict=True)):
            state.restore()
            is_last = number == len(self._chunks) - 1
            with contextlib.nullcontext() if syncs and is_last else self._no_sync():
                rows = _tensors(self._forward(chunk))
                # Labels and rows that no loss term reads have no gradient.
                told = [
                    (row, by_chunk[number])
                    for row, by_chunk in zip(rows, gradients, strict=True)
                    if by_chunk[number] is not None
                ]
                torch.autograd.backward([row for row, _ in told], [gradient for _, gradient in told])
        after.restore()

    def _forward(self, chunk: Any) -> Any:
        with self._autocast():
            return self._model(to_device(chunk, self._device))

    def _leaf(self, tensors: Sequence[Tensor]) -> Tensor:
        leaf = torch.cat(list(tensors))
        self._leaves.append(leaf.requires_grad_() if leaf.is_floating_point() else leaf)
        return leaf


class _RandomState:
    """Where dropout's generators stood."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._host_state = torch.get_rng_state()
        self._cuda_state = torch.cuda.get_rng_state(self._cuda) if self._cuda is not None else None

    def restore(self) -> None:
        torch.set_rng_state(self._host_state)
        if self._cuda is not None and self._cuda_state is not None:
            torch.cuda.set_rng_state(self._cuda_state, self._cuda)


def _tensors(rows: Any) -> list[Tensor]:
    """The tensors of nested dataclasses, in the order of their fields."""
    return list(_walk(rows))


def _walk(rows: Any) -> Iterator[Tensor]:
    if isinstance(rows, Tensor):
        yield rows
    elif dataclasses.is_dataclass(rows):
        for field in dataclasses.fields(rows):
            yield from _walk(getattr(rows, field.name))


def _join(parts: Sequence[Any], join: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """Parts of equal structure as one, their tensors joined in the order of ``_tensors``."""
    first = parts[0]
    if isinstance(first, Tensor):
        return join(parts)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return dataclasses.replace(first, **{name: _join([getattr(p, name) for p in parts], join) for name in names})
    return first
