"""Batches made ahead of the step that needs them, in one thread."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from mcse.types import Stream

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Iterates ``stream`` from ``first`` up to ``end``, ``depth`` batches ahead.

    The stream is a pure function of the step, so batches made ahead and never used leave no trace.
    """

    def __init__(self, stream: Stream[Batch], *, first: int, end: int, depth: int = 4) -> None:
        self._stream, self._next, self._end, self._depth = stream, first, end, depth
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcse-batches")
        self._ahead: deque[Future[Batch]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Batch:
        """The next batch; an error in making it is raised here."""
        while len(self._ahead) < self._depth and self._next < self._end:
            self._ahead.append(self._executor.submit(self._stream.batch, self._next))
            self._next += 1
        return self._ahead.popleft().result()
