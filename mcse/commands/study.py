"""``mcse study``: a declared experiment, from its YAML file to a report; the same command goes on where it stopped.

Trains every cell under every seed, evaluates every run, tests the declared comparisons and writes the report of what is
there. What was declared before the first run is kept, so that a later change is seen.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.commands.launchers import MCSE, Ending, Failure, Task, run_locally
from mcse.commands.planned_runs import Planned, hand_to_slurm, refuse_other_settings, training_task
from mcse.commands.studies.cells import (
    Pair,
    Places,
    Row,
    StudyCell,
    check_commands,
    evaluation_command,
    evaluation_folder,
    is_evaluated,
    mark_evaluated,
    plan_runs,
    row_commands,
    study_cells,
    study_pairs,
    study_rows,
)
from mcse.commands.studies.declaration import Preparation, Study, read_study
from mcse.commands.studies.history import declare, note_cpu, read_history, replace_run
from mcse.errors import printable
from mcse.files import claimed, write_json
from mcse.reading import read_json
from mcse.run_folder import is_run, read_run


@dataclass(slots=True)
class _Work:
    """A study with all that its declaration stands for."""

    study: Study
    file: Path
    places: Places
    cells: list[StudyCell]
    rows: list[Row]
    pairs: list[Pair]
    failures: dict[Path, Failure] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.places.output


def run(
    study: str,
    *,
    output: Path | None = None,
    jobs: int | None = None,
    launcher: Literal["local", "slurm"] = "local",
    only: Sequence[str] = (),
    dry_run: bool = False,
    again: bool = False,
    report: bool = False,
) -> int:
    """Goes on with a study; returns 0, 1 if something is missing at the end, 130 or 143 if stopped.

    Raises:
        ValueError: A wrong declaration, a folder that holds something else, or another command of it runs.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, got {jobs}")
    work = _read(study, output)
    chosen = _chosen(work, only)
    if dry_run:
        _foretell(work, chosen)
        return 0
    with claimed(work.output):
        if report:
            if read_history(work.output).declarations:
                declare(work.study, [cell.name for cell in work.cells], work.output)
            return _finish(work, chosen)
        if code := _prepare(work):
            return code
        return _go_on(work, chosen, jobs=jobs, launcher=launcher, again=again)


def _read(given: str, output: Path | None) -> _Work:
    study, file = read_study(given)
    places = Places.below(output or Path("runs/studies") / study.name.replace(" ", "_"))
    if is_run(places.output):
        raise ValueError(f"--output: {places.output} is a run; a study needs a folder of its own")
    check_commands(study)
    cells = study_cells(study)
    rows = study_rows(study, cells, places)
    return _Work(study, file, places, cells, rows, study_pairs(study, rows))


def _chosen(work: _Work, only: Sequence[str]) -> list[Row]:
    """The rows that ``--only`` names by row or system; all without it."""
    for name in only:
        if not any(name in (row.name, row.system) for row in work.rows):
            raise ValueError(f"--only: no row {name!r}; there is {', '.join(row.name for row in work.rows)}")
    return [row for row in work.rows if not only or {row.name, row.system} & {*only}]


def _go_on(
    work: _Work, chosen: Sequence[Row], *, jobs: int | None, launcher: Literal["local", "slurm"], again: bool
) -> int:
    runs = _runs(work)
    names = {row.name for row in chosen}
    mine = [one for one in runs if one.cell.name in names]
    if not again:
        for one in mine:
            refuse_other_settings(one, remedy="put it back, or give --again to move that run away and train it anew")
    others = [one for one in mine if one.differences]
    declare(work.study, [cell.name for cell in work.cells], work.output)
    for one in others:
        replace_run(one, work.output)
    tasks, evaluations = _tasks(work, chosen, _runs(work) if others else runs)
    if launcher == "slurm" and (training := [task for task in tasks if not task.work]):
        hand_to_slurm(work.output / "study.sbatch", training, jobs=jobs, total=len(mine))
        return 0
    ending = _start(work, tasks, evaluations, jobs=jobs or 1)
    code = _finish(work, chosen)
    if ending.exit_code:
        print("stopped; the same command goes on", file=sys.stderr)
    return ending.exit_code or code


def _runs(work: _Work) -> list[Planned]:
    return plan_runs(work.study, work.file, work.cells, work.places)


def _tasks(
    work: _Work, chosen: Sequence[Row], runs: Sequence[Planned]
) -> tuple[list[Task], dict[Path, tuple[Row, int, int]]]:
    """What is left to do, seed by seed; and of each evaluation by its folder its row, place of the seed, and number."""
    evaluations: dict[Path, tuple[Row, int, int]] = {}

    def left(row: Row, place: int) -> tuple[Task, ...]:
        tasks = []
        for number, evaluation in enumerate(work.study.evaluations):
            if is_evaluated(row, place, evaluation, work.places):
                continue
            words = [work.places.fill(word, seed=row.seed(place)) for word in evaluation_command(row, evaluation)]
            folder = evaluation_folder(row, place, evaluation, work.places)
            evaluations[folder] = row, place, number
            tasks.append(Task(f"{row.label(place)} {evaluation.name}", folder, (*MCSE, *words)))
        return tuple(tasks)

    rows = {row.name: row for row in chosen}
    tasks = [
        task for row in chosen if row.cell is None for place in range(len(row.models)) for task in left(row, place)
    ]
    for one in runs:
        if (row := rows.get(one.cell.name)) is None:
            continue
        after = left(row, row.seeds.index(one.seed))
        if one.is_finished:
            tasks += after
        else:
            training = training_task(one)
            tasks.append(Task(training.label, training.folder, then=after))
    return tasks, evaluations


