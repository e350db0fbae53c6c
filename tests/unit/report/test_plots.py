"""Plots are SVG in the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mcse.report.plots import Point, Profile, plot_curves, plot_points, plot_profiles, plot_seeds
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
