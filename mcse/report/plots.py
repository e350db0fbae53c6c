"""Plots as SVG that take their colours from the page, so that one image serves light and dark."""

from __future__ import annotations

import io
import math
import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from mcse.report.tables import Curve, ScoreTable

_PAGE_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--rule)",
    "#0a0001": "var(--series-1)",
    "#0a0002": "var(--series-2)",
    "#0a0003": "var(--series-3)",
    "#0a0004": "var(--series-4)",
    "#0a0005": "var(--series-5)",
    "#0a0006": "var(--series-6)",
}
"""Stand-ins that Matplotlib draws with, and the page's variables that replace them in the SVG."""

PRINTED = {
    "ink": "#1d2126",
    "faint": "#5d6670",
    "rule": "#dfe2e5",
    "series-1": "#2563c9",
    "series-2": "#c2570c",
    "series-3": "#15803d",
    "series-4": "#7c3aed",
    "series-5": "#be185d",
    "series-6": "#57606a",
}
"""The page's colours in the light, of templates/page.html.j2."""

_INK, _FAINT, _RULE, *_SERIES = _PAGE_COLOURS
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH_INCHES = 4.6
_LEGEND_CHARACTERS = 44
"""That stand side by side in a legend, with 6 for each name's mark."""

_LEGEND_MARK = 6
_LINE_INCHES, _GAP_INCHES = 0.17, 0.07
"""Of a line of a legend, and between two names."""

_NOT_CLEAR = "not clear"
"""A difference of which the interval holds 0."""

_LABEL_CHARACTERS = 40
"""Of a name in a plot, which goes on in the next line."""

_MIN_SPAN = 0.2
"""Of the axes of a plot of points: two points that differ by less would seem to differ much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model by two numbers, each with its interval where there is one. Points of one label are seeds of a system."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A system's value in each of several bins, and half the length of its interval; ``None`` where there is none."""

    label: str
    values: tuple[float | None, ...]
    reaches: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceLine:
    """A difference of two systems with its interval.

    ``better`` is the number, from 0, of the system that is clearly better, whose colour the line has; ``None`` where
    the interval holds 0. ``is_pale`` marks a second look at the difference above, such as over clean items alone.
    """

    label: str
    value: float
    low: float
    high: float
    better: int | None = None
    is_pale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLine:
    """A system's score at several values of a number, each with its interval where there is one.

    ``series`` is the system's number, from 0, for its colour.
    """

    label: str
    series: int
    x: tuple[float, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]


def plot_points(points: Sequence[Point], *, x_label: str, y_label: str, series: Mapping[str, int]) -> str:
    """A scatter of models as inline SVG, intervals as thin lines; ``series`` is a system's number, from 0."""
    figure, axes = _figure(height_inches=3.2)
    for label in dict.fromkeys(point.label for point in points):
        colour, marker = _colour_and_marker(series[label])
        for number, point in enumerate([point for point in points if point.label == label]):
            if point.x_interval:
                axes.plot(point.x_interval, [point.y] * 2, color=colour, linewidth=1.2, alpha=0.6)
            if point.y_interval:
                axes.plot([point.x] * 2, point.y_interval, color=colour, linewidth=1.2, alpha=0.6)
            name = _wrapped(label) if number == 0 else None
            axes.plot([point.x], [point.y], marker=marker, color=colour, markersize=8, linestyle="", label=name)
    axes.margins(0.12)
    axes.autoscale_view()
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        missing = max(0.0, _MIN_SPAN - (limits[1] - limits[0])) / 2
        set_limits(limits[0] - missing, limits[1] + missing)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=_RULE, linewidth=0.8)
    _legend(figure, [point.label for point in points])
    return _svg(figure, f"{y_label} by {x_label}")


