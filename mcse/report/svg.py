"""Small images written as SVG directly, of numbers alone: a dot with its interval, and pairs by gold and cosine.

They take their colours from the page, as ``plots`` does, and are made by the hundred where Matplotlib would take long.
P pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SERIES = 6
"""Colours of the page, ``--series-1`` to ``--series-6``."""

_ROUNDING = 1e-9
_SPACES = (4, 5, 6)
"""Between ticks."""

_WIDTH, _HEIGHT = 188, 152
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 184, 6, 122
_CELL = 4
_LEVELS = 5
_MAX_DOTS = 400
"""Pairs up to which each is a dot; more are counted in cells."""

_TREND_BINS, _TREND_PAIRS = 10, 5


@dataclass(frozen=True, slots=True)
class Scale:
    """The two ends of an axis, and between how many spaces it has ticks."""

    low: float
    high: float
    spaces: int = 4

    @property
    def ticks(self) -> list[float]:
        """The values of all ticks, the ends among them."""
        step = (self.high - self.low) / self.spaces
        return [round(self.low + number * step, 10) for number in range(self.spaces + 1)]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, in [0, 1]; what lies beyond is at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def series_colour(number: int) -> str:
    """The page's colour of the system of that number, from 0."""
    return f"var(--series-{number % SERIES + 1})"


def score_dot(
    value: float,
    *,
    scale: Scale,
    series: int,
    interval: tuple[float, float] | None = None,
    seeds: Sequence[float] = (),
    is_pale: bool = False,
) -> str:
    """A dot on a line as wide as its place, with its interval as a stroke and seeds as small dots."""
    colour = series_colour(series)
    parts = [
        _line(share, share, top=0, bottom=16, colour="var(--rule)", width=1) for share in map(scale.share, scale.ticks)
    ]
    if interval is not None:
        low, high = (scale.share(edge) for edge in interval)
        parts.append(_line(low, high, top=8, bottom=8, colour=colour, width=1.5))
        parts += [_line(edge, edge, top=4.5, bottom=11.5, colour=colour, width=1.5) for edge in (low, high)]
    shown = f'fill="var(--card)" stroke="{colour}" stroke-width="1.6"' if is_pale else f'fill="{colour}"'
    parts.append(f'<circle cx="{_percent(scale.share(value))}" cy="8" r="4.5" {shown}/>')
    parts += [f'<circle cx="{_percent(scale.share(seed))}" cy="8" r="1.7" fill="var(--ink)"/>' for seed in seeds]
    return f'<svg class="dot" width="100%" height="16" aria-hidden="true">{"".join(parts)}</svg>'


def near_scales(charts: Sequence[Sequence[float]], *, least_step: float) -> list[Scale]:
    """A scale around each chart's numbers, all equally long with round ticks, so that a point is as wide in each.

    Args:
        charts: The numbers of each chart, one or more.
        least_step: Between two ticks; a difference that small need not look large.
    """
    widest = max(max(numbers) - min(numbers) for numbers in charts)
    least = max(least_step, round_step(widest / _SPACES[-1])) if widest else least_step
    steps = [least, round_step(1.01 * least), round_step(2.01 * least), round_step(4.01 * least)]
    # The shortest scales in which every chart has room from a round number on.
    for step, spaces in sorted(itertools.product(steps, _SPACES), key=lambda pair: pair[0] * pair[1]):
        lows = [step * math.floor(min(numbers) / step + _ROUNDING) for numbers in charts]
        ends = [low + spaces * step * (1 + _ROUNDING) for low in lows]
        if all(max(numbers) <= end for numbers, end in zip(charts, ends, strict=True)):
            break
    scales = []
    for low, numbers in zip(lows, charts, strict=True):
        # The numbers in the middle, as far as ticks allow.
        room = low + spaces * step - max(numbers) - (min(numbers) - low)
        lower = low - step * max(0, math.floor(room / 2 / step + _ROUNDING))
        start = lower if low < 0 else max(0.0, lower)
        scales.append(Scale(round(start, 10), round(start + spaces * step, 10), spaces))
    return scales


