"""What a study's folder remembers: every declaration since the first run, runs that were replaced, and CPU seconds.

``study.json`` holds declarations with dates and changes, and runs that were replaced; ``cpu.jsonl`` a line for each
process that was started and has ended.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcse.commands.planned_runs import Planned
from mcse.commands.studies.declaration import Study, folder_name
from mcse.config import to_dict
from mcse.files import append_line, digest_of, move, read_lines, write_json
from mcse.origin import machine, now
from mcse.reading import FiniteNumber, parse_json, read_json
from mcse.run_folder import differing_keys, is_run, read_run

SCHEMA = 1
HISTORY, CPU = "study.json", "cpu.jsonl"

Changes = dict[str, list[Any]]
"""By key what it was and what it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A declaration, and what had been done when it was first seen.

    Attributes:
        date: When it was first run, in UTC.
        digest: Of its canonical form.
        declaration: All its keys.
        cells: Names of its cells.
        changes: From the declaration before.
        finished: How many runs were finished then.
        removed: Cells that the declaration before had, with how many of their runs were finished.
    """

    date: str
    digest: str
    declaration: dict[str, Any]
    cells: list[str]
    changes: Changes = field(default_factory=dict)
    finished: int = 0
    removed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A run that was trained anew under another configuration, by ``--again``."""

    date: str
    run: str
    moved_to: str
    changes: Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that ``study.json`` holds."""

    schema: int = SCHEMA
    declarations: list[Declared] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A process that has ended: what it did for which run, and its CPU seconds with those of its own processes."""

    label: str
    row: str
    kind: str
    seconds: FiniteNumber
    is_done: bool
    machine: str


def read_history(output: Path) -> History:
    """What was declared so far.

    Raises:
        ValueError: The file is damaged.
    """
    path = output / HISTORY
    return read_json(path, History) if path.is_file() else History()


def canonical(study: Study) -> str:
    """The declaration as one text, whatever the order of its keys and the layout of its file."""
    return json.dumps(to_dict(study), sort_keys=True, ensure_ascii=False)


def declare(study: Study, cells: Sequence[str], output: Path) -> History:
    """Writes the declaration down, if it is another than the last.

    The first is what was declared before the first run. Each later one is a change.
    """
    history = read_history(output)
    digest = digest_of(canonical(study))
    if history.declarations and history.declarations[-1].digest == digest:
        return history
    changes: Changes = {}
    removed: dict[str, int] = {}
    before = history.declarations[-1].cells if history.declarations else []
    finished = {cell: _finished(output / folder_name(cell)) for cell in dict.fromkeys([*before, *cells])}
    if history.declarations:
        last = history.declarations[-1]
        differing = differing_keys(by_name(last.declaration), by_name(to_dict(study)), ignored=())
        changes = {key: list(values) for key, values in differing.items()}
        removed = {cell: finished[cell] for cell in before if cell not in cells}
    entry = Declared(
        date=now(),
        digest=digest,
        declaration=to_dict(study),
        cells=list(cells),
        changes=changes,
        finished=sum(finished.values()),
        removed=removed,
    )
    return _write(output, History(declarations=[*history.declarations, entry], replaced=history.replaced))


def _finished(cell: Path) -> int:
    """How many runs below a cell's folder are finished."""
    count = 0
    for folder in cell.glob("seed*"):
        with contextlib.suppress(ValueError, OSError):  # a damaged run is for planning to refuse
            count += is_run(folder) and read_run(folder).state == "finished"
    return count


def replace_run(run: Planned, output: Path) -> None:
    """Moves a run that was trained otherwise out of the way, and writes down that and why."""
    history = read_history(output)
    target = output / "replaced" / f"{run.folder.parent.name}-{run.folder.name}-{len(history.replaced)}"
    entry = Replaced(
        date=now(),
        run=run.label,
        moved_to=target.relative_to(output).as_posix(),
        changes={key: list(values) for key, values in run.differences.items()},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(output, History(declarations=history.declarations, replaced=[*history.replaced, entry]))
    move(run.folder, target)


def by_name(tree: Any) -> Any:
    """A declaration with its lists of groups as mappings by name, so that it can be compared key by key."""
    if isinstance(tree, list) and tree and all(isinstance(one, dict) for one in tree):
        named = ("name", "first", "second")
        return {_title(one): by_name({key: one[key] for key in one if key not in named}) for one in tree}
    return {key: by_name(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _title(group: Mapping[str, Any]) -> str:
    if "first" in group:
        return f"{group['first']} − {group['second']}"
    return str(group.get("name", group.get("value")))


def note_cpu(output: Path, label: str, kind: str, seconds: float, *, row: str = "", is_done: bool = True) -> None:
    """Adds a line for a process that has ended, for a row of the report or for all."""
    spent = Spent(label=label, row=row, kind=kind, seconds=seconds, is_done=is_done, machine=machine())
    append_line(output / CPU, json.dumps(asdict(spent), ensure_ascii=False))


def read_cpu(output: Path) -> list[Spent]:
    """All lines; one that a kill cut short is left out."""
    spent = []
    for line in read_lines(output / CPU) if (output / CPU).is_file() else ():
        try:
            spent.append(parse_json(line, Spent, where=CPU))
        except ValueError:
            continue
    return spent


def _write(output: Path, history: History) -> History:
    write_json(output / HISTORY, asdict(history))
    return history
