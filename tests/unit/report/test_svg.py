"""Small images written as SVG: bars, and pairs by gold and cosine."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mcse.report.svg import Scale, near_scales, pair_density, score_dot


def test_size_of_the_drawn_pairs():
    generator = np.random.default_rng(0)
    gold_P = generator.uniform(0, 5, 10_000)
    scale = {"cosines": Scale(-1, 1), "golds": Scale(0, 5), "series": 0}
    # Spread over all cells, as no encoder's are: 3 models × 8 tasks of the worst case stay under a megabyte.
    svg = pair_density(generator.uniform(-1, 1, 10_000), gold_P, **scale)
    ElementTree.fromstring(svg)
    assert 3 * 8 * len(svg) < 1_000_000
    few = pair_density(np.array([0.1, 0.5]), np.array([0.0, 5.0]), **scale)
    assert few.count("h0") == 2  # a dot each


def test_cells_count_every_pair_where_it_lies():
    corner = np.repeat([0.0, 1.0], 300)
    svg = pair_density(corner, 5 * corner, cosines=Scale(0, 1), golds=Scale(0, 5), series=1)
    cells = re.findall(r"M(\d+) (\d+)h4v4h-4z", svg)
    assert len(cells) == 2
    (right, top), (left, bottom) = sorted(((int(x), int(y)) for x, y in cells), key=lambda cell: -cell[0])
    assert right > left
    assert top < bottom  # cosine upwards
    assert "var(--series-2)" in svg


def test_a_dot_has_its_interval_and_its_systems_colour():
    dot = score_dot(-25.0, scale=Scale(-100, 100), series=7, interval=(-50.0, 0.0))
    assert '<circle cx="37.5%"' in dot
    assert '<line x1="25%" x2="50%" y1="8" y2="8"' in dot
    assert "var(--series-2)" in dot
    assert '<circle cx="100%"' in score_dot(300.0, scale=Scale(0, 100), series=0)


@pytest.mark.parametrize(
    "charts",
    [
        [[72.1, 72.4], [86.1, 85.4], [78.0]],
        [[10.5, 58.4, 13.7]],
        [[0.0, 0.2]],
        [[-12.3, 4.0], [99.9, 100.0]],
        [[0.71, 0.72]],
        [[120.0, 431.7]],
    ],
)
def test_scales_lie_around_their_numbers_and_are_equally_long(charts):
    scales = near_scales(charts, least_step=0.5)
    assert len({round(scale.high - scale.low, 9) for scale in scales}) == 1
    for numbers, scale in zip(charts, scales, strict=True):
        assert scale.low <= min(numbers)
        assert max(numbers) <= scale.high
        assert scale.low >= 0 or min(numbers) < 0
    widest = max(max(numbers) - min(numbers) for numbers in charts)
    assert scales[0].high - scales[0].low <= max(2.0, 4 * widest)


def test_a_difference_of_one_is_seen():
    """Scores of good models lie within ten points; of 200 pixels a difference of 1 takes 10 or more."""
    (scale,) = near_scales([[72.0, 82.0]], least_step=0.5)
    assert 200 * (scale.share(74.0) - scale.share(73.0)) >= 10
