"""A run folder: which files it has, whether a folder is one, its best model, its state, seeds and scores.

    config.yaml      the resolved configuration
    run.json         versions, processes, what was printed at the start, data with digests
    metrics.jsonl    one JSON object a line: the step and numbers, and which way each score among them is better
    best/  last/     checkpoint folders
    state/           what resuming needs, a folder ``step-N`` each
    evaluation/      reports

Everything that reads or writes one of these takes its name from here.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mcse.files import read_lines
from mcse.reading import parse_json, read_json
from mcse.yaml_files import read_yaml_file

T = TypeVar("T")

CONFIG, FACTS, METRICS = "config.yaml", "run.json", "metrics.jsonl"
BEST, LAST, STATE, EVALUATION = "best", "last", "state", "evaluation"
RESULTS = "results.json"
"""What ``evaluation/`` holds for programs."""

HIGHER_IS_BETTER = "higher_is_better"
"""Key of a line of ``metrics.jsonl`` under which the scores on that line say, by name, whether higher is better."""

MODEL_FILES = ("mcse.json", "config.json", "modules.json")
"""Every folder of a model has one of them, whoever made it."""

KEYS_WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "data.languages",
        "data.licence",
        "data.root",
        "train.keep_state",
        "train.log_steps",
        "train.resume",
        "train.save_steps",
        "train.save_total_limit",
        "train.timeout_minutes",
        "train.trackers",
    }
)
"""Keys of a configuration that say where files are, how often they are written and what the card says of them."""

KEYS_OF_LENGTH = frozenset({"encoder.name_or_path", "train.max_steps", "train.epochs", "train.eval_steps"})
"""Keys that a resumed run may change besides: how long and how often; the encoder's weights come from the state."""

RunState = Literal["finished", "stopped", "running or killed"]
"""``stopped`` saved when it was asked to stop; the files cannot tell which of the two the third is."""

Series = tuple[tuple[int, float], ...]
"""Step and value of one number, in the order in which they were written."""


