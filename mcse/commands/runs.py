"""``mcse runs``: the run folders below a folder, how far each is, its dev score, and its STS average where evaluated.

Runs side by side that differ only in their seed are one group, with mean ± standard deviation over the finished ones.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mcse.errors import in_words, printable
from mcse.reading import FiniteNumber, read_json
from mcse.report.tables import ABSENT, cell_text
from mcse.run_folder import EVALUATION, RESULTS, RunFolder, differing_keys, find_runs, read_run

SCHEMA = 1
"""Version of the JSON; raised when a key changes its meaning or goes away."""

_DECIMALS = 2
_WITHOUT_SCORES = 5
"""Columns that are always shown; one of scores is left out where no run has such a score."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run and its STS average, Spearman × 100; ``None`` where it was not evaluated."""

    run: RunFolder
    sts_average: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Runs side by side that differ only in their seed, in the order of seeds; one run alone is a group too."""

    parent: Path
    members: tuple[Listed, ...]

    @property
    def finished(self) -> tuple[Listed, ...]:
        """Those whose numbers will not change any more."""
        return tuple(member for member in self.members if member.run.state == "finished")

    @property
    def dev_scores(self) -> tuple[float, ...]:
        """Best dev scores of the finished runs."""
        return tuple(member.run.best[1] for member in self.finished if member.run.best is not None)

    @property
    def sts_averages(self) -> tuple[float, ...]:
        """STS averages of the finished runs that were evaluated."""
        return tuple(member.sts_average for member in self.finished if member.sts_average is not None)


def run(folders: Sequence[Path] = (Path("runs"),), *, as_json: bool = False) -> int:
    """Prints what was found; returns 0, or 1 if folders could not be read.

    Raises:
        FileNotFoundError: A folder is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {folder}; name the folder of your runs")
    listed, unreadable = list_runs(folders)
    groups = group_seeds(listed)
    if as_json:
        print(json.dumps(_as_json(groups, unreadable), indent=2, ensure_ascii=False, allow_nan=False))
    elif listed:
        _print(groups)
    elif not unreadable:
        print(printable(f"no run folders below {', '.join(str(folder) for folder in folders)}"))
    for path, reason in unreadable.items():
        print(printable(f"mcse runs: cannot read {path}: {reason}"), file=sys.stderr)
    return 1 if unreadable else 0


def list_runs(folders: Sequence[Path]) -> tuple[list[Listed], dict[Path, str]]:
    """Every run at or below the folders, each once, and what could not be read, with reasons.

    A run whose ``evaluation/results.json`` is damaged is listed without its average, and that file is named.
    """
    listed: list[Listed] = []
    unreadable: dict[Path, str] = {}
    seen: set[Path] = set()
    for top in folders:
        found, failed = find_runs(top)
        unreadable |= failed
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                one = read_run(folder)
            except Exception as error:  # whatever lies in a folder, the others are listed
                unreadable[folder] = in_words(error)
                continue
            listed.append(_with_average(one, unreadable))
    return listed, unreadable


