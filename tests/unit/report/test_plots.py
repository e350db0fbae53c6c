"""Plots are SVG in the page's colours."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mcse.report.plots import (
    DifferenceLine,
    Point,
    Profile,
    ValueLine,
    plot_curves,
    plot_differences,
    plot_points,
    plot_profiles,
    plot_seeds,
    plot_values,
    standalone,
)
from mcse.report.tables import (
    Curve,
)
from tests.unit.report.test_tables import TABLE


def curves() -> list[Curve]:
    return [Curve(name, (0, 5, 10), (1.0, 2.0 + seed, 3.0)) for name in ("SimCSE", "MCSE") for seed in range(2)]


def test_plots_are_svg_in_the_pages_colours():
    for svg in (plot_curves(curves()), plot_seeds(TABLE)):
        ElementTree.fromstring(svg)
        assert "var(--series-1)" in svg
        assert "var(--series-2)" in svg
        assert not re.search(r"#0[0-9a-f]{5}\b", svg)  # no stand-in is left
    assert "SimCSE" in plot_curves(curves())  # text stays text
    assert plot_curves(curves()) == plot_curves(curves())
    with pytest.raises(ValueError, match="one panel"):
        plot_curves([Curve("a", (1,), (1.0,)), Curve("a", (1,), (1.0,), panel="loss")])


def test_plots_of_points_and_profiles():
    series = {"a": 0, "b": 1}
    points = plot_points(
        [Point(label="a", x=-2.0, y=0.2, x_interval=(-2.1, -1.9)), Point(label="b", x=-2.5, y=0.3)],
        x_label="x",
        y_label="y",
        series=series,
    )
    profiles = plot_profiles(
        [
            Profile(label="a", values=(70.0, None), reaches=(1.0, None)),
            Profile(label="b", values=(60.0, 65.0), reaches=(None, None)),
        ],
        ticks=("1 – 5", "6 – 9"),
        x_label="x",
        y_label="y",
        series=series,
    )
    for svg in (points, profiles):
        ElementTree.fromstring(svg)
        assert {"var(--series-1)", "var(--series-2)"} <= set(re.findall(r"var\(--series-\d\)", svg))
        assert "metadata" not in svg
    assert "6 – 9" in profiles


def test_a_forest_of_differences_and_scores_against_a_number():
    forest = plot_differences(
        [
            DifferenceLine(label="a − b", value=1.0, low=0.5, high=1.5, better=1),
            DifferenceLine(label="a − $c", value=0.1, low=-0.5, high=0.7),
        ],
        x_label="difference",
        names=["b", "a"],
    )
    lines = [
        ValueLine(label="a", series=0, x=(50.0, 500.0), values=(60.0, 70.0), intervals=((59.0, 61.0), None)),
        ValueLine(label="b", series=1, x=(50.0,), values=(62.0,), intervals=(None,)),
    ]
    against = plot_values(lines, x_label="pairs", y_label="score")
    for svg in (forest, against, standalone(forest)):
        ElementTree.fromstring(svg)
    assert "a − b" in forest
    assert "var(--series-2)" in forest  # the better system's
    assert "var(--series-1)" not in forest
    assert {"a is better", "not clear"} <= set(re.findall(r"<text[^>]*>([^<]+)</text>", forest))
    assert "var(--" not in standalone(forest)
    assert standalone(forest).count("<rect") == forest.count("<rect") + 1
    # On a logarithm 50, 158 and 500 are equally far apart.
    near = plot_values(
        [replace(lines[0], x=(50.0, 158.11, 500.0), values=(1.0, 2.0, 3.0), intervals=(None,) * 3)],
        x_label="n",
        y_label="s",
    )
    places = [
        float(x)
        for x in re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="[\d.]+" style="fill: var\(--series-1', near)
    ]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.05)


def test_plots_of_36_systems_do_not_collapse():
    """A legend of 36 long names once took all the height: constrained layout gave up, with a warning."""
    names = [f"runs/sweep/a rather long name of system number {number}" for number in range(36)]
    series = {name: number for number, name in enumerate(names)}
    points = [Point(label=name, x=float(number), y=1.0) for name, number in series.items()]
    profiles = [Profile(label=name, values=(70.0, 71.0), reaches=(None, None)) for name in names]
    lines = [
        ValueLine(label=name, series=n, x=(1.0, 2.0), values=(1.0, 2.0), intervals=(None,) * 2)
        for n, name in enumerate(names)
    ]
    differences = [DifferenceLine(label=name, value=1.0, low=0.5, high=1.5, better=n) for name, n in series.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = [
            plot_points(points, x_label="x", y_label="y", series=series),
            plot_profiles(profiles, ticks=("a", "b"), x_label="x", y_label="y", series=series),
            plot_values(lines, x_label="x", y_label="y"),
            plot_curves([Curve(name, (0, 1), (1.0, 2.0)) for name in names], series=series),
            plot_differences(differences, x_label="d", names=names),
        ]
    for svg in plots:
        drawn = ElementTree.fromstring(svg)
        words = " ".join(drawn.itertext())
        assert all(f"number {number}" in words or f"number\n{number}" in words for number in range(36))
        assert plot_height(svg) > 150


def plot_height(svg: str) -> float:
    """Of the axes in points, by the white patch behind them."""
    path = re.search(r'<g id="patch_2">\s*<path d="([^"]+)"', svg)
    assert path is not None
    y = [float(number) for number in re.findall(r"[ML] [\d.]+ ([\d.]+)", path[1])]
    return max(y) - min(y)
