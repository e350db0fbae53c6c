"""Scores as Matplotlib figures, for notebooks and for files that people write themselves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mcse.errors import printable
from mcse.report.plots import PRINTED
from mcse.report.seed_groups import System, numbered
from mcse.types import Column, ComparedScore

_COLOURS = [colour for name, colour in PRINTED.items() if name.startswith("series-")]
_WIDTH_INCHES = 6.0


class ScoreFigure(Figure):
    """A Matplotlib figure that a notebook shows, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self.savefig(target, format="png", dpi=100)
        return target.getvalue()


def score_figure(systems: Sequence[System], *, suite: str | None = None) -> ScoreFigure:
    """A line a headline score of a suite, a colour a system: dots with 95 % intervals, or a dot a seed.

    Raises:
        ValueError: There are no scores of that suite.
    """
    columns = _columns([column for system in systems for seed in system.seeds for column in seed.all.columns], suite)
    figure = _figure([column.label for column in columns], systems=len(systems))
    axes = figure.axes[0]
    for system in numbered(systems):
        colour = _COLOURS[system.number % len(_COLOURS)]
        shift = 0.6 * ((system.number + 0.5) / len(systems) - 0.5)
        points = [(row + shift, value) for row, column in enumerate(columns) for value in system.values(column.key)]
        for row, column in enumerate(columns):
            if (interval := system.interval(column.key)) is not None:
                axes.plot(interval, [row + shift] * 2, color=colour, linewidth=1.6)
        rows, values = [row for row, _ in points], [value for _, value in points]
        axes.plot(values, rows, "o", color=colour, markersize=6, label=_plain(system.short))
    axes.set_xlabel(f"{columns[0].key.suite} (95 % intervals)")
    if len(systems) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(systems)), frameon=False)
    return figure


def difference_figure(
    systems: Sequence[System], compared: Sequence[ComparedScore], *, suite: str | None = None
) -> ScoreFigure:
    """The differences of two systems over all items, each with its 95 % interval, and no difference as a stroke.

    Raises:
        ValueError: There are no scores of that suite.
    """
    every = {score.column: score for score in compared if score.column.key.part is None}
    columns = _columns(list(every), suite)
    figure = _figure([column.label for column in columns], systems=1)
    axes = figure.axes[0]
    axes.axvline(0, color=PRINTED["faint"], linewidth=1)
    for row, column in enumerate(columns):
        score = every[column]
        colour = _COLOURS[0] if score.low > 0 or score.high < 0 else _COLOURS[5]
        axes.plot([score.low, score.high], [row] * 2, color=colour, linewidth=1.6)
        axes.plot([score.difference], [row], "s", color=colour, markersize=6)
    first, second = (_plain(system.short) for system in numbered(systems)[:2])
    axes.set_xlabel(f"{first} − {second} (95 % intervals)")
    return figure


def _columns(columns: Sequence[Column], suite: str | None) -> list[Column]:
    """Of one suite, each once."""
    suites: Mapping[str, None] = dict.fromkeys(column.key.suite for column in columns)
    wanted = next(iter(suites), None) if suite is None else suite
    found = list(dict.fromkeys(column for column in columns if column.key.suite == wanted))
    if not found:
        raise ValueError(f"no scores of the suite {suite!r}; there are those of {', '.join(suites) or 'none'}")
    return found


def _figure(labels: Sequence[str], *, systems: int) -> ScoreFigure:
    """Axes with a line a label, from above."""
    height = 1.1 + len(labels) * (0.25 + 0.12 * systems)
    figure = ScoreFigure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(labels)), [_plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color=PRINTED["rule"], linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.08)
    return figure


def _plain(text: str) -> str:
    """What Matplotlib draws as ``text``: dollars start no formula, and a leading underscore hides no label."""
    return ("\u200b" if text.startswith("_") else "") + printable(text).replace("$", r"\$")
