"""Graphs give the gradients of plain passes, added up or not; a graph that runs on the host stands for CUDA's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcse.models import graphs
from mcse.models.graphs import Graphs


class _Pass:
    def __init__(self, replay: Callable[[], None]) -> None:
        self.replay = replay


class OnTheHost:
    """Keeps to what a captured graph does: every replay reads and writes the same memory."""

    def __init__(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: list[nn.Parameter], **_: Any
    ) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        self.function, self.parameters = function, parameters
        self.rows = function(*self.inputs).detach()
        self.row_gradient = torch.zeros_like(self.rows)
        self.gradients = [torch.zeros_like(parameter) for parameter in parameters]
        self.forward, self.backward = _Pass(self._forward), _Pass(self._backward)

    def _forward(self) -> None:
        with torch.enable_grad():
            self.pending = self.function(*self.inputs)
        self.rows.copy_(self.pending.detach())

    def _backward(self) -> None:
        found = torch.autograd.grad(self.pending, self.parameters, self.row_gradient)
        for held, gradient in zip(self.gradients, found, strict=True):
            held.copy_(gradient)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> nn.Linear:
    monkeypatch.setattr(graphs, "_Captured", OnTheHost)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(9, (size, 4), generator=generator) for size in (5, 5, 7, 5)]


def gradients_of(layer: nn.Linear, function: Callable[[Tensor], Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    layer.zero_grad()
    for batch in given:
        function(batch).square().sum().backward()
    return [parameter.grad.clone() for parameter in layer.parameters()]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_gradients_add_up_as_those_of_plain_passes(number: int, layer: nn.Linear) -> None:
    def plain(batch: Tensor) -> Tensor:
        return layer(batch.double()).tanh()

    captured = Graphs(list(layer.parameters()))

    def by_graph(batch: Tensor) -> Tensor:
        return captured.run(plain, [batch], key="layer")

    for given in (batches()[:number], batches()[-number:]):
        expected = gradients_of(layer, plain, given)
        torch.testing.assert_close(gradients_of(layer, by_graph, given), expected)
    assert len(captured) == min(2, number), "one graph a shape"
    assert torch.equal(by_graph(batches()[0]), plain(batches()[0])), "the rows themselves"


def test_rows_are_the_callers_own(layer: nn.Linear) -> None:
    captured = Graphs(list(layer.parameters()))
    with torch.no_grad():
        first, second = (captured.run(lambda x: layer(x.double()), [batch], key=0) for batch in batches()[:2])
    assert torch.equal(first, layer(batches()[0].double()))
    assert not torch.equal(first, second)


def test_two_forward_passes_at_once_are_refused(layer: nn.Linear) -> None:
    captured = Graphs(list(layer.parameters()))
    captured.run(lambda x: layer(x.double()), [batches()[0]], key=0)
    with pytest.raises(RuntimeError, match="before the backward pass of the first"):
        captured.run(lambda x: layer(x.double()), [batches()[2]], key=0)