def _start(work: _Work, tasks: Sequence[Task], evaluations: dict[Path, tuple[Row, int, int]], *, jobs: int) -> Ending:
    rows = {Path(model): row.name for row in work.rows for model in row.models}

    def note(task: Task, seconds: float, is_done: bool) -> None:
        if not task.work:
            note_cpu(work.output, task.label, "training", seconds, row=rows[task.folder], is_done=is_done)
            return
        row, place, number = evaluations[task.folder]
        note_cpu(work.output, task.label, "evaluation", seconds, row=row.name, is_done=is_done)
        if is_done:
            mark_evaluated(row, place, work.study.evaluations[number], work.places)

    ending = run_locally(tasks, jobs=jobs, on_end=note)
    work.failures |= ending.failures
    return ending


@dataclass(frozen=True, slots=True)
class _Prepared:
    command: str


def _prepare(work: _Work) -> int:
    """Runs the commands of which the file is not there; returns what the first says that fails, or 0."""
    for preparation in work.study.prepare:
        if _is_prepared(work, preparation):
            if not (record := _record(work, preparation)).is_file():
                there = _made(work, preparation)
                print(printable(f"prepare {preparation.name}: {there} was there already"), file=sys.stderr)
                write_json(record, {"command": preparation.run})
            continue
        words = [work.places.fill(word) for word in shlex.split(preparation.run)]
        task = Task(f"prepare {preparation.name}", work.output / "prepared" / preparation.name, (*MCSE, *words))
        ending = run_locally(
            [task],
            jobs=1,
            on_end=lambda task, seconds, is_done: note_cpu(
                work.output, task.label, "preparation", seconds, is_done=is_done
            ),
        )
        if ending.exit_code or ending.failures:
            return ending.exit_code or 1
        made = _made(work, preparation)
        if not _is_made(made):
            raise ValueError(f"prepare, {preparation.name}: {made} is missing, though the command has ended well")
        write_json(_record(work, preparation), {"command": preparation.run})
    return 0


def _is_prepared(work: _Work, preparation: Preparation) -> bool:
    made, record = _made(work, preparation), _record(work, preparation)
    if not _is_made(made):
        return False
    if record.is_file() and (before := read_json(record, _Prepared).command) != preparation.run:
        raise ValueError(
            f"prepare, {preparation.name}: {made} was made by mcse {before}; put that back, or delete the file"
        )
    return True


def _made(work: _Work, preparation: Preparation) -> Path:
    # Without "..", which leads nowhere while the folder before it is not there: $OUTPUT/../shared.
    return Path(work.places.fill(preparation.makes)).resolve()


def _is_made(path: Path) -> bool:
    """Whether a file is there, or, of the folder of a run, whether nothing of it is left to train."""
    return read_run(path).state == "finished" if is_run(path) else path.exists()


def _record(work: _Work, preparation: Preparation) -> Path:
    return work.output / "prepared" / f"{preparation.name}.json"


def _finish(work: _Work, chosen: Sequence[Row]) -> int:
    """Writes the report of what is there; 0 if nothing of the chosen rows is missing."""
    # Here, since a wrong declaration should be told before seconds of imports.
    from mcse.commands.studies.report import write_report

    started = time.process_time()
    missing = write_report(
        work.study, work.cells, work.rows, work.pairs, work.places, file=work.file, failures=work.failures
    )
    if read_history(work.output).declarations:
        note_cpu(work.output, "report", "report", time.process_time() - started)
    names = {"", *(row.name for row in chosen)}
    lacking = [sentence for name, sentence in missing if name in names]
    for sentence in lacking:
        print(printable(sentence), file=sys.stderr)
    return 1 if lacking else 0


def _foretell(work: _Work, chosen: Sequence[Row]) -> None:
    """Prints the cells, how much of each is done, and their commands."""
    runs, study = _runs(work), work.study
    print(printable(f"{study.name}: {study.question.strip()}"))
    print(f"OUTPUT={shlex.quote(str(work.output))}")
    for preparation in study.prepare:
        state = "done" if _is_prepared(work, preparation) else "to do"
        print(printable(f"\nprepare {preparation.name}: {state}\n  mcse {preparation.run}"))
    for row in chosen:
        places = range(len(row.models))
        of = len(places)
        own = [one for one in runs if one.cell.name == row.name]
        trained = f"{sum(one.is_finished for one in own)} of {of} trained, " if row.cell is not None else ""
        done = [
            f"{sum(is_evaluated(row, place, one, work.places) for place in places)} of {of} evaluated ({one.name})"
            for one in study.evaluations
        ]
        print(printable(f"\n{row.name}: {trained}{', '.join(done)}"))
        for one in own:
            for key, (old, new) in one.differences.items():
                print(printable(f"  {one.label} was trained with {key} = {old!r}, not {new!r}"))
        for line in row_commands(study, row, work.file):
            print(printable(f"  {line}"))
