"""The teachers that a run was trained with, by the names under which they can be evaluated beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcse.data.config import DataRoot
from mcse.data.teacher_config import Teacher, shares
from mcse.data.teacher_rows import read_store_facts
from mcse.run_folder import read_config


@dataclass(frozen=True, slots=True)
class TeachersOfRun:
    """What can be evaluated, and what cannot.

    Attributes:
        models: By what tables call them: each teacher, and with two or more their average.
        problems: Why others cannot.
    """

    models: Mapping[str, str]
    problems: Sequence[str]


def teachers_of(run: Path) -> TeachersOfRun:
    """The teachers in the configuration of a run.

    Raises:
        ValueError: The configuration is missing or damaged; names it.
    """
    config = read_config(run)
    given: Any = config.get("teachers") or []
    try:
        teachers = [Teacher(**one) for one in given]
        data = DataRoot(root=None if config["data"].get("root") is None else Path(config["data"]["root"]))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{run}: teachers or data in its configuration cannot be read: {error}") from None
    control = (config.get("controls") or {}).get("teachers", True)
    unread = "" if control is True else f" (controls.teachers {control} was read instead)"
    models: dict[str, str] = {}
    problems, parts = [], []
    for teacher, weight in zip(teachers, shares(teachers) if teachers else [], strict=True):
        try:
            name = _model_of(teacher, data)
        except (ValueError, OSError) as error:
            problems.append(f"teacher {teacher.name}: {error}")
            continue
        models[f"teacher {teacher.name}{unread}"] = f"average:1={name}"
        parts.append(f"{weight:.6g}={name}")
    if len(teachers) > 1 and problems:
        problems.append("their average needs all of them")
    elif len(teachers) > 1:
        models[f"average of teachers{unread}"] = f"average:{'+'.join(parts)}"
    return TeachersOfRun(models, problems)


def _model_of(teacher: Teacher, data: DataRoot) -> str:
    """The encoder with its pooling, as parts of an average are spelled.

    Raises:
        ValueError: The rows of a store are not those that a model of such a name gives.
    """
    if teacher.store is None:
        return f"{teacher.encoder}{'' if teacher.pooling is None else f'@{teacher.pooling}'}"
    path = data.folder / teacher.store
    facts = read_store_facts(path)
    settings = {
        "prompt": "a prompt",
        "joint": "the space that it shares with images",
        "length": f"texts cut to {facts.length} tokens",
        "untrained": "random weights",
    }
    for key, what in settings.items():
        if getattr(facts, key):
            raise ValueError(f"{path} holds rows of {facts.encoder} with {what}, which no name of a model says")
    return f"{facts.encoder}@{facts.pooling}"
