"""Short names of systems are distinct."""

from __future__ import annotations

import pytest

from mcse.report.seed_groups import short_names


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["sentence-transformers/all-MiniLM-L6-v2"], ["all-MiniLM-L6-v2"]),
        (["runs/mcse/seed0"], ["mcse/seed0"]),
        (["runs/mcse", "runs/simcse/"], ["mcse", "simcse"]),
        (["a/x/seed0", "b/x/seed0", "hub/other"], ["a/x/seed0", "b/x/seed0", "other"]),
        (["/", "."], ["model", "."]),
        (["x" * 40, "x" * 41], ["xxxxxxxxxx…xxxxxxxxxxx", "xxxxxxxx…xxxxxxxxx (2)"]),
    ],
)
def test_short_names_are_distinct(names, short):
    assert short_names(names) == short
    assert all(len(name) <= 22 for name in short)
