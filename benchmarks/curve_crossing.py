"""From which size on is one system ahead of another? The crossing of two curves of a study, with its interval.

    python -m benchmarks.curve_crossing runs/studies/pairs_scenes --first mcse --second simcse --factor images

Reads a study's results.json: the differences between the two systems at each value of a numeric factor, once for each
combination of the other factors. Each difference is drawn anew from Student's t about what was measured, with the
study's standard error (seeds and test items) and Satterthwaite's degrees of freedom, independently of the others,
although they share test items and seeds. Between two sizes a curve of differences is a straight line over the logarithm
of the size. A draw's crossing is the size from which on the first system is ahead up to the largest: below the smallest
size if it is ahead at all of them, and beyond the largest if it is behind there. Prints Markdown.

B draws, S sizes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from mcse.metrics.significance import error_of_means

BELOW, BEYOND = 0.0, np.inf
"""Crossings that lie outside the sizes."""


def crossings(size_S, difference_BS):
    """B sizes from which on the difference is positive; ``BELOW`` and ``BEYOND`` where outside. Sizes ascend."""
    log_S = np.log(size_S)
    found_B = np.full(len(difference_BS), BELOW)
    for left in range(len(size_S) - 1):
        before_B, after_B = difference_BS[:, left], difference_BS[:, left + 1]
        rises_B = (before_B <= 0) & (after_B > 0)
        share_B = np.divide(-before_B, after_B - before_B, out=np.zeros(len(found_B)), where=rises_B)
        crossing_B = np.exp(log_S[left] + share_B * (log_S[left + 1] - log_S[left]))
        found_B = np.where(rises_B, crossing_B, found_B)
    return np.where(difference_BS[:, -1] > 0, found_B, BEYOND)


def spread(comparison):
    """Standard error and degrees of freedom of a comparison of results.json.

    Raises:
        ValueError: A side has one seed.
    """
    seeds = comparison["seeds"]
    if min(seeds) < 2:
        raise ValueError(f"{comparison['first']}: a crossing needs two seeds or more on each side, got {seeds}")
    variances = [comparison["first_sd"] ** 2, comparison["second_sd"] ** 2]
    return error_of_means(variances, seeds, item_variance=comparison["item_sd"] ** 2)


def differences(results, first, second, factor):
    """By the values of the other factors: the comparisons of two systems, by ascending values of ``factor``.

    Raises:
        ValueError: Fewer than two such comparisons have been measured, or a value is no positive number.
    """
    rows = {row["name"]: row for row in results["rows"]}
    found = defaultdict(dict)
    for comparison in results["comparisons"]:
        one, other = rows.get(comparison["first"]), rows.get(comparison["second"])
        if not one or not other or (one["system"], other["system"]) != (first, second):
            continue
        if comparison["score"] != results["primary"][0] or factor not in one["values"] or "p" not in comparison:
            continue
        if one["values"] == other["values"]:
            rest = {name: value for name, value in one["values"].items() if name != factor}
            found[", ".join(f"{name} {value}" for name, value in rest.items())][one["values"][factor]] = comparison
    for value in {value for by_size in found.values() for value in by_size}:
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{factor}: a crossing needs positive numbers, got {value}")
    curves = {rest: dict(sorted(by_size.items())) for rest, by_size in found.items() if len(by_size) > 1}
    if not curves:
        raise ValueError(f"no two finished comparisons of {first} and {second} that differ in {factor} alone")
    return curves


def run(study, *, first, second, factor, draws):
    """The table, as lines of Markdown."""
    results = json.loads((study / "results.json").read_text(encoding="utf-8"))
    lines = [
        f"| {factor} from which {first} is ahead | median | 95 % interval | below the smallest | beyond the largest |"
    ]
    lines += ["|---|---|---|---|---|"]
    generator = np.random.default_rng(0)
    for rest, curve in differences(results, first, second, factor).items():
        size_S = np.array([*curve], float)
        columns = []
        for comparison in curve.values():
            error, freedom = spread(comparison)
            columns.append(comparison["difference"] + error * stats.t.ppf(generator.random(draws), freedom))
        found_B = crossings(size_S, np.stack(columns, axis=1))
        low, middle, high = np.quantile(found_B, [0.025, 0.5, 0.975], method="inverted_cdf")
        said = [_said(value, size_S) for value in (middle, low, high)]
        shares = [f"{100 * np.mean(found_B == outside):.1f} %" for outside in (BELOW, BEYOND)]
        lines.append(f"| {rest or 'all'} | {said[0]} | {said[1]} to {said[2]} | {shares[0]} | {shares[1]} |")
    return lines


def _said(value, size_S):
    if value == BELOW:
        return f"< {size_S[0]:,.0f}"
    return f"> {size_S[-1]:,.0f}" if value == BEYOND else f"{value:,.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--first", required=True)
    parser.add_argument("--second", required=True)
    parser.add_argument("--factor", required=True)
    parser.add_argument("--draws", type=int, default=100_000)
    given = parser.parse_args()
    print("\n".join(run(given.study, first=given.first, second=given.second, factor=given.factor, draws=given.draws)))


if __name__ == "__main__":
    main()