class NoModelError(ValueError):
    """A folder or file that is there, but holds no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What ``metrics.jsonl`` holds.

    Attributes:
        steps: The last step that was written; 0 without any.
        series: Every number by name; values that were not finite are left out.
        directions: Of each name that is a score, whether higher is better, as the evaluator that made it said.
    """

    steps: int
    series: Mapping[str, Series]
    directions: Mapping[str, bool]

    def best(self, score: str) -> tuple[int, float] | None:
        """Step and value of the best of a score, the first of several; ``None`` where it was never defined.

        Raises:
            ValueError: The file does not say which way the score is better.
        """
        points = self.series.get(score)
        if not points:
            return None
        if score not in self.directions:
            raise ValueError(f"{METRICS} does not say which way {score} is better (key {HIGHER_IS_BETTER})")
        sign = 1 if self.directions[score] else -1
        return max(points, key=lambda point: sign * point[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What the files of a run say.

    Attributes:
        folder: The run's.
        config: ``config.yaml``, nested.
        state: How far it is.
        metrics: Its numbers.
        total_steps: Of the whole run; ``None`` before ``run.json`` is written.
        select_by: The dev score that chooses ``best/``.
        best: Step and value of the best dev score; ``None`` without one.
        updated: When the last number was written, in seconds since 1970.
    """

    folder: Path
    config: Mapping[str, Any]
    state: RunState
    metrics: Metrics
    total_steps: int | None
    select_by: str | None
    best: tuple[int, float] | None
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
    def steps(self) -> int:
        """The last step that numbers were written for."""
        return self.metrics.steps

    @property
    def higher_is_better(self) -> bool | None:
        """Which way ``select_by`` is better; ``None`` before its first score."""
        return self.metrics.directions.get(self.select_by or "")


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's own: it has a file that runs write, or a model as ``best/`` or ``last/``."""
    if any((folder / name).is_file() for name in (CONFIG, FACTS, METRICS)):
        return True
    return any((folder / name).is_dir() and is_model(folder / name) for name in (BEST, LAST))


def is_model(folder: Path) -> bool:
    """Whether the folder itself holds a model, of this project or of others."""
    return any((folder / name).is_file() for name in MODEL_FILES)


def model_in(folder: Path) -> Path | None:
    """The folder itself where it holds a model, the ``best/`` of a run, or ``None``."""
    if is_model(folder):
        return folder
    return folder / BEST if (folder / BEST).is_dir() else None


def best_of(folder: Path) -> Path:
    """The folder of the model that a run folder or a model's own folder stands for.

    Raises:
        NoModelError: Nothing is there, a run without ``best/``, a parent of several runs, or a folder without a model.
    """
    if not folder.is_dir():
        raise NoModelError(f"there is no run and no checkpoint at {folder}")
    if (found := model_in(folder)) is not None:
        return found
    if (folder / LAST).is_dir():
        raise NoModelError(f"{folder} is a run that has no best/ yet; name {folder / LAST} to take its last checkpoint")
    if is_run(folder):
        raise NoModelError(f"{folder} is a run that has no best/ yet: it has saved no checkpoint")
    if runs := sorted(child.parent.name for child in folder.glob(f"*/{BEST}")):
        raise NoModelError(f"{folder} holds several runs ({', '.join(runs)}); name one of them")
    raise NoModelError(f"{folder} holds no model: neither {', '.join(MODEL_FILES)} nor a run's best/")


def saved_states(folder: Path) -> list[Path]:
    """The whole saved states in a ``state/`` folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def read_config(run: Path) -> dict[str, Any]:
    """``config.yaml`` of a run, nested.

    Raises:
        ValueError: It is missing or damaged; names the line.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ValueError(f"{run}: no {CONFIG}")
    config = read_yaml_file(path)
    if not isinstance(config, dict) or not isinstance(config.get("train"), dict) or "recipe" not in config:
        raise ValueError(f"{path}: not a run's configuration (it lacks recipe or train)")
    for key, value in (("recipe", config["recipe"]), ("train.select_by", config["train"].get("select_by", ""))):
        if not isinstance(value, str | None):
            raise ValueError(f"{path}: {key} must be text, got {value!r}")
    return config


def read_facts(run: Path, schema: type[T]) -> T:
    """``run.json`` of a run, as much of it as ``schema`` names.

    Raises:
        ValueError: It is damaged.
        OSError: It cannot be opened.
    """
    return read_json(run / FACTS, schema)


def read_metrics(run: Path) -> Metrics:
    """``metrics.jsonl`` of a run; nothing where there is no such file, and no line that a kill cut short.

    Raises:
        ValueError: A line is damaged: which.
    """
    entries = _entries(run / METRICS) if (run / METRICS).is_file() else []
    series: dict[str, list[tuple[int, float]]] = {}
    directions: dict[str, bool] = {}
    for line, numbers in entries:
        directions |= line.higher_is_better
        for name, value in numbers.items():
            series.setdefault(name, []).append((line.step, value))
    return Metrics(
        steps=max((line.step for line, _ in entries), default=0),
        series={name: tuple(points) for name, points in series.items()},
        directions=directions,
    )


def read_run(folder: Path) -> RunFolder:
    """Reads a run folder.

    Raises:
        ValueError: ``config.yaml`` is missing, or a file is damaged: which, with the line.
        OSError: A file cannot be read.
    """
    config = read_config(folder)
    select_by = config["train"].get("select_by")
    metrics = read_metrics(folder)
    total_steps = _total_steps(folder)
    try:
        if select_by is not None and select_by not in metrics.directions:
            metrics = replace(metrics, directions={**metrics.directions, **_exported_directions(folder)})
        best = None if select_by is None else _best(folder, metrics, select_by)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return RunFolder(
        folder=folder,
        config=config,
        state=_state(folder, steps=metrics.steps, total_steps=total_steps),
        metrics=metrics,
        total_steps=total_steps,
        select_by=select_by,
        best=best,
        updated=(folder / METRICS).stat().st_mtime if metrics.steps else None,
    )


def find_runs(top: Path) -> tuple[list[Path], dict[Path, str]]:
    """Runs at and below ``top``, in order, and folders that could not be entered, with reasons.

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
        if is_run(folder):
            found.append(folder)
            below.clear()
    return sorted(found), failed


def seed_runs(parent: Path) -> list[Path]:
    """The runs directly below ``parent``, which are the seeds of one recipe, in the order of their numbers.

    What each was trained with is read from its ``config.yaml`` or, where only the checkpoint was kept, from its
    ``best/mcse.json``; a checkpoint of another make has neither and is let through.

    Raises:
        ValueError: No folder, a run itself, a run that holds runs, no runs directly below; one of the runs has no
            ``best/`` yet; two have the same seed; or they differ in more than their seed, with the key.
    """
    if not parent.is_dir():
        raise ValueError(f"no folder at {parent}")
    folders = sorted((child for child in parent.iterdir() if child.is_dir()), key=_by_number)
    runs = [child for child in folders if is_run(child)]
    if is_run(parent):
        inside = f"holds the runs {_names(runs)}; a run inside a run is neither" if runs else "holds no other runs"
        raise ValueError(f"{parent} is a run itself and {inside}; name a parent of seed folders")
    if not runs:
        cells = [child for child in folders if any(is_run(below) for below in child.iterdir() if below.is_dir())]
        hint = f"; its folders {_names(cells)} do, name one of them" if cells else ""
        raise ValueError(f"{parent} holds no runs directly below{hint}")
    if lacking := [run for run in runs if not (run / BEST).is_dir()]:
        raise ValueError(f"{lacking[0]} is a run that has no best/ yet; finish it, or name the other runs one by one")
    _check_same_recipe(runs)
    return runs


def flatten(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key, in order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, prefix=f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differing_keys(
    left: Mapping[str, Any],
    right: Mapping[str, Any],
    *,
    ignored: Iterable[str] = KEYS_WITHOUT_EFFECT,
    across_seeds: bool = False,
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two nested configurations differ, with both values.

    Args:
        left: A configuration.
        right: Another.
        ignored: Keys that may differ.
        across_seeds: Whether the ``seed`` may differ too; a path that holds its number, such as an encoder in
            ``encoder/seed3``, is then the same for every seed.
    """
    ours, theirs = flatten(left), flatten(right)
    if across_seeds:
        ours, theirs = _without_seed(ours), _without_seed(theirs)
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in set(ignored)]
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


@dataclass(frozen=True, slots=True)
class _Line:
    """An entry of ``metrics.jsonl``; its numbers stand beside these keys."""

    step: int
    higher_is_better: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Length:
    """What ``run.json`` says of a run's length."""

    steps: int


@dataclass(frozen=True, slots=True)
class _Facts:
    facts: _Length


@dataclass(frozen=True, slots=True)
class _Progress:
    """What a saved state says of ``best/``."""

    best_score: float | None
    best_step: int | None


@dataclass(frozen=True, slots=True)
class _Saved:
    progress: _Progress


@dataclass(frozen=True, slots=True)
class _Exported:
    higher_is_better: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What ``mcse.json`` says of the run that wrote it."""

    config: dict[str, Any]


def _entries(path: Path) -> list[tuple[_Line, dict[str, float]]]:
    """Each line with its finite numbers."""
    lines = list(read_lines(path))
    entries = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            content = parse_json(line, dict[str, Any], where=where)
        except ValueError as error:
            # A kill cuts the last line short; the run itself drops it on resuming.
            if number == len(lines) and "broken JSON" in str(error):
                break
            raise
        numbers = {
            name: float(value)
            for name, value in content.items()
            if isinstance(value, int | float) and name != "step" and math.isfinite(value)
        }
        entries.append((parse_json(line, _Line, where=where), numbers))
    return entries


def _exported_directions(run: Path) -> Mapping[str, bool]:
    """What ``best/`` says of its scores, where ``metrics.jsonl`` does not."""
    with contextlib.suppress(ValueError, OSError):
        return read_json(run / BEST / "mcse.json", _Exported).higher_is_better
    return {}


def _best(folder: Path, metrics: Metrics, select_by: str) -> tuple[int, float] | None:
    """The best that was written down, or what the newest state says of ``best/`` where that is lost."""
    noted = metrics.best(select_by)
    states = saved_states(folder / STATE)
    kept: tuple[int, float] | None = None
    with contextlib.suppress(ValueError, OSError):  # a damaged state is for resuming to refuse
        progress = read_json(states[-1] / "state.json", _Saved, most_bytes=2**32).progress if states else None
        if progress is not None and progress.best_score is not None and progress.best_step is not None:
            kept = progress.best_step, progress.best_score
    if noted is None or kept is None:
        return noted or kept
    sign = 1 if metrics.directions[select_by] else -1
    return kept if sign * kept[1] > sign * noted[1] else noted


def _state(folder: Path, *, steps: int, total_steps: int | None) -> RunState:
    """A run that was stopped has last/ too, so only the step of its saved state tells it from a finished one."""
    states = saved_states(folder / STATE)
    saved = int(states[-1].name.removeprefix("step-")) if states else steps
    if not (folder / LAST).is_dir():
        return "running or killed"
    if total_steps is not None and saved >= total_steps and (folder / BEST).is_dir():
        return "finished"
    # Numbers later than the saved state: it was resumed, and nothing is known of it since.
    return "stopped" if saved >= steps else "running or killed"


def _total_steps(run: Path) -> int | None:
    if not (run / FACTS).is_file():
        return None
    return read_facts(run, _Facts).facts.steps


def _check_same_recipe(runs: list[Path]) -> None:
    first: tuple[Path, Mapping[str, Any]] | None = None
    by_seed: dict[str, Path] = {}
    for run in runs:
        config = _trained_with(run)
        if config is None:
            continue
        first = first or (run, config)
        for key, values in differing_keys(first[1], config, across_seeds=True).items():
            raise ValueError(
                f"{first[0]} and {run} are no seeds of one recipe: {key} is {values[0]!r} and {values[1]!r}; "
                "name runs one by one, or the parent of one recipe's seeds"
            )
        seed = str(config.get("seed"))
        if seed in by_seed:
            raise ValueError(f"{by_seed[seed]} and {run} have the same seed {seed}: they are no two draws")
        by_seed[seed] = run


def _trained_with(run: Path) -> Mapping[str, Any] | None:
    if (run / CONFIG).is_file():
        return read_config(run)
    path = run / BEST / "mcse.json"
    if not path.is_file():
        return None
    return read_json(path, _Checkpoint).config


def _without_seed(flat: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: re.sub(r"seed\d+", "seed", value) if isinstance(value, str) else value for key, value in flat.items()}
    return {key: value for key, value in plain.items() if key != "seed"}


def _by_number(folder: Path) -> tuple[str, int, str]:
    """``seed2`` before ``seed10``."""
    number = re.search(r"\d+$", folder.name)
    return (folder.name[: number.start()], int(number.group()), "") if number else (folder.name, -1, folder.name)


def _names(folders: list[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
