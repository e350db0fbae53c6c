"""A real training step on fake CUDA tensors, and a record of what it would make a GPU do.

PyTorch's fake tensors have a device, a dtype and a shape, but no values: an operation between two devices fails as it
does on a GPU, and whatever needs a value (``.item()``, a boolean mask, a copy from memory that is not page-locked)
would make the host wait for the GPU. ``run_steps`` runs forward pass, loss, clipping and optimizer of a recipe's own
step; the backward pass is left out, since autograd asks for a real device, and gradients are zeros instead.
"""

from __future__ import annotations

import collections
import contextlib
import re
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from mcse.training.loop import Loop
from mcse.training.runtime import Runtime

ROOT = str(Path(__file__).resolve().parents[2] / "mcse")
CUDA = torch.device("cuda")
_ASSIGNS = re.compile(r"\]\s*=(?!=)")
_ELSEWHERE = re.compile(r"/tests/cuda/fake\.py$|/site-packages/torch/|/site/torch/")
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass
class Seen:
    """What steps did.

    Attributes:
        waits: Where the host would wait for the GPU, and why; by step.
        dropouts: Rates at which something was dropped out on the GPU, by kind of operation.
        dtypes: Of matrix products.
        kernels: Attention kernels, with the dtype of their queries.
        terms: Names of the loss terms.
        copies: Tensors that came on a stream of their own.
    """

    waits: collections.Counter[str] = field(default_factory=collections.Counter)
    dropouts: list[tuple[str, float]] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)
    kernels: set[tuple[str, torch.dtype]] = field(default_factory=set)
    terms: set[str] = field(default_factory=set)
    copies: int = 0


class Stream:
    """In the place of a CUDA stream: which tensors were made on it, and which of them others may read."""

    def __init__(self, *_: Any) -> None:
        self.made: list[Tensor] = []
        self.known: list[Tensor] = []

    def record_event(self) -> list[Tensor]:
        return list(self.made)

    def wait_event(self, event: list[Tensor]) -> None:
        self.known += event


class Streams:
    """The stream of the steps, and which one is current."""

    def __init__(self) -> None:
        self.main = self.current = Stream()
        self.others: list[Stream] = []
        self.recorded: list[Tensor] = []

    def new(self, *_: Any) -> Stream:
        self.others.append(Stream())
        return self.others[-1]

    @contextlib.contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def made(self, result: Any) -> Any:
        if self.current is not self.main and isinstance(result, Tensor) and result.device.type == "cuda":
            self.current.made.append(result)
        return result

    def may_use(self, tensor: Tensor) -> bool:
        elsewhere = any(_holds(stream.made, tensor) for stream in self.others if stream is not self.current)
        return not elsewhere or _holds(self.current.known, tensor)

    def kept(self) -> bool:
        """Whether all that was handed over is kept until the steps are done with it."""
        return all(_holds(self.recorded, tensor) for tensor in self.main.known)


def _holds(tensors: list[Tensor], tensor: Tensor) -> bool:
    return any(tensor is other for other in tensors)


