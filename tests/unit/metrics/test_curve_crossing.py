"""benchmarks/curve_crossing.py: on curves whose crossing is known, and against loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.curve_crossing import BELOW, BEYOND, crossings, differences, run, spread

SIZES = np.array([50.0, 500.0, 5000.0])


def comparison(size, difference, *, sd=1.0, seeds=3, rest="one"):
    name = f"size={size},captions={rest}"
    return {
        "first": f"mcse,{name}",
        "second": f"simcse,{name}",
        "score": "sts.test",
        "difference": difference,
        "p": 0.5,
        "item_sd": 0.5 * sd,
        "first_sd": 2.0 * sd,
        "second_sd": 1.0 * sd,
        "seeds": [seeds, seeds],
    }


def write_study(folder, found):
    rows = [
        {"name": one[side], "system": system, "values": {"size": int(size), "captions": rest}}
        for one in found
        for side, system in (("first", "mcse"), ("second", "simcse"))
        for size, rest in [(part.split("=")[1] for part in one["first"].split(",")[1:])]
    ]
    text = json.dumps({"primary": ["sts.test"], "rows": rows, "comparisons": found})
    (folder / "results.json").write_text(text)
    return json.loads(text)


@pytest.mark.parametrize(
    ("difference_S", "crossing"),
    [
        ([-1, 1, 2], math.sqrt(50 * 500)),
        ([-3, 1, 2], 50 * 10**0.75),
        ([-1, -1, 3], 500 * 10**0.25),
        ([1, 2, 3], BELOW),
        ([-3, -2, -1], BEYOND),
        ([1, 2, -1], BEYOND),
        ([1, -1, 1], math.sqrt(500 * 5000)),
        ([0, 1, 1], 50),
    ],
)
def test_a_curve_crosses_where_it_is_ahead_from_then_on(difference_S, crossing):
    assert crossings(SIZES, np.array([difference_S], float))[0] == pytest.approx(crossing)


def test_crossings_are_those_of_a_fine_grid():
    difference_BS = np.random.default_rng(0).normal(size=(200, 3))
    grid = np.exp(np.linspace(math.log(50), math.log(5000), 20001))
    for found, difference_S in zip(crossings(SIZES, difference_BS), difference_BS, strict=True):
        behind = np.interp(np.log(grid), np.log(SIZES), difference_S) <= 0
        last = grid[behind].max() if behind.any() else BELOW
        assert found == pytest.approx(BEYOND if behind[-1] else last, rel=1e-3)


def test_the_error_is_the_one_of_the_studys_interval():
    """Against scipy's Welch test, where items add nothing."""
    left, right = [50.0, 52.0, 57.0], [49.0, 49.5, 51.0]
    one = comparison(50, 0.0) | {"item_sd": 0.0, "first_sd": np.std(left, ddof=1), "second_sd": np.std(right, ddof=1)}
    error, freedom = spread(one)
    other = stats.ttest_ind(left, right, equal_var=False)
    assert error == pytest.approx((np.mean(left) - np.mean(right)) / other.statistic)
    assert freedom == pytest.approx(other.df)


def test_a_study_with_small_errors_says_where(tmp_path):
    found = [comparison(size, d, sd=1e-6) for size, d in ((5000, 2), (50, -1), (500, 1))]
    found += [comparison(size, d, sd=0.0, rest="five") for size, d in ((50, 1), (500, 1), (5000, 1))]
    write_study(tmp_path, found)
    table = run(tmp_path, first="mcse", second="simcse", factor="size", draws=100)
    assert table[2:] == [
        "| captions one | 158 | 158 to 158 | 0.0 % | 0.0 % |",
        "| captions five | < 50 | < 50 to < 50 | 100.0 % | 0.0 % |",
    ]


def test_noise_widens_the_interval(tmp_path):
    write_study(tmp_path, [comparison(size, d, sd=2.0) for size, d in ((50, -1), (500, 1), (5000, 2))])
    (line,) = run(tmp_path, first="mcse", second="simcse", factor="size", draws=2000)[2:]
    assert "| < 50 to > 5,000 |" in line


def test_what_is_missing_is_said(tmp_path):
    results = write_study(tmp_path, [comparison(50, 1.0), comparison(500, 1.0)])
    with pytest.raises(ValueError, match="no two finished comparisons of simcse and mcse that differ in size alone"):
        differences(results, "simcse", "mcse", "size")
    for value in (0, "many"):
        for row in results["rows"]:
            row["values"]["captions"] = value
        with pytest.raises(ValueError, match=f"captions: a crossing needs positive numbers, got {value}"):
            differences(results, "mcse", "simcse", "captions")
    del results["comparisons"][0]["p"]
    with pytest.raises(ValueError, match="no two finished"):
        differences(results, "mcse", "simcse", "size")
    with pytest.raises(ValueError, match=r"mcse,size=50,captions=one: a crossing needs two seeds or more"):
        spread(comparison(50, 1.0, seeds=1))
