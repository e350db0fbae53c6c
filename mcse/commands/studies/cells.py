"""The cells of a study, the commands of each, and the comparisons by cell.

Commands are kept as they are declared, with ``$OUTPUT``, ``$MCSE_DATA`` and ``$SEED`` in them, so that a report can be
read elsewhere; ``Places`` puts the values in.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, NoReturn

from mcse.commands.arguments import COMMANDS
from mcse.commands.command_line import Command
from mcse.commands.configs import config_path
from mcse.commands.planned_runs import Cell, Planned, plan_run, refuse_twins, run_label, seed_name
from mcse.commands.studies.declaration import (
    BASELINE,
    CONTROLS,
    EACH,
    Comparison,
    Evaluation,
    Reference,
    Study,
    TrainedSystem,
    Value,
    flat_settings,
    folder_name,
    listed,
)
from mcse.files import digest_of, sha256_file, write_json
from mcse.manifest import MANIFEST
from mcse.reading import read_json
from mcse.recipes.launch import load_config
from mcse.run_folder import BEST, EVALUATION

_MAX_NAME = 200
_OWN_FOLDERS = ("prepared", "references", "replaced")
_DONE = "study.json"
"""In the folder of an evaluation."""


@dataclass(frozen=True, slots=True)
class Places:
    """What stands for ``$OUTPUT`` and ``$MCSE_DATA``."""

    output: Path
    data: str | None

    @classmethod
    def below(cls, output: Path) -> Places:
        """With the data folder of this process's environment."""
        return cls(output, os.environ.get("MCSE_DATA"))

    def fill(self, text: str, *, seed: int | None = None) -> str:
        """The text with the values put in.

        Raises:
            ValueError: It names something else, or what is not known here.
        """
        known = {"OUTPUT": str(self.output), "MCSE_DATA": self.data, "SEED": None if seed is None else str(seed)}
        try:
            return Template(text).substitute({name: value for name, value in known.items() if value is not None})
        except KeyError as error:
            name = error.args[0]
            reason = "is not set here" if name in known else f"is none of {', '.join(f'${each}' for each in known)}"
            raise ValueError(f"{text!r}: ${name} {reason}; $$ is a dollar") from None
        except ValueError:
            raise ValueError(f"{text!r}: a $ without a name; $$ is a dollar") from None


@dataclass(frozen=True, slots=True)
class StudyCell:
    """A system at one value of each of its factors.

    ``settings``: keys of its configuration with what they are set to, as a command line writes them.
    """

    name: str
    system: TrainedSystem
    values: Mapping[str, Value]
    settings: Mapping[str, str]

    @property
    def folder_name(self) -> str:
        """Below the study's folder."""
        return folder_name(self.name)

    @property
    def model(self) -> str:
        """The run under ``$SEED``."""
        return f"$OUTPUT/{self.folder_name}/{seed_name('$SEED')}"

    @property
    def flags(self) -> list[str]:
        """Of ``mcse train``, by which the cell differs from its configuration."""
        return [f"--{key}={value}" for key, value in self.settings.items()]

    def command(self, study_file: Path) -> list[str]:
        """Of ``mcse``: trains the cell under ``$SEED``."""
        own = ["--seed=$SEED", f"--output_dir={self.model}", "--train.resume=auto"]
        return ["train", "--config", str(config_of(self.system, study_file)), *self.flags, *own]


def config_of(system: TrainedSystem, study_file: Path) -> Path | str:
    """The configuration of a system as a command names it."""
    return system.config if system.config.startswith("mcse:") else study_file.parent / system.config