def group_seeds(listed: Sequence[Listed]) -> list[Group]:
    """The runs grouped, in the order in which each group's first run is listed."""
    groups: list[list[Listed]] = []
    for one in listed:
        home = next((group for group in groups if _belongs(one, group)), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    return [
        Group(members[0].run.folder.parent, tuple(sorted(members, key=lambda member: member.run.seed or 0)))
        for members in groups
    ]


def _belongs(one: Listed, group: Sequence[Listed]) -> bool:
    """Whether a run is a further seed of the group; the same seed again is no further draw."""
    first = group[0].run
    return (
        one.run.folder.parent == first.folder.parent
        and all(one.run.seed != member.run.seed for member in group)
        and not differing_keys(one.run.config, first.config, across_seeds=True)
    )


@dataclass(frozen=True, slots=True)
class _Results:
    """What is listed of ``results.json``."""

    scores: dict[str, dict[str, dict[str, FiniteNumber]]]


def _with_average(one: RunFolder, unreadable: dict[Path, str]) -> Listed:
    path = one.folder / EVALUATION / RESULTS
    if not path.is_file():
        return Listed(one, None)
    try:
        scores = read_json(path, _Results).scores
        return Listed(one, scores.get("sts", {}).get("average", {}).get("spearman"))
    except (ValueError, OSError) as error:
        unreadable[path] = f"damaged, or no file of evaluate.py ({error})"
        return Listed(one, None)


def _print(groups: Sequence[Group]) -> None:
    """A table for each dev score that runs are selected by."""
    criteria = dict.fromkeys(group.members[0].run.select_by for group in groups)
    for criterion in criteria:
        _print_table([group for group in groups if group.members[0].run.select_by == criterion], criterion)


def _print_table(groups: Sequence[Group], criterion: str | None) -> None:
    top = Path(os.path.commonpath([group.parent.absolute() for group in groups]))
    rows: list[tuple[tuple[str, ...], str]] = []
    for group in groups:
        if len(group.members) > 1:
            rows.append((_summary(group, _below(group.parent, top)), "bold"))
            rows += [(_row(member, f"  {member.run.folder.name}"), "") for member in group.members]
        else:
            rows.append((_row(group.members[0], _below(group.members[0].run.folder, top)), ""))
    title = Text(printable(f"Runs below {top}"), style="table.title")
    grid = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    grid.collapse_padding, grid.pad_edge = True, False
    headings = ("run", "recipe", "seed", "steps", "state", f"best {criterion or ''}", "STS average")
    shown = [
        number
        for number in range(len(headings))
        if number < _WITHOUT_SCORES or any(cells[number] != ABSENT for cells, _ in rows)
    ]
    for number in shown:
        heading = headings[number]
        is_text = heading in ("run", "state")
        # Names and states may take several lines, numbers may not.
        width = None if is_text else max(len(cells[number]) for cells, _ in rows)
        grid.add_column(
            Text(printable(heading)), justify="left" if is_text else "right", overflow="fold", min_width=width
        )
    for cells, style in rows:
        grid.add_row(*(Text(printable(cells[number]), style=style) for number in shown))
    console = Console()
    if not console.is_terminal:
        # A file has no width.
        console.width = console.measure(grid, options=console.options.update(width=10_000)).maximum
    console.print(grid)


def _below(folder: Path, top: Path) -> str:
    return str(folder.absolute().relative_to(top))


def _row(listed: Listed, name: str) -> tuple[str, ...]:
    run = listed.run
    seed = ABSENT if run.seed is None else str(run.seed)
    steps = f"{run.steps}/{run.total_steps if run.total_steps is not None else '?'}"
    dev = ABSENT if run.best is None else f"{run.best[1]:.{_DECIMALS}f} @{run.best[0]}"
    average = ABSENT if listed.sts_average is None else f"{listed.sts_average:.{_DECIMALS}f}"
    return name, run.recipe, seed, steps, _state(run), dev, average


def _state(run: RunFolder) -> str:
    if run.state != "running or killed" or run.updated is None:
        return run.state
    return f"{run.state}, last number {_ago(time.time() - run.updated)} ago"


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _summary(group: Group, name: str) -> tuple[str, ...]:
    return (
        name,
        group.members[0].run.recipe,
        f"{len(group.members)} seeds",
        "",
        f"{len(group.finished)} of {len(group.members)} finished",
        _mean(group.dev_scores, group),
        _mean(group.sts_averages, group),
    )


def _mean(values: Sequence[float], group: Group) -> str:
    """Mean ± standard deviation, and of how many where some of the group have no number."""
    of = f" (of {len(values)})" if 0 < len(values) < len(group.members) else ""
    return cell_text(values, decimals=_DECIMALS) + of


def _as_json(groups: Sequence[Group], unreadable: Mapping[Path, str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runs": [_run_as_json(member) for group in groups for member in group.members],
        "groups": [_group_as_json(group) for group in groups if len(group.members) > 1],
        "unreadable": [{"path": str(path), "reason": reason} for path, reason in unreadable.items()],
    }


def _run_as_json(listed: Listed) -> dict[str, Any]:
    run = listed.run
    step, value = run.best or (None, None)
    return {
        "folder": str(run.folder),
        "recipe": run.recipe,
        "seed": run.seed,
        "steps": run.steps,
        "total_steps": run.total_steps,
        "state": run.state,
        "select_by": run.select_by,
        "dev_score": value,
        "dev_step": step,
        "sts_average": listed.sts_average,
        "updated": run.updated,
    }


def _group_as_json(group: Group) -> dict[str, Any]:
    return {
        "folder": str(group.parent),
        "runs": [str(member.run.folder) for member in group.members],
        "finished": len(group.finished),
        **_spread("dev_score", group.dev_scores),
        **_spread("sts_average", group.sts_averages),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_mean": statistics.fmean(values) if values else None,
        f"{name}_sd": statistics.stdev(values) if len(values) > 1 else None,
    }
