"""Published protocols, judged through an encoder's ``encode`` alone. A new suite is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from mcse.distributed import is_main, join_world, world_size
from mcse.evaluation import sts
from mcse.evaluation.suite import Column, PreparedSuite, Suite, SuiteOptions, SuiteScores

SUITES: Mapping[str, Suite] = {"sts": sts.SUITE}

__all__ = [
    "SUITES",
    "Column",
    "PreparedSuite",
    "Suite",
    "SuiteOptions",
    "SuiteScores",
    "is_main",
    "join_world",
    "world_size",
]