class Inline:
    """An executor without a thread: what watches PyTorch's operations watches those of one thread."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, work: Any, *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*given))
        return future

    def shutdown(self, **_: Any) -> None:
        pass


class Watch(TorchDispatchMode):
    """Notes operations on CUDA tensors, and gives made-up values where an operation needs some."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.pinned, self.counts = Seen(), [], False
        self.streams = Streams()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").split(".")[0]
        tensors = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)]
        if not all(self.streams.may_use(x) for x in tensors):
            self._wait("reads what another stream may still be copying")
        if any(x.device.type == "cuda" for x in tensors):
            self._note(name, args, kwargs)
            found = self._made_up(name, args)
            if found is not None:
                return found
        elif not _touches_cuda(func, args, kwargs):
            # The host's own work has values.
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self._note_copies(name, args, kwargs)
        if name == "scalar_tensor" and _ASSIGNS.search(_frames()[-1].line or ""):
            # Seen on a GPU (PyTorch 2.11): ``x[rows, columns] = number`` waits. Kernels make scalars too, and do not.
            self._wait("sets chosen elements to a number")
        return self.streams.made(func(*args, **kwargs))

    def _note(self, name: str, args: Any, kwargs: Any) -> None:
        rate = {
            "native_dropout": lambda: args[1],
            "bernoulli": lambda: 1.0,
            "_flash_attention_forward": lambda: args[7],
            "_efficient_attention_forward": lambda: args[8],
            "_scaled_dot_product_flash_attention": lambda: (args[3:4] or (kwargs.get("dropout_p", 0.0),))[0],
            "_scaled_dot_product_efficient_attention": lambda: (args[5:6] or (kwargs.get("dropout_p", 0.0),))[0],
            "_scaled_dot_product_cudnn_attention": lambda: (args[5:6] or (kwargs.get("dropout_p", 0.0),))[0],
        }.get(name)
        if rate is not None and rate() > 0:
            self.seen.dropouts.append((name, rate()))
        if "attention_forward" in name or name.startswith("_scaled_dot_product"):
            self.seen.kernels.add((name, args[0].dtype))
        if name in ("mm", "addmm", "bmm"):
            self.seen.dtypes.add(args[-1].dtype)

    def _note_copies(self, name: str, args: Any, kwargs: Any) -> None:
        source, target = None, None
        if name == "_to_copy" and kwargs.get("device") is not None:
            source, target = args[0], torch.device(kwargs["device"])
        elif name == "copy_" and isinstance(args[1], Tensor):
            source, target = args[1], args[0].device
        if source is None or source.device.type == target.type:
            return
        if source.device.type == "cuda":
            self._wait("copies to the host")
        elif target.type == "cuda" and not (self._is_pinned(source) and self._is_async(args, kwargs)):
            self._wait("copies from memory that is not page-locked, or waits for the copy")

    def _is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor is pinned for pinned in self.pinned)

    def _is_async(self, args: Any, kwargs: Any) -> bool:
        return bool(kwargs.get("non_blocking") or args[2:3] == (True,))

    def _made_up(self, name: str, args: Any) -> Any:
        x = args[0]
        if name == "_local_scalar_dense":
            self._wait("asks for a value")
            return False if x.dtype == torch.bool else 1.0 if x.dtype.is_floating_point else 1
        if name == "nonzero":
            self._wait("counts what is not zero")
            return torch.zeros(max(1, x.numel() // 2), x.dim(), dtype=torch.long, device=CUDA)
        if name in ("unique_consecutive", "_unique2", "unique_dim", "masked_select"):
            self._wait(f"needs values ({name})")
            return None
        if name == "_pack_padded_sequence":
            # It has no stand-in of its own, since its shapes depend on lengths; those are on the host and known.
            with unset_fake_temporarily():
                length_B = args[1].tolist()
                alive_T = torch.tensor([sum(length > place for length in length_B) for place in range(max(length_B))])
            return x.new_empty(sum(length_B), *x.shape[2:]), alive_T
        if name == "index":
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                self._wait("indexes by a mask")
                places = [torch.zeros(5, dtype=torch.long, device=CUDA) for mask in masks for _ in range(mask.dim())]
                return x[tuple(places)]
        return None

    def _wait(self, why: str) -> None:
        if not self.counts:
            return
        frames = _frames()
        ours = [frame for frame in frames if frame.filename.startswith(ROOT)]
        last = ours[-1] if ours else frames[-1]
        self.seen.waits[f"{Path(last.filename).name}: {last.line}: {why}"] += 1


def _frames() -> list[traceback.FrameSummary]:
    """Where Python is, without PyTorch and what is here."""
    return [frame for frame in traceback.extract_stack() if not _ELSEWHERE.search(frame.filename)]


def _touches_cuda(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation on tensors of the host makes one on the GPU."""
    devices = [x for x in [*args, *kwargs.values()] if isinstance(x, torch.device)]
    return any(device.type == "cuda" for device in devices)


@contextlib.contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeTensorMode, Watch]]:
    """Inside, tensors on ``cuda`` are fake and watched; patches that stand for a driver are taken back by pytest."""
    watch = Watch()

    def pin_memory(tensor: Tensor, *_: Any) -> Tensor:
        watch.pinned.append(tensor.clone())
        return watch.pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr("mcse.training.prefetch.ThreadPoolExecutor", Inline)
    monkeypatch.setattr(torch.cuda, "Stream", watch.streams.new)
    monkeypatch.setattr(torch.cuda, "stream", watch.streams.entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: watch.streams.current)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, _: watch.streams.recorded.append(tensor))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    # It asks the driver. Recurrent layers then take PyTorch's own cells.
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    _note_python_numbers(monkeypatch, watch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, watch:
        yield mode, watch


def _note_python_numbers(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    """``torch.tensor(…, device=cuda)`` copies from memory that is not page-locked, before any operation is seen."""
    for name in ("tensor", "as_tensor"):
        plain = getattr(torch, name)

        def noted(data: Any, *rest: Any, plain: Any = plain, **settings: Any) -> Tensor:
            device = settings.get("device")
            if device is not None and torch.device(device).type == "cuda" and not isinstance(data, Tensor):
                watch._wait("makes a tensor of numbers on the GPU")
            return plain(data, *rest, **settings)

        monkeypatch.setattr(torch, name, noted)


def to_fake(model: nn.Module, mode: FakeTensorMode) -> dict[int, Tensor]:
    """Every parameter and buffer as a fake CUDA tensor in its place; the new ones by the identity of the old."""
    fakes: dict[int, Tensor] = {}
    # An identity holds as long as its tensor lives: buffers have no other owner than the module.
    alive: list[Tensor] = []
    # A frozen model that a module holds apart from its own parts has moved with the first step.
    held = [inner for module in model.modules() for other in getattr(module, "_held", ()) for inner in other.modules()]
    for module in (*model.modules(), *held):
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    alive.append(tensor)
                    fake = mode.from_tensor(tensor.detach()).to(CUDA)
                    is_trained = isinstance(tensor, nn.Parameter)
                    fakes[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_trained else fake
                store[name] = fakes[id(tensor)]
    return fakes


@dataclass(frozen=True, slots=True)
class _OnCuda(Runtime):
    """A runtime whose device is CUDA, whatever Accelerate found."""

    @property
    def device(self) -> torch.device:
        return CUDA


class Unwritten:
    """A journal that nobody reads."""

    def write(self, *_: Any) -> None:
        pass


def run_steps(
    run: Any,
    config: Any,
    runtime: Runtime,
    *,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    steps: int = 2,
    uncounted: int = 0,
) -> Seen:
    """Takes steps of ``run`` on fake CUDA tensors; waits of a log line are left out.

    Those of the first ``uncounted`` steps are, too: what no module holds, such as a live teacher, moves with the first.
    """
    accelerator, precision = runtime.accelerator, LOW[config.train.precision]
    on_cuda = _OnCuda(accelerator=accelerator, precision=config.train.precision, seed=0, show_progress=False)
    with fake_cuda(monkeypatch) as (mode, watch):
        fakes = to_fake(run.model, mode)
        for group in run.optimizer.param_groups:
            group["params"] = [fakes[id(parameter)] for parameter in group["params"]]
        monkeypatch.setattr(accelerator, "device_placement", False)
        monkeypatch.setattr(
            accelerator,
            "autocast",
            (lambda: torch.autocast("cuda", dtype=precision)) if precision else contextlib.nullcontext,
        )
        loop = Loop(run, config.train, optim=config.optim, runtime=on_cuda, folder=folder, journal=Unwritten())
        monkeypatch.setattr(torch.autograd, "backward", lambda rows, gradients: None)
        monkeypatch.setattr(accelerator, "backward", lambda loss: _zero_gradients(loss, run.model))
        loop.meter = loop._new_meter()
        loop.prefetcher.begin_at(0)
        with loop.prefetcher:
            for _ in range(uncounted):
                loop._step()
            watch.counts = True
            for _ in range(steps):
                loop._step()
        watch.seen.terms |= loop.meter._sums.keys()
        watch.seen.copies = len(watch.streams.main.known)
        assert watch.streams.kept()
    return watch.seen


def _zero_gradients(loss: Tensor, model: nn.Module) -> None:
    """In the place of the backward pass: a gradient for each parameter."""
    assert loss.device.type == "cuda"
    assert loss.dtype == torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
