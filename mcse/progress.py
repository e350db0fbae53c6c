"""What is on the screen while work goes on: bars, phases, panels and lines, in a terminal, a notebook or a log.

All of it goes to stderr (in a notebook to stdout), and none of it with ``--quiet`` or ``TQDM_DISABLE=1``. A log gets
whole lines, never carriage returns. Nothing here changes a result.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, TextIO

from tqdm import tqdm

from mcse.errors import printable

SECONDS = 10.0
"""Between lines of a log."""
PATIENCE = 2.0
"""Seconds after which work shows itself that does not always take long."""
QUIET = "TQDM_DISABLE"
"""The environment variable that hides progress, of this process and of those that it starts."""

_OF_LIBRARIES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
_LINE = "{desc}{counted}, {elapsed} elapsed, {remaining} left ({rate_fmt}{postfix})"
_LINE_UNCOUNTED = "{desc}{n:,}, {elapsed} elapsed ({rate_fmt}{postfix})"

_phases: list[str] = []
"""Titles of the phases that are going on, the innermost last."""


def is_quiet() -> bool:
    """Whether progress is hidden: as asked for, or since another process of the run shows it."""
    return os.environ.get(QUIET, "").lower() not in ("", "0", "false") or os.environ.get("RANK", "0") != "0"


@contextmanager
def hidden() -> Iterator[None]:
    """Hides progress while the block runs, also that of downloads, if the libraries are not imported yet."""
    before = {name: os.environ.get(name) for name in (QUIET, *_OF_LIBRARIES)}
    os.environ |= dict.fromkeys(before, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def is_log() -> bool:
    """Whether nobody looks on: lines follow each other, and none is drawn again."""
    return not _in_notebook() and not sys.stderr.isatty()


def progress_bar(
    *,
    total: int | None,
    unit: str,
    initial: int = 0,
    title: str = "",
    is_shown: bool = True,
    stays: bool = True,
    layout: str | None = None,
    smoothing: float = 0.3,
) -> tqdm[Any]:
    """A bar over ``total`` units, of which ``initial`` are done; ``None`` if unknown.

    Args:
        total: Units of work.
        unit: What is counted, in the singular.
        initial: How many are done before it starts.
        title: What is at work.
        is_shown: Whether to show anything.
        stays: Whether its last state stays on the screen. A bar that does not stay comes after two seconds.
        layout: tqdm's ``bar_format``, on a screen.
        smoothing: tqdm's; 0 foretells the time that is left by the average pace so far.
    """
    is_line = is_log()
    if is_line:
        layout = _LINE if total is not None else _LINE_UNCOUNTED
    bar: tqdm[Any] = _kind()(
        total=total,
        initial=initial,
        unit=unit,
        desc=f"{printable(title)}: " if title else None,
        disable=not is_shown or is_quiet(),
        file=_stream(),
        bar_format=layout,
        smoothing=smoothing,
        mininterval=SECONDS if is_line else 0.1,
        maxinterval=SECONDS,
        leave=stays,
        delay=0.0 if stays and not is_line else PATIENCE,
        **_size(),
    )
    return bar


@contextmanager
def phase(title: str, *, is_shown: bool = True) -> Iterator[None]:
    """Shows ``title`` and the time it has taken while the block runs, if that is longer than two seconds.

    Of phases within phases the innermost is shown. Encoders that are used inside show bars of their own.
    """
    if not is_shown or is_quiet():
        yield
        return
    place, ends = len(_phases), Event()
    _phases.append(title)
    clock = Thread(target=_tick, args=(title, place, ends), daemon=True)
    clock.start()
    try:
        yield
    finally:
        del _phases[place:]
        ends.set()
        clock.join()


def in_phase() -> bool:
    """Whether a phase is going on, so that counted work in it should show itself."""
    return bool(_phases)


def _tick(title: str, place: int, ends: Event) -> None:
    started = time.time()  # as tqdm counts
    if ends.wait(PATIENCE):
        return
    line = _kind()(
        total=None,
        desc=printable(title),
        file=_stream(),
        bar_format="{desc}: {elapsed}",
        mininterval=0.0,
        leave=False,
        delay=1e-9,  # or it would be drawn before its start is known
        **_size(),
    )
    with line:
        line.start_t = started
        while True:
            if len(_phases) == place + 1:  # else one within is shown
                line.refresh()
            if ends.wait(3 * SECONDS if is_log() else 1.0):
                return


def say(text: str) -> None:
    """A line, or several, above the bars; nothing where progress is hidden."""
    if not is_quiet():
        _write(text)


def panel(title: str, rows: Mapping[str, str]) -> None:
    """Facts by name below a title: in a box, or as lines of a log."""
    if is_quiet():
        return
    if is_log():
        width = max(map(len, rows))
        _write("\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())]))
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(name, Text(printable(value)))
    Console(file=_stream()).print(Panel(grid, title=Text(printable(title)), title_align="left", expand=False))


class LogHandler(logging.Handler):
    """Writes log messages above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one."""
        _write(self.format(record))


def duration(seconds: float) -> str:
    """``3:07``, or ``1:02:45``."""
    return str(tqdm.format_interval(seconds)).removeprefix("0")


def _write(text: str) -> None:
    if is_log():  # tqdm would clear lines that are no bars
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()
    else:
        tqdm.write(printable(text), file=_stream())


def _in_notebook() -> bool:
    return "ipykernel.zmqshell" in sys.modules


def _stream() -> TextIO:
    """Notebooks paint stderr red."""
    return sys.stdout if _in_notebook() else sys.stderr


def _size() -> dict[str, Any]:
    """Of the screen: on a terminal without a window, which has no columns or lines, tqdm would draw nothing."""
    with contextlib.suppress(OSError, ValueError):
        size = os.get_terminal_size(_stream().fileno())
        if 0 in size:
            return {"ncols": size.columns or 80, "nrows": size.lines or 24}
    return {"dynamic_ncols": True}


def _kind() -> Any:
    if _in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for ipywidgets, and draws text without them
            from tqdm.auto import tqdm as of_notebooks

        return of_notebooks
    return _Lines if is_log() else tqdm


class _Lines(tqdm):  # type: ignore[type-arg]  # at run time it has no parameter
    """A line after two seconds, then one every few seconds, and one at the end."""

    @property
    def format_dict(self) -> Any:
        """With what is done of how much, or only what is done where that turns out to be more."""
        found: dict[str, Any] = dict(super().format_dict)
        done, total = found["n"], found["total"]
        is_known = total and done <= total
        found["counted"] = f"{100 * done / total:.0f} %, {done:,} of {total:,}" if is_known else f"{done:,}"
        return found

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

    def update(self, n: float | None = 1) -> bool | None:
        """As tqdm's, but that the first line comes when it may, and not an interval later."""
        if not self.disable and self.last_print_t == self.start_t:
            self.last_print_t = self.start_t + (self.delay or 0.0) - self.mininterval
        return bool(super().update(n))

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """A line, unless the last one was written a moment ago, or it is too early for one."""
        if self.disable:
            return
        now = time.time()  # as tqdm counts
        start, last = getattr(self, "start_t", now), getattr(self, "last_print_t", 0.0)
        if now >= start + (self.delay or 0.0) and now - last >= self.mininterval:
            super().refresh(nolock=nolock, lock_args=lock_args)
            self.last_print_t = now

    def close(self) -> None:
        """The last line; of work that does not stay only if it took long. tqdm's own line break goes nowhere."""
        if not self.disable and hasattr(self, "start_t"):
            was_shown = self.last_print_t >= self.start_t + (self.delay or 0.0)
            if self.leave or was_shown:
                self.leave, self.last_print_t = True, self.start_t + (self.delay or 0.0)
        self.fp = io.StringIO()
        super().close()