def study_cells(study: Study) -> list[StudyCell]:
    """Every system at every combination of its factors' values, without those that it leaves out.

    Raises:
        ValueError: None is left of a system, or a name is too long for a folder's.
    """
    cells: list[StudyCell] = []
    for system in study.systems:
        factors = [one for one in study.factors if system.factors is None or one.name in system.factors]
        own = []
        for combination in itertools.product(*(factor.settings.items() for factor in factors)):
            texts = {factor.name: text for factor, (text, _) in zip(factors, combination, strict=True)}
            if _is_left_out(system, texts):
                continue
            settings = {**flat_settings(study.base), **flat_settings(system.set)}
            for _, (_, keys) in combination:
                settings |= flat_settings(keys)
            name = ",".join([system.name, *(f"{factor}={text}" for factor, text in texts.items())])
            if len(name) > _MAX_NAME:
                raise ValueError(f"cells: {name[:40]}… is longer than {_MAX_NAME} letters; shorten names of factors")
            values = {factor.name: value for factor, (_, (value, _)) in zip(factors, combination, strict=True)}
            own.append(StudyCell(name, system, values, {key: _typed(value) for key, value in settings.items()}))
        if not own:
            raise ValueError(f"systems, {system.name}: only and skip leave no cell of it")
        cells += own
    by_folder: dict[str, str] = {}
    for cell in cells:
        if cell.folder_name.casefold() in _OWN_FOLDERS:
            raise ValueError(f"cells: {cell.name}: a study has a folder of that name itself; choose another")
        if (other := by_folder.setdefault(cell.folder_name.casefold(), cell.name)) != cell.name:
            raise ValueError(f"cells: {other} and {cell.name} would have the same folder; rename one of them")
    return cells


def _is_left_out(system: TrainedSystem, texts: Mapping[str, str]) -> bool:
    if any(texts[factor] not in listed(values) for factor, values in system.only.items()):
        return True
    return bool(system.skip) and all(texts[factor] in listed(values) for factor, values in system.skip.items())


def _typed(value: Any) -> str:
    """A value as it is typed on the command line: a text as it stands, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plan_runs(study: Study, study_file: Path, cells: Sequence[StudyCell], places: Places) -> list[Planned]:
    """Every run with its whole configuration and what lies in its folder, seed by seed.

    Raises:
        ConfigError: A key or value that ``mcse train`` would refuse, in the same words.
        ValueError: Two cells are the same run, or a folder holds something else.
    """
    by_cell: dict[str, list[Planned]] = {}
    first: dict[str, Any] = {}
    for cell in cells:
        home = Cell(cell.name, places.output / cell.folder_name)
        path = config_path(str(config_of(cell.system, study_file)))
        for seed in study.seed_numbers:
            flags = [places.fill(flag, seed=seed) for flag in cell.flags]
            try:
                config = load_config(path, [*flags, f"--output_dir={places.output}", "--train.resume=auto"])
            except ValueError as error:
                raise type(error)(f"{cell.name}: {error}") from None
            first.setdefault(cell.name, config)
            by_cell.setdefault(cell.name, []).append(plan_run(home, config, seed))
    refuse_twins(first, where="cells")
    return [run for several in zip(*by_cell.values(), strict=True) for run in several]


@dataclass(frozen=True, slots=True)
class Row:
    """What is evaluated: a cell, or a reference; ``seeds`` are empty of a reference without any."""

    name: str
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    cell: StudyCell | None = None
    reference: Reference | None = None
    is_control: bool = False

    @property
    def values(self) -> Mapping[str, Value]:
        """Of its factors."""
        return self.cell.values if self.cell is not None else {}

    @property
    def system(self) -> str:
        """The name without the factors' values."""
        return self.cell.system.name if self.cell is not None else self.name

    def seed(self, place: int) -> int | None:
        """The seed of one of the models."""
        return self.seeds[place] if self.seeds else None

    def label(self, place: int) -> str:
        """One of the models in messages and in tables of CPU time."""
        return run_label(self.name, self.seeds[place]) if self.seeds else self.name


def study_rows(study: Study, cells: Sequence[StudyCell], places: Places) -> list[Row]:
    """The rows of the report: cells in their order, then references."""
    seeds = study.seed_numbers
    rows = [
        Row(
            cell.name,
            tuple(places.fill(cell.model, seed=seed) for seed in seeds),
            seeds,
            cell=cell,
            is_control=cell.system.name in study.controls,
        )
        for cell in cells
    ]
    for reference in study.references:
        has_seeds = "SEED" in Template(reference.model).get_identifiers()
        own = seeds if has_seeds else ()
        models = tuple(places.fill(reference.model, seed=seed) for seed in (own or (None,)))
        rows.append(Row(reference.name, models, own, reference=reference))
    return rows


