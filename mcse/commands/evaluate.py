"""``mcse evaluate``: loads each model, runs the suites, prints the tables and writes the reports.

``evaluate.py`` is the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from mcse.commands.evaluated_models import DEFAULT_SUITES, Evaluated, Evaluation, NamedModels, check_models, runner_of
from mcse.commands.evaluation_reports import Reports, list_pairs
from mcse.commands.own_tables import on_default_data, with_tables
from mcse.distributed import is_main, join_world
from mcse.errors import printable
from mcse.evaluation.runner import Runner
from mcse.evaluation.suite import SuiteOptions, TransferMode
from mcse.evaluation.suites import SUITES
from mcse.manifest import Reading, Runtime
from mcse.report.seed_groups import System
from mcse.stored_rows import RowKind


def run(
    models: Sequence[str] = (),
    *,
    suites: Sequence[str] = DEFAULT_SUITES,
    names: Sequence[str] = (),
    pooling: str | None = None,
    data: str | None = None,
    columns: Sequence[str] = (),
    allow_missing: bool = False,
    captions: str | None = None,
    features: str | None = None,
    images: str | None = None,
    contents: str | None = None,
    folds: int = 1,
    transfer_mode: TransferMode = "test",
    tasks: Sequence[str] = (),
    compared: bool = False,
    no_teachers: bool = False,
    errors: int | None = None,
    contamination: bool = False,
    mteb_files: bool = False,
    items: bool = False,
    output: Path | None = None,
    batch_size: int = 64,
    precision: Literal["float32", "bfloat16"] = "float32",
    no_cache: bool = False,
    prompt: str | None = None,
    prompt_name: str | None = None,
    trust_remote_code: bool = False,
    dims: Sequence[int] = (),
    rows: Sequence[RowKind] = (),
    backends: Sequence[Runtime] = (),
    list_suites: bool = False,
) -> int:
    """Evaluates; 0, or the code of a failure, after which others go on; ``ValueError`` for flags that do not fit."""
    join_world()
    options = SuiteOptions(
        data=data,
        allow_missing=allow_missing,
        batch_size=batch_size,
        transfer_mode=transfer_mode,
        captions=captions,
        features=features,
        images=images,
        contents=contents,
        folds=folds,
        tasks=tuple(tasks),
    )
    asked = None if suites is DEFAULT_SUITES else suites
    options, told = (options, "") if data else on_default_data(options, models, asked)
    if list_suites:
        return _list_suites(options, told)
    check_models(models, suites, options, names=names, compared=compared)
    _check_flags(models, suites, errors=errors, mteb_files=mteb_files)
    options = with_tables(options, suites, columns)
    reading = Reading(prompt=prompt, prompt_name=prompt_name, trust_remote_code=trust_remote_code)
    named = NamedModels(models, reading=reading, backends=backends, chosen=dict(zip(models, names, strict=False)))
    named.takes_teachers = not (compared or no_teachers or backends)
    reports = Reports(named, output=output, precision=precision, mteb_files=mteb_files, items=items)
    reports.has_cards = pooling is None and reading == Reading() and not backends
    evaluation = Evaluation(named, reports, default_data=told)
    prepared = runner_of(
        suites, options, pooling=pooling, precision=precision, use_cache=not no_cache, dims=dims, rows=rows
    )
    return _carry_out(evaluation, prepared, reports, is_compared=compared, errors=errors, contamination=contamination)


def _told(told: str, prepared: Callable[[], Runner]) -> Runner:
    """Says what is evaluated on not before the models are known to be there."""
    _tell(told)
    return prepared()


def _tell(told: str) -> None:
    """Says what is evaluated on where no data are named."""
    if told and is_main():
        print(printable(told), file=sys.stderr)


def _carry_out(
    evaluation: Evaluation,
    runner: Callable[[], Runner],
    reports: Reports,
    *,
    is_compared: bool,
    errors: int | None,
    contamination: bool,
) -> int:
    """The exit code."""
    try:
        systems = evaluation.run(partial(_told, evaluation.default_data, runner))
        own = [system for system in systems if system.name not in evaluation.names.teachers]
        if is_main() and own:
            folder = reports.write(_summary(evaluation, systems, is_compared=is_compared))
            list_pairs(own, folder, errors=errors, contamination=contamination)
    except (ValueError, OSError) as error:
        reports.on_failure("", error)
    return max(reports.exit_codes, default=0)


def _summary(evaluation: Evaluation, systems: Sequence[System], *, is_compared: bool) -> Evaluated:
    """As the evaluation's, where a note says why two models cannot be compared."""
    try:
        return evaluation.summary(systems, is_compared=is_compared)
    except ValueError as error:
        found = evaluation.summary(systems, is_compared=False)
        return replace(found, notes=(*found.notes, f"not compared: {error}"))


def _check_flags(models: Sequence[str], suites: Sequence[str], *, errors: int | None, mteb_files: bool) -> None:
    """Those that Python's ``evaluate`` does not have."""
    if errors is not None and not {"sts", "table"} & {*suites}:
        raise ValueError("--errors needs --suite sts or table")
    if errors is not None and (errors < 1 or len(models) > 2):
        raise ValueError("--errors takes a number from 1, and one model or two")
    if mteb_files and "sts" not in suites:
        raise ValueError("--mteb-files needs --suite sts")


def _list_suites(options: SuiteOptions, told: str) -> int:
    _tell(told)
    for suite in SUITES.values():
        try:
            state = f"available: {suite.prepare(options).summary}"
        except (ValueError, OSError) as error:
            state = f"not available: {error}"
        if is_main():
            print(f"{suite.name}\n  needs {suite.needs}\n  {state}")
    return 0
