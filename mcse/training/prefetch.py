"""Batches made ahead of the step that needs them, in one thread, and copied to a GPU beside the steps before."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch

from mcse.types import Stateful, Stream, to_device
from mcse.types.batches import pin, tensors_of

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Iterates ``stream`` from ``first`` up to ``end``, ``depth`` batches ahead.

    Batches made ahead and never used leave no trace: each is a pure function of its step, and where a part of the
    stream is ``carried`` from batch to batch, its state is noted with each batch. So the prefetcher is the ``Stateful``
    to save: it gives the state after the batch that was handed out last. For a GPU batches come in page-locked memory,
    or, with ``copies``, on the ``device`` itself.
    """

    def __init__(
        self,
        stream: Stream[Batch],
        *,
        end: int,
        first: int = 0,
        depth: int = 4,
        carried: Stateful | None = None,
        device: torch.device | None = None,
        copies: bool = False,
    ) -> None:
        self._stream, self._next, self._end, self._depth, self._carried = stream, first, end, depth, carried
        self._pins = device is not None and device.type == "cuda"
        self._copies = _Copies(device) if copies and self._pins and device is not None else None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcse-batches")
        self._ahead: deque[Future[tuple[Batch, Any, dict[str, Any]]]] = deque()
        self._state = self._note()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Batch:
        """The next batch; an error in making it is raised here."""
        while len(self._ahead) < self._depth and self._next < self._end:
            self._ahead.append(self._executor.submit(self._make, self._next))
            self._next += 1
        batch, copied, self._state = self._ahead.popleft().result()
        if self._copies is not None:
            self._copies.hand_over(batch, copied)
        return batch

    def begin_at(self, step: int) -> None:
        """Goes on with batch ``step``; to be called before the first ``next``."""
        self._next = step

    def state_dict(self) -> dict[str, Any]:
        """The carried state after the batch that ``next`` gave last; empty where nothing is carried."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` gave; to be called before the first ``next``."""
        if self._carried is not None:
            self._carried.load_state_dict(state)
        self._state = self._note()

    def _make(self, step: int) -> tuple[Batch, Any, dict[str, Any]]:
        batch, copied = self._stream.batch(step), None
        if self._pins:
            batch = pin(batch)
        if self._copies is not None:
            batch, copied = self._copies.begin(batch)
        return batch, copied, self._note()

    def _note(self) -> dict[str, Any]:
        return self._carried.state_dict() if self._carried is not None else {}


class _Copies:
    """Copies batches to a GPU on a stream of their own, so that a copy waits for no step that is running."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """The batch on the GPU, and what happens there when it has arrived."""
        with torch.cuda.stream(self._stream):
            return to_device(batch, self._device), self._stream.record_event()

    def hand_over(self, batch: object, copied: torch.cuda.Event) -> None:
        """Lets the stream of the steps wait for the batch, whose memory no other copy gets before they are done."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in tensors_of(batch):
            tensor.record_stream(stream)
