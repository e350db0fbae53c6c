"""``mcse sweep``: one configuration under several seeds and values, one run folder each, and the best cell on dev.

A *cell* is one combination of ``--set`` values. Finished runs are kept, others go on where they stopped, so the same
command may be given again at any time. Cells are compared by the mean over seeds of each run's best
``train.select_by``, which is a score of the dev set; no test score is looked at.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mcse.commands.configs import config_path
from mcse.commands.launchers import Failure, run_locally
from mcse.commands.planned_runs import (
    OWN_KEYS,
    Cell,
    Planned,
    RunResult,
    hand_to_slurm,
    parse_seeds,
    plan_run,
    refuse_other_settings,
    refuse_twins,
    run_result,
    training_task,
)
from mcse.errors import printable
from mcse.files import claimed, digest_of, write_json, write_text
from mcse.recipes.launch import load_config
from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table
from mcse.run_folder import is_run

SCHEMA = 1
"""Version of ``sweep.json``; raised when a key changes its meaning or goes away."""

_MAX_NAME = 120
_JUDGES = ("train.select_by", "data.sts")


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole sweep. ``select_by`` is the dev score of all cells."""

    config: Path
    output: Path
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    runs: tuple[Planned, ...]
    select_by: str


@dataclass(frozen=True, slots=True)
class CellResult:
    """A cell with its runs in the order of seeds; ``scores`` are those of finished runs."""

    cell: Cell
    runs: tuple[RunResult, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """Best dev scores of the finished runs."""
        return tuple(result.score for result in self.runs if result.state == "finished" and result.score is not None)

    @property
    def is_complete(self) -> bool:
        """Whether every seed has a score, without which cells cannot be compared."""
        return len(self.scores) == len(self.runs)


def run(
    config: str,
    *,
    seeds: str,
    settings: Sequence[str] = (),
    output: Path | None = None,
    launcher: Literal["local", "slurm"] = "local",
    jobs: int | None = None,
) -> int:
    """Plans, trains what is not finished, and reports; returns 0, 1 if runs failed, 130 or 143 if stopped.

    Raises:
        ValueError: Wrong seeds, keys, values or folders, or another sweep of it runs; nothing is started then.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, got {jobs}")
    parsed = parse_settings(settings)
    plan = make_plan(config_path(config), parse_seeds(seeds), settings=parsed, output=output)
    with claimed(plan.output):
        # What lies there is looked at again, now that no other process changes it.
        return _run(make_plan(plan.config, plan.seeds, settings=parsed, output=output), launcher=launcher, jobs=jobs)


def _run(plan: Plan, *, launcher: Literal["local", "slurm"], jobs: int | None) -> int:
    tasks = [training_task(planned) for planned in plan.runs if not planned.is_finished]
    for planned in plan.runs:
        if planned.is_finished:
            print(f"{planned.label}: finished before, skipped", file=sys.stderr)
    if launcher == "slurm" and tasks:
        _write_results(plan, collect(plan, failures={}))
        hand_to_slurm(plan.output / "sweep.sbatch", tasks, jobs=jobs, total=len(plan.runs))
        return 0
    ending = run_locally(tasks, jobs=jobs or 1)
    results = collect(plan, failures=ending.failures)
    _report(plan, results)
    if ending.exit_code:
        print("stopped; the same command goes on", file=sys.stderr)
        return ending.exit_code
    return 0 if all(cell.is_complete for cell in results) else 1


def parse_settings(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUE,VALUE`` arguments as values by key, each as it was written.

    A comma inside brackets or quotes belongs to the value: ``train.trackers=[],[wandb]`` are two.

    Raises:
        ValueError: No ``KEY=``, no value, an unreadable value, a key given twice, a key that a sweep sets itself, or
            several values of a key that says by what runs are evaluated.
    """
    settings: dict[str, tuple[str, ...]] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"--set: {argument!r} is not KEY=VALUE or KEY=VALUE,VALUE")
        if key in settings:
            raise ValueError(f"--set: {key} is given twice; write {key}={','.join(settings[key])},{text}")
        if key in OWN_KEYS:
            raise ValueError(f"--set: {key}: {OWN_KEYS[key]}")
        settings[key] = _values(key, text)
        if key.startswith(_JUDGES) and len(settings[key]) > 1:
            raise ValueError(f"--set: {key}: cells evaluated by different scores cannot be compared; give one value")
    return settings


