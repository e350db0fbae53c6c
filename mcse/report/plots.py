"""Plots as SVG that take their colours from the page, so that one picture serves light and dark."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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

_INK, _FAINT, _RULE, *_SERIES = _PAGE_COLOURS
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH_INCHES = 4.6
_LEGEND_CHARACTERS = 34


def plot_curves(curves: Sequence[Curve]) -> str:
    """One plot of all curves as inline SVG: seeds thin, their mean thick where the seeds share their steps.

    Raises:
        ValueError: There are no curves, or they are of several panels.
    """
    panels = {curve.panel for curve in curves}
    if len(panels) != 1:
        raise ValueError(f"one plot needs curves of one panel, got {sorted(panels)}")
    figure, axes = _figure(height_inches=3.2)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    for number, label in enumerate(labels):
        _plot_system(axes, number, [curve for curve in curves if curve.label == label])
    axes.set_xlabel("step")
    axes.set_ylabel(panels.pop())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    fits = sum(map(len, labels)) <= _LEGEND_CHARACTERS
    figure.legend(
        loc="outside lower center", ncols=len(labels) if fits else 1, frameon=False, labelcolor=_INK, fontsize=10
    )
    return _svg(figure, f"Learning curves: {', '.join(labels)}")


def plot_seeds(table: ScoreTable, *, column: int = 0) -> str:
    """One dot a seed and a stroke at the mean, a line a system, for one column of the table, as inline SVG."""
    figure, axes = _figure(height_inches=0.75 + 0.42 * len(table.rows))
    for number, row in enumerate(table.rows):
        values, colour = row.values[column], _SERIES[number % len(_SERIES)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(values, [number] * len(values), marker=marker, linestyle="", color=colour, alpha=0.7)
        if values:
            axes.plot([statistics.fmean(values)] * 2, [number - 0.3, number + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(table.rows)), [row.name for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.set_xlabel(table.columns[column].label)
    axes.grid(axis="x", color=_RULE, linewidth=0.8)
    axes.margins(x=0.08)
    return _svg(figure, f"{table.columns[column].label} of every seed")


def _plot_system(axes: Axes, number: int, curves: Sequence[Curve]) -> None:
    colour, style = _SERIES[number % len(_SERIES)], _STYLES[number % len(_STYLES)]
    steps = curves[0].steps
    has_mean = len(curves) > 1 and all(curve.steps == steps for curve in curves)
    for seed, curve in enumerate(curves):
        label = curve.label if seed == 0 and not has_mean else None
        width, opacity = (0.9, 0.45) if has_mean else (1.8, 1.0)
        axes.plot(curve.steps, curve.values, color=colour, linestyle=style, linewidth=width, alpha=opacity, label=label)
    if has_mean:
        mean = [statistics.fmean(values) for values in zip(*(curve.values for curve in curves), strict=True)]
        axes.plot(steps, mean, color=colour, linestyle=style, linewidth=2.2, label=curves[0].label)


def _figure(*, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
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
    text = text[text.index("<svg") :].replace("<svg ", '<svg role="img" preserveAspectRatio="xMidYMid meet" ', 1)
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    return text
