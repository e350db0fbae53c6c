"""Signals that ask a run to stop: noticed between steps, so that it can save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class StopRequest:
    """Catches SIGINT, SIGTERM and SIGUSR1 while the loop runs; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets the main thread alone handle signals; a run in another one cannot be asked to stop.
        here = threading.current_thread() is threading.main_thread()
        for number in _EXIT_CODES if here else ():
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.exit_code == 130 and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.exit_code = _EXIT_CODES[signal.Signals(number)]