def round_step(rough: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below ``rough``."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= 0.999 * rough)


def pair_density(
    cosine_P: NDArray[np.float64], gold_P: NDArray[np.float64], *, cosines: Scale, golds: Scale, series: int
) -> str:
    """Gold rightwards, cosine upwards: a dot a pair, or, of many pairs, cells that are darker where more pairs lie.

    The line is the median cosine of the pairs of similar gold.
    """
    x_P = _LEFT + (_RIGHT - _LEFT) * _shares(gold_P, golds)
    y_P = _BOTTOM - (_BOTTOM - _TOP) * _shares(cosine_P, cosines)
    colour = series_colour(series)
    marks = _dots(x_P, y_P, colour) if len(x_P) <= _MAX_DOTS else _cells(x_P, y_P, colour)
    return (
        f'<svg class="density" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Cosine against gold">'
        f"{_axes(cosines, golds)}{marks}{_trend(x_P, y_P)}</svg>"
    )


def spanning_scale(values: Sequence[float]) -> Scale:
    """The smallest and largest value, widened to one tick where they are equal."""
    low, high = min(values), max(values)
    return Scale(low, high) if high > low else Scale(low - 0.5, high + 0.5)


def _shares(value_P: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.clip((value_P - scale.low) / (scale.high - scale.low), 0, 1)
    return share


def _dots(x_P: NDArray[np.float64], y_P: NDArray[np.float64], colour: str) -> str:
    """A path of lines without length, whose round ends are the dots: a tenth of the text of as many circles."""
    path = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in zip(x_P, y_P, strict=True))
    return f'<path d="{path}" stroke="{colour}" stroke-width="4" stroke-linecap="round" stroke-opacity=".5"/>'


def _cells(x_P: NDArray[np.float64], y_P: NDArray[np.float64], colour: str) -> str:
    columns, rows = math.ceil((_RIGHT - _LEFT) / _CELL), math.ceil((_BOTTOM - _TOP) / _CELL)
    column_P = np.minimum((x_P - _LEFT) // _CELL, columns - 1).astype(np.int64)
    row_P = np.minimum((y_P - _TOP) // _CELL, rows - 1).astype(np.int64)
    count = np.bincount(row_P * columns + column_P, minlength=rows * columns).reshape(rows, columns)
    level = np.ceil(_LEVELS * np.log1p(count) / np.log1p(count.max())).astype(np.int64)
    paths = []
    for step in range(1, _LEVELS + 1):
        path = "".join(
            f"M{_LEFT + _CELL * column} {_TOP + _CELL * row}h{_CELL}v{_CELL}h-{_CELL}z"
            for row, column in zip(*np.nonzero(level == step), strict=True)
        )
        paths.append(f'<path d="{path}" fill-opacity="{step / _LEVELS:g}"/>' if path else "")
    return f'<g fill="{colour}">{"".join(paths)}</g>'


def _trend(x_P: NDArray[np.float64], y_P: NDArray[np.float64]) -> str:
    width = (_RIGHT - _LEFT) / _TREND_BINS
    bin_P = np.minimum((x_P - _LEFT) // width, _TREND_BINS - 1)
    points = [
        f"{np.mean(x_P[bin_P == number]):.1f},{np.median(y_P[bin_P == number]):.1f}"
        for number in range(_TREND_BINS)
        if (bin_P == number).sum() >= _TREND_PAIRS
    ]
    line = " ".join(points)
    return f'<polyline points="{line}" fill="none" stroke="var(--ink)" stroke-width="1.5"/>' if points else ""


def _axes(cosines: Scale, golds: Scale) -> str:
    parts = [f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="var(--faint)"/>']
    for tick in _ticks(golds):
        x = _LEFT + (_RIGHT - _LEFT) * golds.share(tick)
        parts.append(f'<path d="M{x:.1f} {_BOTTOM}v3" stroke="var(--faint)"/>')
        parts.append(_text(x, _BOTTOM + 13, f"{tick:g}", anchor="middle"))
    for tick in _ticks(cosines):
        y = _BOTTOM - (_BOTTOM - _TOP) * cosines.share(tick)
        parts.append(f'<path d="M{_LEFT - 3} {y:.1f}h3" stroke="var(--faint)"/>')
        parts.append(_text(_LEFT - 5, y + 3.5, f"{tick:g}".replace("-", "−"), anchor="end"))
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 4, "gold", anchor="middle"))
    middle = (_TOP + _BOTTOM) / 2
    parts.append(
        f'<text transform="translate(8 {middle:g}) rotate(-90)" font-size="10.5" text-anchor="middle"'
        ' fill="var(--faint)">cosine</text>'
    )
    return "".join(parts)


def _ticks(scale: Scale) -> list[float]:
    """Round numbers within the scale, three to six of them."""
    step = round_step((scale.high - scale.low) / 5)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _text(x: float, y: float, words: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="10.5" text-anchor="{anchor}" fill="var(--faint)">{words}</text>'


def _line(left: float, right: float, *, top: float, bottom: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{_percent(left)}" x2="{_percent(right)}" y1="{top:g}" y2="{bottom:g}" stroke="{colour}"'
        f' stroke-width="{width:g}"/>'
    )


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"
