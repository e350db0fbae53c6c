"""Requests of several threads in one batch, in one thread, with a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

MOST_WAITING = 4096
"""Texts that wait for a service's model, by default."""

Item = TypeVar("Item")
Results = TypeVar("Results")
"""What can be cut like a list: one result an item."""


class BusyError(Exception):
    """So many items wait already that no more are taken."""


class Together(Generic[Item, Results]):
    """Does the work of several requests at once: those that come while a batch is worked on wait for the next.

    A request whose future is cancelled before its batch begins is left out.

    Args:
        work: The results of items, in their order.
        thread: The one thread that does the work, which may be shared: a model is heavy, keeps memory for every thread
            that uses it, and may not bear two at once.
        at_once: Items of a batch; a request of more is a batch of its own.
        most_waiting: Items that may wait; ``None`` for any number. A request that finds none waiting is always taken.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Results],
        thread: ThreadPoolExecutor,
        *,
        at_once: int = 64,
        most_waiting: int | None = None,
    ) -> None:
        self._work, self._thread = work, thread
        self._at_once, self._most = at_once, most_waiting
        self._queue: deque[tuple[Sequence[Item], Future[Results]]] = deque()
        self._lock = threading.Lock()
        self.waiting = 0

    def __call__(self, items: Sequence[Item]) -> Results:
        """The results of a request's items; waits for them."""
        return self.submit(items)[0].result()

    def submit(self, *parts: Sequence[Item]) -> list[Future[Results]]:
        """The results to come of each part of a request; others may come between parts.

        Raises:
            BusyError: Too many items wait; nothing of the request is taken.
        """
        number = sum(map(len, parts))
        requests: list[tuple[Sequence[Item], Future[Results]]] = [(items, Future()) for items in parts]
        with self._lock:
            if self._most is not None and self.waiting and self.waiting + number > self._most:
                raise BusyError
            self._queue.extend(requests)
            self.waiting += number
        for _ in requests:
            self._thread.submit(self._work_some)  # finds nothing to do where the batch before took this one, too
        return [found for _, found in requests]

    def _work_some(self) -> None:
        if batch := self._take():
            self._answer(batch)

    def _answer(self, batch: Sequence[tuple[Sequence[Item], Future[Results]]]) -> None:
        try:
            results: Any = self._work([item for items, _ in batch for item in items])
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # one that fails is not to fail the others
                for request in batch:
                    self._answer([request])
            return
        start = 0
        for items, found in batch:
            found.set_result(results[start : start + len(items)])
            start += len(items)

    def _take(self) -> list[tuple[Sequence[Item], Future[Results]]]:
        """The requests of the next batch, except those whose clients are gone."""
        batch: list[tuple[Sequence[Item], Future[Results]]] = []
        size = 0
        with self._lock:
            while self._queue and (not batch or size + len(self._queue[0][0]) <= self._at_once):
                items, found = self._queue.popleft()
                self.waiting -= len(items)
                if found.set_running_or_notify_cancel():
                    batch.append((items, found))
                    size += len(items)
        return batch
