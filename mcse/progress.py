"""How long work takes, on stderr: a bar on a terminal, and lines in a log, where bars would overwrite each other."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from mcse.errors import printable

_SECONDS = 10.0
"""Between lines of a log."""


def progress_bar(
    *, total: int | None, unit: str, initial: int = 0, title: str = "", is_shown: bool = True
) -> tqdm[Any]:
    """A bar over ``total`` units, of which ``initial`` are done; ``None`` if unknown.

    Nothing is shown unless ``is_shown``.
    """
    is_terminal = sys.stderr.isatty()
    kind = tqdm if is_terminal else _Lines
    return kind(
        total=total,
        initial=initial,
        unit=unit,
        desc=printable(title) or None,
        disable=not is_shown,
        file=sys.stderr,
        mininterval=0.1 if is_terminal else _SECONDS,
        maxinterval=_SECONDS,
    )


class _Lines(tqdm):  # type: ignore[type-arg]  # at run time it has no parameter
    """A line every few seconds, and one at the end."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Writes a status as a line of its own."""

        def write(status: str) -> None:
            if status.strip():
                file.write(status.strip() + "\n")
                file.flush()

        return write

    def moveto(self, n: int) -> None:
        """Stays where it is: a log has no other lines to go to."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """A line, unless the last one was written a moment ago."""
        if self.disable:
            return
        now = time.time()  # as tqdm counts
        if now - getattr(self, "last_print_t", 0.0) >= self.mininterval:
            super().refresh(nolock=nolock, lock_args=lock_args)
            self.last_print_t = now

    def close(self) -> None:
        """The last line; tqdm's own line break, which ends a bar, goes nowhere."""
        self.fp = io.StringIO()
        super().close()
