"""Where runs lie: which folder is a run, and which runs are the seeds of one recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEYS_WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "data.root",
        "train.log_steps",
        "train.resume",
        "train.save_steps",
        "train.save_total_limit",
        "train.timeout_minutes",
        "train.trackers",
    }
)
"""Keys of a configuration that say where files lie and how often they are written, but not what is trained."""


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's own: it holds a configuration, or checkpoints under a run's names."""
    return (folder / "config.yaml").is_file() or (folder / "best").is_dir() or (folder / "last").is_dir()


def seed_runs(parent: Path) -> list[Path]:
    """The runs directly below ``parent``, which are the seeds of one recipe, in the order of their numbers.

    What each was trained with is read from its ``best/mcse.json``; a checkpoint of another make has none and is let
    through.

    Raises:
        ValueError: No folder, a run itself, a run that holds runs, no runs directly below; one of the runs has no
            ``best/`` so far; two have the same seed; or they differ in more than their seed, with the key.
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
    if lacking := [run for run in runs if not (run / "best").is_dir()]:
        raise ValueError(f"{lacking[0]} is a run without best/ so far; finish it, or name the other runs one by one")
    _check_same_recipe(runs)
    return runs


def differing_keys(left: Mapping[str, Any], right: Mapping[str, Any], *, across_seeds: bool = False) -> list[str]:
    """Dotted keys in which two nested configurations differ, but for ``KEYS_WITHOUT_EFFECT``.

    ``across_seeds``: the ``seed`` may differ, and a path that holds its number, such as an encoder in
    ``encoder/seed3``, is the same for every seed.
    """
    ours, theirs = _flat(left), _flat(right)
    if across_seeds:
        ours, theirs = _without_seed(ours), _without_seed(theirs)
    keys = dict.fromkeys([*ours, *theirs])
    return [key for key in keys if key not in KEYS_WITHOUT_EFFECT and ours.get(key) != theirs.get(key)]


def _check_same_recipe(runs: list[Path]) -> None:
    configs = {run: config for run in runs if (config := _config(run)) is not None}
    first: Path | None = None
    by_seed: dict[str, Path] = {}
    for run, config in configs.items():
        first = first or run
        if keys := differing_keys(configs[first], config, across_seeds=True):
            values = [_flat(configs[one]).get(keys[0]) for one in (first, run)]
            raise ValueError(
                f"{first} and {run} are no seeds of one recipe: {keys[0]} is {values[0]!r} and {values[1]!r}; "
                "name runs one by one, or the parent of one recipe's seeds"
            )
        seed = str(config.get("seed"))
        if seed in by_seed:
            raise ValueError(f"{by_seed[seed]} and {run} have the same seed {seed}: they are no two draws")
        by_seed[seed] = run


def _config(run: Path) -> dict[str, Any] | None:
    path = run / "best" / "mcse.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or no file of ours ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: config is no mapping")
    return config


def _flat(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, prefix=f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


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