def make_plan(
    config: Path, seeds: Sequence[int], *, settings: Mapping[str, Sequence[str]], output: Path | None
) -> Plan:
    """Every run of the sweep with its whole configuration, checked against what lies in its folder. Writes nothing.

    Raises:
        ConfigError: A key or value that ``train.py`` would refuse, in the same words.
        ValueError: ``train.select_by`` is null, two cells are the same run, or a folder holds something else.
    """
    combinations = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
    configs = [_load(config, combination, output=output) for combination in combinations]
    top = output if output is not None else Path(configs[0].output_dir)
    select_by = configs[0].train.select_by
    if select_by is None:
        raise ValueError("train.select_by: null, so that there is no dev score to compare cells by")
    refuse_twins(dict(zip(map(_words, combinations), configs, strict=True)), where="--set")
    if is_run(top):
        raise ValueError(f"--output: {top} is a run; a sweep needs a folder of its own, with its runs below")
    names = _cell_names(combinations, varied=[key for key, values in settings.items() if len(values) > 1])
    cells = [
        Cell(name, top / name if name else top, combination)
        for name, combination in zip(names, combinations, strict=True)
    ]
    runs = [plan_run(cell, one, seed) for cell, one in zip(cells, configs, strict=True) for seed in seeds]
    for run in runs:
        refuse_other_settings(run, remedy="give it as it was, or another --output")
    return Plan(config, top, tuple(seeds), tuple(cells), tuple(runs), select_by)


def collect(plan: Plan, *, failures: Mapping[Path, Failure]) -> list[CellResult]:
    """What the run folders say now, cell by cell; ``failures`` says why runs did not finish, as far as known."""
    results = [run_result(run, failures.get(run.folder)) for run in plan.runs]
    return [CellResult(cell, tuple(r for r in results if r.run.cell is cell)) for cell in plan.cells]


def higher_is_better(results: Sequence[CellResult]) -> bool:
    """Which way the runs say that their dev score is better; irrelevant, and true, before any of them has one."""
    said = (run.higher_is_better for cell in results for run in cell.runs)
    return next((higher for higher in said if higher is not None), True)


def select_cell(results: Sequence[CellResult]) -> CellResult | None:
    """The cell with the best mean dev score among those with a score for every seed; the first of equals."""
    sign = 1 if higher_is_better(results) else -1
    complete = [cell for cell in results if cell.is_complete]
    return max(complete, key=lambda cell: sign * statistics.fmean(cell.scores), default=None)


def _values(key: str, text: str) -> tuple[str, ...]:
    """The values of a YAML list without its brackets, each as it stands there."""
    if not text.strip() or text.rstrip().endswith(","):
        raise ValueError(f"--set: {key}={text}: a value is missing")
    listed = f"[{text}]"
    try:
        node = yaml.compose(listed, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"--set: {key}={text}: no list of values ({getattr(error, 'problem', error)})") from None
    assert isinstance(node, yaml.SequenceNode)
    values = tuple(
        str(value.value)
        if isinstance(value, yaml.ScalarNode)
        else listed[value.start_mark.index : value.end_mark.index].strip()
        for value in node.value
    )
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"--set: {key}={text}: {twice[0]} is given twice")
    return values


def _load(config: Path, combination: Mapping[str, str], *, output: Path | None) -> Any:
    overrides = [f"--{key}={value}" for key, value in combination.items()]
    if output is not None:
        overrides.append(f"--output_dir={output}")
    return load_config(config, [*overrides, "--train.resume=auto"])


def _words(combination: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in combination.items())


def _cell_names(combinations: Sequence[Mapping[str, str]], *, varied: Sequence[str]) -> list[str]:
    """``optim.learning_rate=1e-5,loss.temperature=0.05``: folder names of the keys that vary, all different."""
    plain = [_words({key: combination[key] for key in varied}) for combination in combinations]
    names = [re.sub(r"[^\w.,=+-]", "_", name) for name in plain]
    return [
        f"{name[:_MAX_NAME]}-{digest_of(text)[:8]}" if len(name) > _MAX_NAME or names.count(name) > 1 else name
        for name, text in zip(names, plain, strict=True)
    ]


def _report(plan: Plan, results: Sequence[CellResult]) -> None:
    _write_results(plan, results)
    print_table(_table(plan, results), notes=[_selection(plan, results)])
    print(printable(f"wrote {plan.output / 'sweep.json'} and sweep.md"))
    for line in _unfinished(results):
        print(line, file=sys.stderr)


