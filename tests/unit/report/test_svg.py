"""Small images written as SVG: bars, and pairs by gold and cosine."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from mcse.report.svg import Scale, pair_density, score_bar


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


def test_bars_start_at_zero_and_show_their_interval():
    bar = score_bar(-25.0, scale=Scale(-100, 100), series=7, interval=(-50.0, 0.0))
    assert '<rect x="37.5%" y="3" width="12.5%"' in bar
    assert '<line x1="25%" x2="50%" y1="8" y2="8"' in bar
    assert "var(--series-2)" in bar
    assert '<rect x="0%" y="3" width="100%"' in score_bar(300.0, scale=Scale(0, 100), series=0)
