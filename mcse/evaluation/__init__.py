"""Published protocols, judged through an encoder's ``encode`` alone. A new suite is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from mcse.distributed import broadcast_object as shared
from mcse.distributed import fail_together, is_main, join_world, world_size
from mcse.evaluation import geometry, mteb_suite, regularities, retrieval, sts, transfer, wordsim
from mcse.evaluation.cache import KeptResult, cache_key, load_result, save_result
from mcse.evaluation.compare import compare
from mcse.evaluation.errors import worst_pairs
from mcse.evaluation.seen_text import contaminated_pairs, seen_by
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions
from mcse.types import Column, ComparedScore, Encoder, SuiteScores, Verdict

SUITES: Mapping[str, Suite] = {
    "sts": sts.SUITE,
    "geometry": geometry.SUITE,
    "transfer": transfer.SUITE,
    "retrieval": retrieval.SUITE,
    "regularities": regularities.SUITE,
    "wordsim": wordsim.SUITE,
    "mteb": mteb_suite.SUITE,
}

__all__ = [
    "SUITES",
    "Column",
    "ComparedScore",
    "Encoder",
    "KeptResult",
    "PreparedSuite",
    "Subject",
    "Suite",
    "SuiteOptions",
    "SuiteScores",
    "Verdict",
    "cache_key",
    "compare",
    "contaminated_pairs",
    "fail_together",
    "is_main",
    "join_world",
    "load_result",
    "save_result",
    "seen_by",
    "shared",
    "world_size",
    "worst_pairs",
]
