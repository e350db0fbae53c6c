"""The suites by name. A new suite is one file in this folder and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from mcse.evaluation.suite import Suite
from mcse.evaluation.suites import geometry, mteb_tasks, regularities, retrieval, sts, table, transfer, wordsim

SUITES: Mapping[str, Suite] = {
    "sts": sts.SUITE,
    "table": table.SUITE,
    "geometry": geometry.SUITE,
    "transfer": transfer.SUITE,
    "retrieval": retrieval.SUITE,
    "regularities": regularities.SUITE,
    "wordsim": wordsim.SUITE,
    "mteb": mteb_tasks.SUITE,
}
