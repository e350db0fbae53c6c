"""Published protocols, judged through an encoder's ``encode`` alone. A new suite is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from mcse.distributed import is_main, join_world, world_size
from mcse.evaluation import sts
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions
from mcse.types import Column, SuiteScores, Verdict

SUITES: Mapping[str, Suite] = {"sts": sts.SUITE}

__all__ = [
    "SUITES",
    "Column",
    "PreparedSuite",
    "Subject",
    "Suite",
    "SuiteOptions",
    "SuiteScores",
    "Verdict",
    "is_main",
    "join_world",
    "world_size",
]