def evaluation_folder(row: Row, place: int, evaluation: Evaluation, places: Places) -> Path:
    """Where the scores of a row's model go: of a run into its own folder."""
    return Path(places.fill(_evaluation_output(row, evaluation), seed=row.seed(place)))


def _evaluation_output(row: Row, evaluation: Evaluation) -> str:
    if row.cell is not None:
        return f"{row.cell.model}/{EVALUATION}/{evaluation.name}"
    seed = seed_name("$SEED") if row.seeds else "model"
    return f"$OUTPUT/references/{folder_name(row.name)}/{seed}/{evaluation.name}"


def evaluation_command(row: Row, evaluation: Evaluation) -> list[str]:
    """Of ``mcse``: evaluates a row under ``$SEED``."""
    if row.cell is not None:
        model, own = row.cell.model, []
    else:
        assert row.reference is not None
        model, own = row.reference.model, shlex.split(row.reference.flags)
    kept = ["--no-teachers", "--items", "--output", _evaluation_output(row, evaluation)]
    return ["evaluate", model, *shlex.split(evaluation.flags), *own, *kept]


@dataclass(frozen=True, slots=True)
class _Done:
    """What stands beside the scores: the command that found them, as declared, and a digest of the model."""

    command: list[str]
    model: str


def is_evaluated(row: Row, place: int, evaluation: Evaluation, places: Places) -> bool:
    """Whether a model's scores are there, found by what is declared now for the model that lies there now."""
    path = evaluation_folder(row, place, evaluation, places) / _DONE
    try:
        return path.is_file() and read_json(path, _Done) == _done(row, place, evaluation)
    except ValueError:
        return False


def mark_evaluated(row: Row, place: int, evaluation: Evaluation, places: Places) -> None:
    """Notes by what command, and for which model, the scores were found."""
    path = evaluation_folder(row, place, evaluation, places) / _DONE
    write_json(path, asdict(_done(row, place, evaluation)))


def _done(row: Row, place: int, evaluation: Evaluation) -> _Done:
    return _Done(evaluation_command(row, evaluation), _model_digest(Path(row.models[place])))


def _model_digest(model: Path) -> str:
    """What changes when a local model does: its manifest, or else size and date of its files; empty of any other."""
    for manifest in (model / BEST / MANIFEST, model / MANIFEST):
        if manifest.is_file():
            return sha256_file(manifest)
    files = sorted(model.iterdir()) if model.is_dir() else [model] if model.is_file() else []
    facts = [(path.name, path.stat()) for path in files if path.is_file()]
    return digest_of(*(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in facts)) if facts else ""


def check_commands(study: Study) -> None:
    """Parses what ``mcse`` will be called with.

    Raises:
        ValueError: A flag that it does not take, or a reported score of a suite that is not evaluated.
    """
    for preparation in study.prepare:
        parse_command(shlex.split(preparation.run), where=f"prepare, {preparation.name}")
    extra = {"": "", **{f", {one.name}": one.flags for one in study.references}}
    for evaluation in study.evaluations:
        for label, flags in extra.items():
            words = ["evaluate", "MODEL", *shlex.split(evaluation.flags), *shlex.split(flags)]
            given = parse_command(words, where=f"evaluations, {evaluation.name}{label}")
            for name in ("output", "compared", "items"):
                if name in given:
                    raise ValueError(f"evaluations, {evaluation.name}: leave out --{name}, which the study gives")
        suites = parse_command(["evaluate", *shlex.split(evaluation.flags)], where="").get("suites", ["sts"])
        for score in evaluation.scores:
            if not any(score.split(".")[0].startswith(suite) for suite in suites):
                names = ", ".join(suites)
                raise ValueError(f"evaluations, {evaluation.name}: {score} is of none of its suites {names}")


