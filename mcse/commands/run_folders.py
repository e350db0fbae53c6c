"""Reading run folders: how far a run is, in which state, and its dev scores. Nothing here changes a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcse.config import read_yaml
from mcse.training.state import saved_states

RunState = Literal["finished", "stopped", "running or killed"]
"""``stopped`` saved when it was asked to stop; of the third nobody can say from the files which of the two it is."""

_MARKS = ("config.yaml", "run.json", "metrics.jsonl")
_LOWER_IS_BETTER = frozenset({"alignment", "uniformity", "loss", "perplexity", "median_rank"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What the files of a run say.

    ``config`` is ``config.yaml``, nested. ``steps``: the last step in ``metrics.jsonl``; ``total_steps``: of the whole
    run, ``None`` before ``run.json`` is written. ``scores``: step and value of ``select_by``, in order. ``updated``:
    when the last number was written, in seconds since 1970.
    """

    folder: Path
    config: Mapping[str, Any]
    state: RunState
    steps: int
    total_steps: int | None
    select_by: str | None
    scores: tuple[tuple[int, float], ...]
    updated: float | None

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.config["recipe"])

    @property
    def seed(self) -> int | None:
        """The seed; ``None`` where the configuration names none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the best dev score, the first of several; ``None`` without a score."""
        if self.select_by is None or not self.scores:
            return None
        sign = 1 if higher_is_better(self.select_by) else -1
        return max(self.scores, key=lambda score: sign * score[1])


def higher_is_better(score: str) -> bool:
    """Which way a score such as ``stsb_dev.spearman`` is better, by its metric: run folders do not write it down."""
    return score.rsplit(".", 1)[-1] not in _LOWER_IS_BETTER


def looks_like_a_run(folder: Path) -> bool:
    """Whether it holds one of the files that a run writes at its start."""
    return any((folder / name).is_file() for name in _MARKS)


def read_run(folder: Path) -> RunFolder:
    """Reads a run folder.

    Raises:
        ValueError: ``config.yaml`` is missing, or a file is damaged: which, with the line.
        OSError: A file cannot be read.
    """
    config = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    if config is None:
        raise ValueError(f"{folder}: no config.yaml")
    train = config.get("train")
    if not isinstance(train, dict) or "recipe" not in config:
        raise ValueError(f"{folder / 'config.yaml'}: no run's configuration (it lacks recipe or train)")
    select_by = train.get("select_by")
    entries = _read_metrics(folder / "metrics.jsonl")
    steps = max((entry["step"] for entry in entries), default=0)
    total_steps = _total_steps(folder / "run.json")
    return RunFolder(
        folder=folder,
        config=config,
        state=_state(folder, steps=steps, total_steps=total_steps),
        steps=steps,
        total_steps=total_steps,
        select_by=select_by,
        scores=tuple(
            (entry["step"], float(entry[select_by]))
            for entry in entries
            if select_by is not None and isinstance(entry.get(select_by), int | float)
        ),
        updated=(folder / "metrics.jsonl").stat().st_mtime if entries else None,
    )


def find_run_folders(top: Path) -> tuple[list[Path], dict[Path, str]]:
    """Folders at and below ``top`` that look like runs, in order, and folders that could not be entered, with reasons.

    Links are followed, each folder is visited once, and nothing inside a run is looked at.
    """
    found: list[Path] = []
    failed: dict[Path, str] = {}
    visited: set[Path] = set()

    def note(error: OSError) -> None:
        failed[Path(error.filename)] = error.strerror or str(error)

    for name, below, _ in os.walk(top, followlinks=True, onerror=note):
        folder = Path(name)
        if folder.resolve() in visited:
            below.clear()
            continue
        visited.add(folder.resolve())
        if looks_like_a_run(folder):
            found.append(folder)
            below.clear()
    return sorted(found), failed


def _state(folder: Path, *, steps: int, total_steps: int | None) -> RunState:
    """A run that was stopped has last/ too, so only the step of its saved state tells it from a finished one."""
    states = saved_states(folder / "state")
    saved = int(states[-1].name.removeprefix("step-")) if states else steps
    if not (folder / "last").is_dir():
        return "running or killed"
    if total_steps is not None and saved >= total_steps and (folder / "best").is_dir():
        return "finished"
    # Numbers later than the saved state: it was resumed, and nothing is known of it since.
    return "stopped" if saved >= steps else "running or killed"


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            # A kill cuts the last line short; the run itself drops it on resuming.
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: no JSON ({error.msg})") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            raise ValueError(f"{path}, line {number}: no entry with a step")
        entries.append(entry)
    return entries


def _total_steps(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["facts"]["steps"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or no file of ours ({error})") from error
    if not isinstance(steps, int):
        raise ValueError(f"{path}: facts.steps is {steps!r}, not a number of steps")
    return steps
