"""The declaration of a study: its keys, read strictly, with every name checked before anything runs. No torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcse.commands.configs import config_path
from mcse.commands.planned_runs import OWN_KEYS, parse_seeds
from mcse.config import build_config, read_yaml
from mcse.config_fields import plain

Value = int | float | str

EACH, BASELINE, CONTROLS = "each", "baseline", "controls"
_NAME = re.compile(r"\w[\w.+()% -]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSystem:
    """A system to be trained: a configuration, and what differs from it."""

    name: str
    """What the report calls it."""

    config: str
    """Its configuration: ``mcse:NAME``, or a path from the study's file."""

    set: dict[str, Any] = field(default_factory=dict)
    """Keys of the configuration with their values here."""

    factors: tuple[str, ...] | None = None
    """The factors that it is crossed with; ``null`` is all."""

    only: dict[str, Any] = field(default_factory=dict)
    """By factor the values, or the one, at which there is such a cell; all others are left out."""

    skip: dict[str, Any] = field(default_factory=dict)
    """By factor values; a cell that has one of them for every factor named here is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A value of a factor, and what it sets."""

    value: Value
    """What the report calls it; where all are numbers, scores are plotted against them."""

    set: dict[str, Any] = field(default_factory=dict)
    """Keys of the configuration with their values here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Factor:
    """What is varied for every system: a key with its values, or levels that set several keys."""

    name: str
    """What the report calls it."""

    key: str | None = None
    """The key of the configuration that ``values`` are of."""

    values: tuple[Value, ...] = ()
    """Values of ``key``."""

    levels: tuple[Level, ...] = ()
    """In place of ``key`` and ``values``: what each value sets."""

    def __post_init__(self) -> None:
        if (self.key is None) != (not self.values) or bool(self.values) == bool(self.levels):
            raise ValueError(f"factor {self.name}: give key and values, or levels; a factor needs values")

    @property
    def settings(self) -> Mapping[str, tuple[Value, Mapping[str, Any]]]:
        """By the text of each value the value, and the keys that it sets."""
        if self.key is not None:
            return {plain(value): (value, {self.key: value}) for value in self.values}
        return {plain(level.value): (level.value, level.set) for level in self.levels}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A model that is evaluated beside the systems and not trained."""

    name: str
    """What the report calls it."""

    model: str
    """As ``mcse evaluate`` takes it; with ``$SEED`` in it there is one for each seed."""

    flags: str = ""
    """Of ``mcse evaluate`` for this model alone, such as ``--pooling mean``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One call of ``mcse evaluate`` for each run, and what is reported of it."""

    name: str
    """Its folder in a run's ``evaluation/``."""

    flags: str
    """Of ``mcse evaluate``, as typed in a shell: ``--suite sts geometry --data $MCSE_DATA/senteval``."""

    scores: tuple[str, ...]
    """The reported numbers: ``suite.task.metric``, or two parts of it where they name one headline number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two systems whose difference is tested; with factors, cell by cell at the same values."""

    first: str
    """A system, reference or cell (``mcse,pairs=50``), or ``each``: all systems but the baseline and controls."""

    second: str = BASELINE
    """What it is compared with: the same, or ``baseline``, or ``controls``: each of them."""

    family: str = "declared"
    """Comparisons of one family are corrected together, by Holm's method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """A command that makes what runs need, once."""

    name: str
    """What messages call it."""

    run: str
    """A command of ``mcse``, as typed in a shell after ``mcse``."""

    makes: str
    """The file that it writes last; or the folder of a run, which is done when it is finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A declared experiment.

    In every text ``$OUTPUT`` is the study's folder, ``$MCSE_DATA`` the data folder and ``$SEED`` a run's seed; ``$$``
    is a dollar.
    """

    name: str
    """The title, and the folder's name below ``runs/studies``."""

    question: str
    """What is asked, in words."""

    seeds: str | int
    """Seeds of every cell, such as ``0-4`` or ``0,2,5``."""

    systems: tuple[TrainedSystem, ...]
    """What is trained."""

    evaluations: tuple[Evaluation, ...]
    """How every run is evaluated, and which numbers are reported; the first is the primary score."""

    baseline: str | None = None
    """The system that others are compared with."""

    controls: tuple[str, ...] = ()
    """Systems that should gain nothing, such as MCSE on shuffled images."""

    base: dict[str, Any] = field(default_factory=dict)
    """Keys of all configurations with their values here; a system's and a factor's own win, in this order."""

    factors: tuple[Factor, ...] = ()
    """What is varied, crossed with the systems and with each other."""

    references: tuple[Reference, ...] = ()
    """Models that are evaluated and not trained, such as teachers."""

    comparisons: tuple[Comparison, ...] = ()
    """What is tested, fixed before it runs."""

    primary: tuple[str, ...] = ()
    """The scores that the families are corrected over; without any the first that is reported."""

    difference: float = 0.5
    """The difference worth seeing: the report says how many seeds would show it."""

    prepare: tuple[Preparation, ...] = ()
    """Commands that are run first, in this order, where what they make is not there."""

    def __post_init__(self) -> None:
        parse_seeds(str(self.seeds), key="seeds")
        names = [*(one.name for one in self.systems), *(one.name for one in self.references)]
        for key, several in {
            "systems, references": names,
            "factors": [one.name for one in self.factors],
            "evaluations": [one.name for one in self.evaluations],
            "prepare": [one.name for one in self.prepare],
        }.items():
            _check_names(key, several)
        _check_names("name", [self.name])
        if not self.systems:
            raise ValueError("systems: none is given")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline: {_unknown(self.baseline, names)}")
        for name in self.controls:
            if name not in [system.name for system in self.systems]:
                raise ValueError(f"controls: {_unknown(name, [system.name for system in self.systems])}")
        self._check_factors()
        self._check_settings()
        self._check_scores()

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds as numbers."""
        return parse_seeds(str(self.seeds), key="seeds")

    @property
    def scores(self) -> tuple[str, ...]:
        """All reported scores, in order."""
        return tuple(score for evaluation in self.evaluations for score in evaluation.scores)

    @property
    def primary_scores(self) -> tuple[str, ...]:
        """The scores that families are corrected over."""
        return self.primary or self.scores[:1]

    def _check_factors(self) -> None:
        known = {factor.name: factor.settings for factor in self.factors}
        for factor in self.factors:
            texts = [plain(value) for value in factor.values] or [plain(level.value) for level in factor.levels]
            _check_names(f"factors, {factor.name}", texts)
        for system in self.systems:
            where = f"systems, {system.name}"
            for name in (*(system.factors or ()), *system.only, *system.skip):
                if name not in known:
                    raise ValueError(f"{where}: {_unknown(name, known)} (of a factor)")
            for name, values in (*system.only.items(), *system.skip.items()):
                if system.factors is not None and name not in system.factors:
                    raise ValueError(f"{where}: only and skip name {name}, which its factors leave out")
                for value in listed(values):
                    if value not in known[name]:
                        raise ValueError(f"{where}: {_unknown(value, known[name])} (a value of {name})")

    def _check_settings(self) -> None:
        settings: dict[str, Mapping[str, Any]] = {"base": self.base}
        settings |= {f"systems, {one.name}": one.set for one in self.systems}
        for factor in self.factors:
            settings |= {f"factors, {factor.name}, {text}": own for text, (_, own) in factor.settings.items()}
        for where, own in settings.items():
            for key in flat_settings(own):
                if key in OWN_KEYS:
                    raise ValueError(f"{where}: {key}: {OWN_KEYS[key]}")

    def _check_scores(self) -> None:
        if not self.scores:
            raise ValueError("evaluations: no score is reported; name one in scores")
        for score, times in Counter(self.scores).items():
            if times > 1:
                raise ValueError(f"evaluations: the score {score} is reported twice")
            if len(score.split(".")) < 2:
                raise ValueError(f"evaluations: a score is named suite.task.metric or by two of these, got {score!r}")
        for score in self.primary:
            if score not in self.scores:
                raise ValueError(f"primary: {_unknown(score, self.scores)}")


def read_study(given: str) -> tuple[Study, Path]:
    """A study's declaration, and its file; ``given`` is a path, or ``mcse:studies/NAME`` of one that comes with mcse.

    Raises:
        ConfigError: Unknown, missing or wrong keys, or names that stand for nothing; names file and key.
    """
    path = config_path(given)
    return build_config(Study, read_yaml(path), source=str(path)), path


def flat_settings(settings: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flat_settings(value, prefix=f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def folder_name(row: str) -> str:
    """Of a cell or reference, below the study's folder."""
    return row.replace(" ", "_")


def listed(values: Any) -> list[str]:
    """The texts of one value or of several."""
    return [plain(value) for value in (values if isinstance(values, list) else [values])]


def _check_names(key: str, names: Sequence[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{key}: {name} is given twice")
        if not _NAME.fullmatch(name) and not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", name):
            raise ValueError(f"{key}: {name!r} is no name: letters, digits, blanks and ._+-()% are")
        if name in (EACH, BASELINE, CONTROLS):
            raise ValueError(f"{key}: {name!r} means something else in comparisons; choose another name")


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"there is no {name!r}; there is {', '.join(known)}"
