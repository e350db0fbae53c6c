"""How long the bootstrap behind one interval takes, and what memory, by the number of scored pairs.

    OMP_NUM_THREADS=1 python -m benchmarks.bootstrap [--pairs 20000 200000]

1,000 draws of pairs with gold in steps of a tenth. CPU seconds; memory is the peak above what was resident before, each
number of pairs in a process of its own. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mcse.evaluation.uncertainty import replicate
from mcse.types import Sample, ScoreKey

STATISTICS = ("spearman", "pearson", "mean", "median")


def memory(name: str) -> float:
    """MiB; ``VmHWM`` is the peak, ``VmRSS`` what is resident now."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def measure(pairs: int) -> dict[str, float]:
    draw = np.random.default_rng(0)
    value_P = draw.standard_normal(pairs)
    gold_P = np.round(value_P + draw.standard_normal(pairs), 1)
    before, figures = memory("VmRSS"), {}
    for statistic in STATISTICS:
        sample = Sample(statistic=statistic, value_P=value_P, gold_P=gold_P)
        started = time.process_time()
        assert len(replicate(sample, ScoreKey("pairs", "own", statistic))) == 1000
        figures[f"{pairs:,} pairs, {statistic}, seconds"] = time.process_time() - started
    figures[f"{pairs:,} pairs, MiB"] = memory("VmHWM") - before
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for pairs in options.pairs:
        if options.here:
            figures |= measure(pairs)
        else:
            command = [sys.executable, "-m", "benchmarks.bootstrap", "--here", "--pairs", str(pairs)]
            figures |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
