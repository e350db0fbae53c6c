"""Faults of every kind, counted: what ``make faults`` runs.

``--kills`` kills one training run again and again (``kills.py``); ``--rounds`` tries races, kills, damage to kept files
and, where a file can be mounted as a file system, power cuts on every command that writes (``rounds.py``); ``--cases``
runs the tests of malformed inputs, security probes and a review's cases (``cases.py``). At the end stands a table of
what was tried and what held.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from tests.faults.cases import run_cases
from tests.faults.kills import kill_a_run, say
from tests.faults.rounds import ROUNDS, Row, bench, can_mount, try_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="of a training run, bit for bit")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="that train together")
    parser.add_argument("--forked", action="store_true", help="kill forks of a process that has imported everything")
    parser.add_argument("--rounds", type=int, default=0, help="of each kind, on each command that writes")
    parser.add_argument("--only", choices=ROUNDS, help="this kind of rounds alone")
    parser.add_argument("--cases", action="store_true", help="malformed inputs, security probes, a review's cases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not (options.kills or options.rounds or options.cases):
        parser.error("nothing to do: give --kills, --rounds or --cases")
    rows: list[Row] = []
    if options.kills:
        kill_a_run(options)
        rows.append(("kill, equal to the end", "train", options.kills, options.kills))
    if options.rounds:
        kinds = [kind for kind in ROUNDS if options.only in (None, kind)]
        if "power cut" in kinds and not can_mount():
            say("no power cuts: files cannot be mounted here; tests/faults/test_faults.py asserts the order of writes")
            kinds.remove("power cut")
        with bench() as place:
            rows += try_all(place, options.rounds, seed=options.seed, kinds=kinds, say=say)
    if options.cases:
        found = run_cases()
        rows += found
        for kind, name, tried, held in found:
            say(f"{kind}: {name}: {held} of {tried}")
    _print(rows)
    return int(any(tried != held for _, _, tried, held in rows))


def _print(rows: Sequence[Row]) -> None:
    tried, held = Counter[str](), Counter[str]()
    for kind, _, many, good in rows:
        tried[kind] += many
        held[kind] += good
    say(f"\n{'kind':<24}{'tried':>8}{'held':>8}")
    for kind, many in tried.items():
        say(f"{kind:<24}{many:>8}{held[kind]:>8}")


if __name__ == "__main__":
    sys.exit(main())
