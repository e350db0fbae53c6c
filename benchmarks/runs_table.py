"""Rows of a table, each a configuration under several seeds: trained, evaluated and compared; what is done is kept."""

from __future__ import annotations

import json
import logging
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mcse.commands.demo import IMPORTS
from mcse.commands.planned_runs import Cell, plan_run, refuse_other_settings
from mcse.recipes.launch import load_config, train

_RESUMES = ("--output_dir", ".", "--train.resume", "auto")


def slug(row: str) -> str:
    """A row's name as a folder's."""
    return "".join(letter if letter.isalnum() else "_" for letter in row)


def flags(keys: Mapping[str, Any]) -> list[str]:
    """Keys of a configuration as they are given on a command line."""
    texts = {key: str(value) if isinstance(value, str | Path) else json.dumps(value) for key, value in keys.items()}
    return [text for key, value in texts.items() for text in (f"--{key}", value)]


def train_rows(jobs: Mapping[tuple[str, int], Sequence[str]], output: Path, *, processes: int) -> None:
    """Trains the runs that are not finished, each below ``output`` in a folder of its row and seed.

    Args:
        jobs: By row and seed the arguments of ``mcse train``, without seed and folder.
        output: The parent of the rows' folders.
        processes: At a time.

    Raises:
        ValueError: A run that lies there was trained otherwise.
    """
    runs = [
        plan_run(Cell(row, output / slug(row)), load_config(Path(given[0]), [*given[1:], *_RESUMES]), seed)
        for (row, seed), given in jobs.items()
    ]
    for run in runs:
        refuse_other_settings(run, remedy="move that run away to train it anew")
    left = [run for run in runs if not run.is_finished]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(_train, run.config) for run in left]
        for number, (run, future) in enumerate(zip(left, futures, strict=True), start=1):
            if code := future.result():
                raise SystemExit(f"{run.label} ended with {code}")
            print(f"{number} of {len(left)}: {run.label}", flush=True)


def scores_of(models: Sequence[str], output: Path, *given: str) -> dict[str, Any]:
    """Scores of models and of all seeds below parents, as ``mcse evaluate`` writes them."""
    _evaluate(models, output, *given)
    systems = json.loads((output / "comparison.json").read_text())["models"]
    return {one["model"]: one["scores"] for system in systems for one in (system, *system.get("seeds", ()))}


def compare(first: str, second: str, output: Path, *given: str) -> Any:
    """``mcse evaluate --compare`` of two parents of seeds, or of one and a model."""
    _evaluate([first, second], output, *given, "--compare")
    return json.loads((output / "comparison.json").read_text())


def _evaluate(models: Sequence[str], output: Path, *given: str) -> None:
    command = [sys.executable, "-m", "mcse", "evaluate", *models, "--output", str(output), *given]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def mean_and_spread(found: Sequence[float]) -> str:
    """Over seeds."""
    return f"{statistics.mean(found):.2f} ± {statistics.stdev(found) if len(found) > 1 else 0.0:.2f}"


def difference(comparison: Any, *, suite: str, task: str) -> str:
    """First less second in Spearman × 100, with interval, p, and the smallest difference that would be seen."""
    asked = (suite, task, "spearman")
    entries = comparison["comparison"]["scores"]
    [found] = [entry for entry in entries if (entry["suite"], entry["task"], entry["metric"]) == asked]
    p = "< 0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"
    interval = f"{found['low']:+.2f} to {found['high']:+.2f}"
    return f"{found['difference']:+.2f} | {interval} | {p} | {found['smallest']:.2f}"


def _train(config: Any) -> int:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    return train(config, overwrite=False, show_progress=False)