def plot_profiles(
    profiles: Sequence[Profile], *, ticks: Sequence[str], x_label: str, y_label: str, series: Mapping[str, int]
) -> str:
    """Systems' values over bins as inline SVG, side by side within a bin; ``series`` is a system's number, from 0."""
    figure, axes = _figure(height_inches=3.2)
    for place, profile in enumerate(profiles):
        colour, marker = _colour_and_marker(series[profile.label])
        shift = 0.5 * ((place + 0.5) / len(profiles) - 0.5)
        known = [number for number, value in enumerate(profile.values) if value is not None]
        x = [number + shift for number in known]
        y = [value for value in profile.values if value is not None]
        axes.plot(x, y, color=colour, marker=marker, linewidth=1.2, markersize=6, label=_wrapped(profile.label))
        for at, value, number in zip(x, y, known, strict=True):
            if (reach := profile.reaches[number]) is not None:
                axes.plot([at, at], [value - reach, value + reach], color=colour, linewidth=1.2, alpha=0.6)
    axes.set_xticks(range(len(ticks)), [_plain(tick) for tick in ticks])
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    _legend(figure, [profile.label for profile in profiles])
    return _svg(figure, f"{y_label} by {x_label}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """An SVG in the page's colours; ``name`` is that of its file."""

    name: str
    title: str
    image: str


def plot_differences(lines: Sequence[DifferenceLine], *, x_label: str, names: Sequence[str]) -> str:
    """A forest plot as inline SVG: a line a difference with its interval, and no difference as a stroke.

    ``names`` are those of the systems, by number.
    """
    labels = [_wrapped(line.label) for line in lines]
    rows = sum(1 + label.count("\n") for label in labels)
    letters = max(len(part) for label in labels for part in label.split("\n"))
    width = _WIDTH_INCHES + max(0.0, 0.07 * (letters - 18))
    figure, axes = _figure(height_inches=1.1 + 0.28 * rows, width_inches=width)
    axes.axvline(0, color=_FAINT, linewidth=1)
    for number, line in enumerate(lines):
        colour, marker = (_FAINT, "s") if line.better is None else _colour_and_marker(line.better)
        opacity = 0.5 if line.is_pale else 1.0
        axes.plot([line.low, line.high], [number] * 2, color=colour, linewidth=1.6, alpha=opacity)
        axes.plot([line.value], [number], color=colour, marker=marker, markersize=6, alpha=opacity)
    said = [_NOT_CLEAR] * any(line.better is None for line in lines)
    for better in sorted({line.better for line in lines if line.better is not None}):
        colour, marker = _colour_and_marker(better)
        said.append(f"{names[better]} is better")
        axes.plot([], [], color=colour, marker=marker, linestyle="", label=_wrapped(said[-1]))
    if said[0] == _NOT_CLEAR:
        axes.plot([], [], color=_FAINT, marker="s", linestyle="", label=_NOT_CLEAR)
    _legend(figure, said)
    axes.set_yticks(range(len(lines)), labels)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(_plain(x_label))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", color=_RULE, linewidth=0.8)
    axes.margins(x=0.08)
    return _svg(figure, f"{x_label}: {', '.join(line.label for line in lines)}")


def plot_values(lines: Sequence[ValueLine], *, x_label: str, y_label: str) -> str:
    """Scores against a number as inline SVG, a colour a system; where the numbers span a decade on a logarithm."""
    figure, axes = _figure(height_inches=3.4)
    numbers = sorted({x for line in lines for x in line.x})
    if numbers[0] > 0 and numbers[-1] >= 10 * numbers[0]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    for place, line in enumerate(lines):
        # Of one system with several further settings the colour is one, and the mark tells the lines apart.
        colour, marker = _colour_and_marker(line.series)[0], _MARKERS[place % len(_MARKERS)]
        axes.plot(
            line.x, line.values, color=colour, marker=marker, markersize=6, linewidth=1.4, label=_wrapped(line.label)
        )
        for x, ends in zip(line.x, line.intervals, strict=True):
            if ends is not None:
                axes.plot([x, x], ends, color=colour, linewidth=1.4, alpha=0.6)
    axes.set_xlabel(_plain(x_label))
    axes.set_ylabel(_plain(y_label))
    axes.grid(color=_RULE, linewidth=0.8)
    _legend(figure, [line.label for line in lines])
    return _svg(figure, f"{y_label} by {x_label}")


def standalone(svg: str) -> str:
    """A plot as a file of its own, with the page's colours on white."""
    for name, colour in PRINTED.items():
        svg = svg.replace(f"var(--{name})", colour)
    return svg.replace(">", '><rect width="100%" height="100%" fill="#ffffff"/>', 1)


def plot_curves(curves: Sequence[Curve], *, series: Mapping[str, int] | None = None) -> str:
    """One plot of all curves as inline SVG: seeds thin, their mean thick where the seeds share their steps.

    ``series`` is each label's number, from 0, for its colour; without it labels are numbered as they come.

    Raises:
        ValueError: There are no curves, or they are of several panels.
    """
    panels = {curve.panel for curve in curves}
    if len(panels) != 1:
        raise ValueError(f"one plot needs curves of one panel, got {sorted(panels)}")
    figure, axes = _figure(height_inches=3.2)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    numbers = series or {label: number for number, label in enumerate(labels)}
    for label in labels:
        _plot_system(axes, numbers[label], [curve for curve in curves if curve.label == label])
    axes.set_xlabel("step")
    axes.set_ylabel(_plain(panels.pop()))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    _legend(figure, labels)
    return _svg(figure, f"Learning curves: {', '.join(labels)}")


def plot_seeds(table: ScoreTable, *, column: int = 0) -> str:
    """One dot a seed and a stroke at the mean, a line a system, for one column of the table, as inline SVG."""
    figure, axes = _figure(height_inches=0.75 + 0.42 * len(table.rows))
    for number, row in enumerate(table.rows):
        values = row.values[column]
        colour, marker = _colour_and_marker(number)
        axes.plot(values, [number] * len(values), marker=marker, linestyle="", color=colour, alpha=0.7)
        if values:
            axes.plot([statistics.fmean(values)] * 2, [number - 0.3, number + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(table.rows)), [_wrapped(row.name) for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.set_xlabel(_plain(table.columns[column].label))
    axes.grid(axis="x", color=_RULE, linewidth=0.8)
    axes.margins(x=0.08)
    return _svg(figure, f"{table.columns[column].label} of every seed")


def _plot_system(axes: Axes, number: int, curves: Sequence[Curve]) -> None:
    colour, style = _SERIES[number % len(_SERIES)], _STYLES[number % len(_STYLES)]
    steps = curves[0].steps
    has_mean = len(curves) > 1 and all(curve.steps == steps for curve in curves)
    for seed, curve in enumerate(curves):
        label = _wrapped(curve.label) if seed == 0 and not has_mean else None
        width, opacity = (0.9, 0.45) if has_mean else (1.8, 1.0)
        axes.plot(curve.steps, curve.values, color=colour, linestyle=style, linewidth=width, alpha=opacity, label=label)
    if has_mean:
        mean = [statistics.fmean(values) for values in zip(*(curve.values for curve in curves), strict=True)]
        axes.plot(steps, mean, color=colour, linestyle=style, linewidth=2.2, label=_wrapped(curves[0].label))


def _colour_and_marker(number: int) -> tuple[str, str]:
    """Different for 36 systems: where the colours start again, the markers are shifted."""
    place = number + number // len(_SERIES)
    return _SERIES[number % len(_SERIES)], _MARKERS[place % len(_MARKERS)]


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    """Below the plot, which keeps its height: the figure grows by the legend's lines."""
    distinct = [_wrapped(label) for label in dict.fromkeys(labels)]
    longest = max(len(line) for label in distinct for line in label.split("\n"))
    columns = min(len(distinct), max(1, (_LEGEND_CHARACTERS + _LEGEND_MARK) // (longest + _LEGEND_MARK)))
    heights = [1 + label.count("\n") for label in distinct]
    rows = math.ceil(len(distinct) / columns)
    # Names stand column by column.
    lines = max(sum(heights[start : start + rows]) for start in range(0, len(heights), rows))
    figure.set_figheight(figure.get_figheight() + _LINE_INCHES * (lines - 1) + _GAP_INCHES * (rows - 1))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, labelcolor=_INK, fontsize=10)


def _wrapped(text: str) -> str:
    """A name in lines that a plot has room for; none of it is left out."""
    return "\n".join(textwrap.wrap(_plain(text), _LABEL_CHARACTERS)) or " "


def _plain(text: str) -> str:
    """What Matplotlib draws as ``text``: dollars start no formula, and a leading underscore hides no label."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return ("\u200b" if shown.startswith("_") else "") + shown.replace("$", r"\$")


def _figure(*, height_inches: float, width_inches: float = _WIDTH_INCHES) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
        axis.label.set_fontsize(10)
    return figure, axes


def _svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element without prologue, its text as text, its colours the page's."""
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    text = target.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    text = text.replace("<svg ", '<svg role="img" preserveAspectRatio="xMidYMid meet" ', 1)
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    return text
