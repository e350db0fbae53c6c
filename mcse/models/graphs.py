"""CUDA graphs: a forward and a backward pass whose thousand kernels are launched by one call each.

Launching a BERT's kernels one by one takes the host longer than a GPU takes to run them on a small batch. A graph is
captured for each shape of the inputs, so that shapes must be few. Dropout draws anew at every replay, from where
PyTorch's generator stands; seeds, saved states and replayed passes mean what they always do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_WARM_UP = 3
"""Passes before a capture, in which libraries choose their kernels."""


class Graphs:
    """Runs a function by graphs, one for each shape, and captures them when a shape comes for the first time.

    Their memory is shared, so that a forward pass must be differentiated before the next one.

    Args:
        parameters: What a backward pass gives gradients to; the function's other inputs get none.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None
        self.awaits_backward = False

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, function: Callable[..., Tensor], inputs: Sequence[Tensor], *, key: Hashable) -> Tensor:
        """``function(*inputs)``.

        Args:
            function: Of the inputs' values and of the parameters alone.
            inputs: Integer tensors on a GPU.
            key: What else the captured kernels depend on.

        Raises:
            RuntimeError: A forward pass came before the backward pass of the one before.
        """
        if self.awaits_backward:
            raise RuntimeError("CUDA graphs: a second forward pass before the backward pass of the first one")
        shapes = (key, _precision(), *(tensor.shape for tensor in inputs))
        captured = self._captured.get(shapes)
        if captured is None:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            captured = self._captured[shapes] = _Captured(function, inputs, self.parameters, pool=self._pool)
        self.awaits_backward = torch.is_grad_enabled()
        rows: Tensor = _Replay.apply(self, captured, inputs, *self.parameters)
        return rows


class _Captured:
    """The two graphs of one shape, with the memory that they read and write."""

    def __init__(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: list[nn.Parameter], *, pool: Any
    ) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        # Passes of a capture are no steps: what they draw is drawn again.
        state = torch.cuda.get_rng_state()
        with torch.enable_grad(), _without_kept_casts():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    rows = function(*self.inputs)
                    self.row_gradient = torch.zeros_like(rows)
                    torch.autograd.grad(rows, parameters, self.row_gradient, allow_unused=True)
            torch.cuda.current_stream().wait_stream(stream)
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Other threads go on pinning batches meanwhile.
            settings = {"pool": pool, "stream": stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self.forward, **settings):
                rows = function(*self.inputs)
            with torch.cuda.graph(self.backward, **settings):
                found = torch.autograd.grad(rows, parameters, self.row_gradient, allow_unused=True)
        self.rows = rows.detach()
        self.gradients: list[Tensor | None] = list(found)
        torch.cuda.set_rng_state(state)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: Graphs, captured: _Captured, inputs: Sequence[Tensor], *_: nn.Parameter) -> Tensor:
        for held, given in zip(captured.inputs, inputs, strict=True):
            held.copy_(given)
        captured.forward.replay()
        ctx.graphs, ctx.captured = graphs, captured
        return captured.rows.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graphs, captured = ctx.graphs, ctx.captured
        _leave_graphs_memory(graphs.parameters)
        captured.row_gradient.copy_(gradients[0])
        captured.backward.replay()
        graphs.awaits_backward = False
        # Fresh names of the same memory, which autograd takes over without a copy.
        return (None, None, None, *(None if g is None else g.detach() for g in captured.gradients))


def _leave_graphs_memory(parameters: list[nn.Parameter]) -> None:
    """Copies gradients of earlier backward passes that are to be added to: PyTorch keeps the very tensors it is given.

    In most steps there are none.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    if held:
        for parameter, copy in zip(
            held, torch._foreach_mul([p.grad for p in held if p.grad is not None], 1.0), strict=True
        ):
            parameter.grad = copy


@contextlib.contextmanager
def _without_kept_casts() -> Iterator[None]:
    """Autocast as it is, but for casts of weights that it keeps: a graph must cast the weights as they are then."""
    dtype = torch.get_autocast_dtype("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False):
        yield


def _precision() -> torch.dtype | None:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