class _Parser(ArgumentParser):
    """Refuses by an exception."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_command(words: Sequence[str], *, where: str) -> dict[str, Any]:
    """What a command of ``mcse`` is given, by the parameters of its work; of ``train``, nothing is looked at.

    Raises:
        ValueError: There is no such command, or it does not take these words.
    """
    command = COMMANDS.get(words[0]) if words else None
    if not isinstance(command, Command):
        names = [name for name, one in COMMANDS.items() if isinstance(one, Command)]
        raise ValueError(f"{where}: {' '.join(words[:1])!r} is no command of mcse; there is {', '.join(names)}")
    if words[0] == "train":
        return {}
    parser = _Parser(prog=words[0], allow_abbrev=False, add_help=False, argument_default=None)
    command.arguments(parser)
    try:
        found = vars(parser.parse_args(words[1:]))
    except ValueError as error:
        raise ValueError(f"{where}: mcse {shlex.join(words)}: {error}") from None
    return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows whose difference is tested."""

    first: Row
    second: Row
    family: str

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.first.name} − {self.second.name}"


def study_pairs(study: Study, rows: Sequence[Row]) -> list[Pair]:
    """The declared comparisons, row by row.

    Raises:
        ValueError: A name stands for no row, no two rows of a comparison have the same values, or a pair is double.
    """
    pairs: list[Pair] = []
    for number, comparison in enumerate(study.comparisons):
        where = f"comparisons[{number}]"
        for one in _spelt_out(study, comparison, where):
            found = _matching(one, rows, where)
            if not found:
                raise ValueError(f"{where}: no cell of {one.first} has the values of one of {one.second}")
            pairs += found
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        both = frozenset((pair.first.name, pair.second.name))
        if both in seen:
            raise ValueError(f"comparisons: {pair.first.name} and {pair.second.name} are compared twice")
        seen.add(both)
    return pairs


def _spelt_out(study: Study, comparison: Comparison, where: str) -> list[Comparison]:
    """With the names that ``each``, ``baseline`` and ``controls`` stand for."""
    ours = [one.name for one in study.systems if one.name != study.baseline and one.name not in study.controls]
    firsts = ours if comparison.first == EACH else [comparison.first]
    seconds = [comparison.second]
    if comparison.second == BASELINE:
        if study.baseline is None:
            raise ValueError(f"{where}: there is no baseline; give baseline, or second")
        seconds = [study.baseline]
    elif comparison.second == CONTROLS:
        if not study.controls:
            raise ValueError(f"{where}: there are no controls; give controls, or another second")
        seconds = list(study.controls)
    return [replace(comparison, first=first, second=second) for first in firsts for second in seconds]


def _matching(comparison: Comparison, rows: Sequence[Row], where: str) -> list[Pair]:
    (firsts, pinned_first), (seconds, pinned_second) = (
        _selected(name, rows, where) for name in (comparison.first, comparison.second)
    )
    free = pinned_first & pinned_second
    return [
        Pair(first, second, comparison.family)
        for first in firsts
        for second in seconds
        if first.name != second.name
        and all(
            first.values[factor] == second.values[factor]
            for factor in first.values.keys() & second.values.keys()
            if factor not in free
        )
    ]


def _selected(name: str, rows: Sequence[Row], where: str) -> tuple[list[Row], set[str]]:
    """The rows that a name of a comparison stands for, and the factors whose values it gives."""
    system, *given = name.split(",")
    texts = dict(part.split("=", 1) for part in given if "=" in part)
    found = [
        row
        for row in rows
        if row.system == system
        and all(factor in row.values and value in listed(row.values[factor]) for factor, value in texts.items())
    ]
    if not found or len(texts) < len(given):
        names = ", ".join(dict.fromkeys(row.system for row in rows))
        raise ValueError(f"{where}: {name!r} names no row; there is {names}, with factors as in {rows[0].name!r}")
    return found, set(texts)


def row_commands(study: Study, row: Row, file: Path) -> list[str]:
    """What trains and evaluates a row, under each ``$SEED`` where it has seeds, as typed in a shell."""
    commands = [row.cell.command(file)] if row.cell is not None else []
    commands += [evaluation_command(row, evaluation) for evaluation in study.evaluations]
    lines = [shell(["mcse", *command]) for command in commands]
    return [f"for SEED in {' '.join(map(str, row.seeds))}; do", *lines, "done"] if row.seeds else lines


def shell(words: Sequence[str]) -> str:
    """A command as it is typed in a shell in which OUTPUT, MCSE_DATA and SEED are set."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if "$" not in word:
        return shlex.quote(word)
    inner = re.sub(r'[\\"`]', r"\\\g<0>", word).replace("$$", "\\$")
    return f'"{inner}"'
