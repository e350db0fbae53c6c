"""Plots are SVG in the page's colours."""

from __future__ import annotations

import re
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
            DifferenceLine(label="a − b", value=1.0, low=0.5, high=1.5),
            DifferenceLine(label="a − $c", value=0.1, low=-0.5, high=0.7),
        ],
        x_label="difference",
    )
    lines = [
        ValueLine(label="a", x=(50.0, 500.0), values=(60.0, 70.0), intervals=((59.0, 61.0), None)),
        ValueLine(label="b", x=(50.0,), values=(62.0,), intervals=(None,)),
    ]
    against = plot_values(lines, x_label="pairs", y_label="score")
    for svg in (forest, against, standalone(forest)):
        ElementTree.fromstring(svg)
    assert "a − b" in forest
    assert "var(--series-1)" in forest  # clearly not 0
    assert "var(--series-6)" in forest  # not clearly
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