def _write_results(plan: Plan, results: Sequence[CellResult]) -> None:
    higher = higher_is_better(results)
    seeds = tuple(ScoreColumn(f"seed {seed}", higher) for seed in plan.seeds)
    by_seed = ScoreTable(
        title="By seed",
        columns=seeds,
        rows=tuple(ScoreRow(_title(plan, cell), tuple(_finished_score(r) for r in cell.runs)) for cell in results),
        caption=f"Best {plan.select_by} of each finished run.",
        is_contest=False,
    )
    parts = [
        markdown_table(_table(plan, results)),
        f"{_selection(plan, results)}\n",
        markdown_table(by_seed),
        markdown_notes("Not finished", _unfinished(results)),
    ]
    write_text(plan.output / "sweep.md", "\n".join(part for part in parts if part))
    write_json(plan.output / "sweep.json", _as_json(plan, results))


def _table(plan: Plan, results: Sequence[CellResult]) -> ScoreTable:
    higher = higher_is_better(results)
    best = max if higher else min
    rows = tuple(
        ScoreRow(_title(plan, cell), (cell.scores, (best(cell.scores),) if cell.scores else ())) for cell in results
    )
    return ScoreTable(
        title=f"Sweep of {plan.config.name}",
        columns=(ScoreColumn(plan.select_by, higher), ScoreColumn("best seed", higher)),
        rows=rows,
        caption=f"Each run's best {plan.select_by} while training, a score of the dev set: "
        + ("mean ± standard deviation over seeds." if len(plan.seeds) > 1 else "one seed."),
        # A mean over some of the seeds is no rival of one over all of them.
        is_contest=all(cell.is_complete for cell in results),
    )


def _selection(plan: Plan, results: Sequence[CellResult]) -> str:
    chosen = select_cell(results)
    if chosen is None:
        return "Selected: none, since no cell has a score for every seed."
    mean = statistics.fmean(chosen.scores)
    others = [cell for cell in results if cell is not chosen]
    second = select_cell(others)
    lead = (
        f", {abs(mean - statistics.fmean(second.scores)):.2f} better than {_title(plan, second)}, the next"
        if second is not None
        else ""
    )
    left_out = sum(not cell.is_complete for cell in results)
    lacking = f" Left out: {left_out} without a score for every seed." if left_out else ""
    return f"Selected on dev: {_title(plan, chosen)} ({mean:.2f}{lead}).{lacking}"


def _title(plan: Plan, cell: CellResult) -> str:
    lacking = "" if cell.is_complete else f" ({len(cell.scores)} of {len(cell.runs)} runs)"
    return f"{cell.cell.name or plan.config.stem}{lacking}"


def _finished_score(result: RunResult) -> tuple[float, ...]:
    return (result.score,) if result.state == "finished" and result.score is not None else ()


def _unfinished(results: Sequence[CellResult]) -> list[str]:
    return [
        f"{result.run.label}: {' '.join(filter(None, [f'{result.state}:', result.reason])).removesuffix(':')}"
        for cell in results
        for result in cell.runs
        if result.state != "finished" or result.reason
    ]


def _as_json(plan: Plan, results: Sequence[CellResult]) -> dict[str, Any]:
    chosen = select_cell(results)
    higher = higher_is_better(results)
    best = max if higher else min
    return {
        "schema": SCHEMA,
        "config": str(plan.config),
        "select_by": plan.select_by,
        "higher_is_better": higher,
        "seeds": list(plan.seeds),
        "selected": None if chosen is None else {"name": chosen.cell.name, "folder": str(chosen.cell.folder)},
        "cells": [
            {
                "name": cell.cell.name,
                "folder": str(cell.cell.folder),
                "settings": dict(cell.cell.settings),
                "mean": statistics.fmean(cell.scores) if cell.scores else None,
                "sd": statistics.stdev(cell.scores) if len(cell.scores) > 1 else None,
                "best": best(cell.scores) if cell.scores else None,
                "is_complete": cell.is_complete,
                "runs": [
                    {
                        "seed": result.run.seed,
                        "folder": str(result.run.folder),
                        "state": result.state,
                        "score": result.score,
                        "step": result.step,
                        "reason": result.reason,
                    }
                    for result in cell.runs
                ],
            }
            for cell in results
        ],
    }
