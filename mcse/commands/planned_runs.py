"""Runs of one command side by side: seeds, folders, what lies there already, and how each ended.

``mcse sweep`` and ``mcse study`` plan by it. A *cell* is one configuration; its runs are its seeds.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcse.commands.launchers import Failure, Task, last_line, submit, write_slurm_script
from mcse.config import to_dict, to_yaml, with_defaults
from mcse.errors import printable
from mcse.files import write_text
from mcse.run_folder import RunFolder, differing_keys, is_run, read_run

_MAX_SEEDS = 1000

OWN_KEYS = {
    "seed": "seeds are given apart, as seeds",
    "output_dir": "--output says where runs lie",
    "train.resume": "such runs always resume",
}
"""Keys of a configuration that no cell can set, with the reason."""


def seed_name(seed: int | str) -> str:
    """The folder of a seed's run, and what messages call it."""
    return f"seed{seed}"


def run_label(cell: str, seed: int) -> str:
    """A run in messages, tables of CPU time and logs."""
    return f"{cell} {seed_name(seed)}".strip()


@dataclass(frozen=True, slots=True)
class Cell:
    """One configuration and the parent of its runs; ``name`` is empty where it is the only one.

    ``settings``: the values of keys, as they were given, by which it differs from the others.
    """

    name: str
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Planned:
    """One run: its whole configuration, and what lies in its folder already (``None``: nothing)."""

    cell: Cell
    seed: int
    config: Any
    before: RunFolder | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.cell.folder / seed_name(self.seed)

    @property
    def label(self) -> str:
        """The run in messages."""
        return run_label(self.cell.name, self.seed)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.before is not None and self.before.state == "finished"

    @property
    def differences(self) -> Mapping[str, tuple[Any, Any]]:
        """Keys by which the run that lies there was trained otherwise, with what they were and what they are now."""
        if self.before is None:
            return {}
        return differing_keys(with_defaults(self.before.config, type(self.config)), to_dict(self.config))


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run afterwards: ``score`` is its best on dev, ``reason`` why it has none or is not finished.

    ``higher_is_better`` is the score's direction as the run wrote it; ``None`` without a score.
    """

    run: Planned
    state: str
    score: float | None
    step: int | None
    reason: str | None
    higher_is_better: bool | None = None


def parse_seeds(text: str, *, key: str = "--seeds") -> tuple[int, ...]:
    """``0-4``, ``3`` or ``0,2,5-7`` as numbers in the order given; ``key`` is where they were given.

    Raises:
        ValueError: Another form, a range that counts down, a seed that is given twice, or more than 1000 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if match is None:
            raise ValueError(f"{key}: {part.strip()!r} in {text!r} is no seed; write 0-4 or 0,2,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{key}: {part.strip()!r} counts down; write {last}-{first}")
        if len(seeds) + last - first >= _MAX_SEEDS:
            raise ValueError(f"{key}: {text!r} is more than {_MAX_SEEDS} seeds")
        for seed in range(first, last + 1):
            if seed in seeds:
                raise ValueError(f"{key}: {seed} is given twice in {text!r}")
            seeds.append(seed)
    return tuple(seeds)


def plan_run(cell: Cell, config: Any, seed: int) -> Planned:
    """The run of a cell under a seed, with its whole configuration and what lies in its folder.

    Raises:
        ValueError: Its folder is a file or holds something that is no run, or a run whose files are damaged.
    """
    folder = Planned(cell, seed, None).folder
    whole = dataclasses.replace(config, seed=seed, output_dir=folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is needed there")
    if not folder.is_dir() or not any(folder.iterdir()):
        return Planned(cell, seed, whole)
    if not is_run(folder):
        raise ValueError(f"{folder} is not empty and holds no run (no config.yaml); give another --output")
    return Planned(cell, seed, whole, read_run(folder))


def refuse_other_settings(run: Planned, *, remedy: str) -> None:
    """Refuses a run whose folder holds one that was trained otherwise.

    Raises:
        ValueError: It does: names the first key that differs.
    """
    for key, (old, new) in run.differences.items():
        raise ValueError(f"{run.folder} was trained with {key} = {old!r}, not {new!r}; {remedy}")


def refuse_twins(configs: Mapping[str, Any], *, where: str) -> None:
    """Refuses two cells, by their names, that have the same configuration.

    Raises:
        ValueError: There are two.
    """
    seen: dict[str, str] = {}
    for name, config in configs.items():
        if (other := seen.setdefault(to_yaml(config), name)) != name:
            raise ValueError(f"{where}: {other} and {name} are the same run")


def training_task(run: Planned) -> Task:
    """Writes the whole configuration of a run, so that later edits of the file do not matter, and returns its task."""
    task = Task(run.label, run.folder)
    write_text(task.config, to_yaml(run.config))
    return task


def hand_to_slurm(script: Path, tasks: Sequence[Task], *, jobs: int | None, total: int) -> None:
    """Writes the script of the runs that are not finished, of ``total``, submits it where that can be, and says so."""
    for task in tasks:
        if task.log.is_file() and (said := last_line(task.log)):
            print(printable(f"{task.label}: not finished; the last line of {task.log}: {said}"), file=sys.stderr)
    write_slurm_script(script, tasks, jobs=jobs)
    answer = submit(script)
    print(printable(f"wrote {script}: {len(tasks)} of {total} runs are not finished"))
    print(answer if answer is not None else f"there is no sbatch here; submit it with: sbatch {script}")
    print("when the jobs have ended, give the same command again: it makes the table, or goes on with what is left")


def run_result(planned: Planned, failure: Failure | None) -> RunResult:
    """What the run folder says now; ``failure`` says why it did not finish, as far as known."""
    state, reason = (failure.state, failure.reason) if failure is not None else (None, None)
    if not is_run(planned.folder):
        return RunResult(planned, state or "not started", None, None, reason)
    try:
        found = read_run(planned.folder)
    except (ValueError, OSError) as error:
        return RunResult(planned, state or "failed", None, None, reason or str(error))
    step, score = found.best or (None, None)
    if found.state == "finished":
        lacking = None if score is not None else f"finished without a {found.select_by}"
        return RunResult(planned, "finished", score, step, lacking, found.higher_is_better)
    return RunResult(planned, state or found.state, score, step, reason, found.higher_is_better)
