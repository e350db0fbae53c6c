"""Dropout whose masks are cheap to draw on a CPU, where PyTorch's own are a fifth of a training step; and its rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16
_CPU = torch.device("cpu")


class Dropout(nn.Dropout):
    """``nn.Dropout``; on a CPU each element is kept by 16 random bits, so that the rate is p to 1 part in 65,536.

    Every mask is drawn from one number of PyTorch's own generator. Seeds, saved random states and replayed passes mean
    what they always do.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Elements are zeroed with probability p and the others divided by the share that is kept."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Tensor, p: float) -> Tensor:
    """``x`` of any shape after dropout at rate ``p``, in [0, 1]."""
    if p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return x * kept(x.shape, p).to(x.dtype)


def kept(shape: Sequence[int], p: float, *, device: torch.device = _CPU) -> Tensor:
    """A float32 mask on ``device``, of mean 1: 0 with probability ``p``, else 1 over the share that is kept."""
    if device.type != "cpu":
        return F.dropout(torch.ones(tuple(shape), device=device), p)
    threshold = round(p * _LEVELS)
    if threshold == _LEVELS:
        return torch.zeros(tuple(shape))
    # One draw names a generator of its own: four masks' worth of bits a number, ten times the speed of bernoulli_.
    bits = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
    size = int(np.prod(shape))
    level = bits.integers(0, 2**64, size=-(-size // 4), dtype=np.uint64).view(np.uint16)[:size]
    scale = np.float32(_LEVELS / (_LEVELS - threshold))
    return torch.from_numpy(np.multiply(level >= threshold, scale, dtype=np.float32)).view(tuple(shape))


@contextmanager
def drawn_by(seed: int, device: torch.device) -> Iterator[None]:
    """Within it dropout on ``device`` is drawn by ``seed``; afterwards its generators stand where they stood."""
    on_cuda = device.type == "cuda"
    host_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state(device) if on_cuda else None
    try:
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(host_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, device)


def use_cheap_dropout(model: nn.Module) -> None:
    """Puts ``Dropout`` in the place of every plain ``nn.Dropout`` of ``model``."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))


def set_rates(holder: object, rate: float) -> None:
    """Gives every dropout of a module, or of a model's configuration, one rate; layers and paths are still dropped."""
    for name in _rates(holder):
        if not any(other in name.lower() for other in _NO_DROPOUT):
            setattr(holder, name, rate)


@contextmanager
def rates_changed(model: nn.Module, change: Callable[[float], float]) -> Iterator[None]:
    """Within it, every rate at which a model drops anything is ``change`` of what it is."""
    holders: list[object] = [*model.modules()]
    holders += {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values()
    found = [(holder, name, value) for holder in holders for name, value in _rates(holder).items()]
    try:
        for holder, name, value in found:
            setattr(holder, name, change(value))
        yield
    finally:
        for holder, name, value in found:
            setattr(holder, name, value)


_NO_DROPOUT = ("layerdrop", "layer_drop", "path")


def _rates(holder: object) -> dict[str, float]:
    """Numbers of which the name says that something is dropped; models do not only keep them in ``nn.Dropout``."""
    found = {"p": holder.p} if isinstance(holder, nn.modules.dropout._DropoutNd) else {}
    for name, value in getattr(holder, "__dict__", {}).items():
        if "drop" in name.lower() and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found
