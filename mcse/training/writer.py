"""Files written by a thread while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Writer:
    """Does what it is given in that order, in one thread; leaving it waits for all.

    After an error nothing further is done, since what follows may say that what failed is there.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mcse-files")
        self._jobs: dict[str, Future[None]] = {}
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._executor.shutdown(wait=True)

    def submit(self, name: str, work: Callable[[], None]) -> None:
        """Takes on ``work``; ``wait`` for the one before of this name first."""
        assert name not in self._jobs, name
        self._jobs[name] = self._executor.submit(self._do, work)

    def wait(self, *names: str) -> None:
        """Until what has these names, or everything, is done; raises the error of the first that failed."""
        for name in names or tuple(self._jobs):
            if name in self._jobs:
                self._jobs.pop(name).result()

    def check(self) -> None:
        """Raises the error of what has failed; waits for nothing."""
        for name in [name for name, job in self._jobs.items() if job.done()]:
            self._jobs.pop(name).result()

    def _do(self, work: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            work()
        except BaseException:
            self._has_failed = True
            raise
