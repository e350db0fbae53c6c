"""The systems of a report, each one model or several seeds of one, and the short name that plots have room for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcse.errors import printable
from mcse.types import ModelScores, ScoreKey

_SAYS_LITTLE = re.compile(r"seed\d+|best|last|model|checkpoints?")
"""Folders that many models are in: alone they name none."""

_LIBRARY = re.compile(r"(?:package|sentence-transformers|model2vec):")
_WHOLE = re.compile(r"open_clip:|average:")
"""Names that are no paths."""


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """A model, or several seeds of one.

    Args:
        name: As the command line names it.
        seeds: The scores of each, at least one.
        short: What tables and plots call it: the name that was chosen for it, or what ``short_names`` gives.
        number: Its place in the report, from 0, which gives its colour.
    """

    name: str
    seeds: tuple[ModelScores, ...]
    short: str = ""
    number: int = 0

    @property
    def pooling(self) -> str:
        """How its embeddings are pooled."""
        return self.seeds[0].pooling

    @property
    def title(self) -> str:
        """For a table's row."""
        seeds = f", {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{self.shown} ({self.pooling}{seeds})"

    @property
    def shown(self) -> str:
        """What it is called in reports."""
        return self.short or self.name

    def values(self, key: ScoreKey) -> tuple[float, ...]:
        """The score of every seed that has it."""
        return tuple(value for seed in self.seeds if (value := seed.get(key)) is not None)

    def interval(self, key: ScoreKey) -> tuple[float, float] | None:
        """Of a single run; several seeds show how sure they are by themselves."""
        low, high = map(self.values, key.ends)
        return (low[0], high[0]) if len(self.seeds) == 1 and low and high else None


def numbered(systems: Sequence[System]) -> tuple[System, ...]:
    """The systems with numbers in their order, and with short names where they have none yet.

    Raises:
        ValueError: There are none.
    """
    if not systems:
        raise ValueError("a report needs the scores of at least one model")
    shorts = short_names([system.name for system in systems])
    return tuple(
        replace(system, short=system.short or short, number=number)
        for number, (system, short) in enumerate(zip(systems, shorts, strict=True))
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Of each name what tells it from the others: trailing parts of a path, of settings those that differ.

    A part stays whole, however long. What cannot be told apart is numbered.
    """
    paths = [_parts(name) for name in names]
    found: list[str] = []
    for number, path in enumerate(paths):
        others = [other for place, other in enumerate(paths) if place != number]
        lengths = range(2 if _SAYS_LITTLE.fullmatch(path[-1]) else 1, len(path) + 1)
        length = next((n for n in lengths if all(path[-n:] != other[-n:] for other in others)), len(path))
        found.append("/".join(path[-length:]))
    distinct: list[str] = []
    for name in _differing_settings(found):
        copies = sum(name == other.partition(" #")[0] for other in distinct)
        distinct.append(f"{name} #{copies + 1}" if copies else name)
    return distinct


def _parts(name: str) -> list[str]:
    if _WHOLE.match(name):
        return [printable(name)]
    path = _LIBRARY.sub("", name, count=1).replace("\\", "/")
    return [printable(part) for part in path.split("/") if part] or ["model"]


def _differing_settings(names: Sequence[str]) -> list[str]:
    """Of cells of a sweep, ``KEY=VALUE,…``, the settings in which they differ, each by the last part of its key."""
    settings = [name.split(",") for name in names]
    if len(names) < 2 or not all("=" in one for several in settings for one in several):
        return list(names)
    common = set.intersection(*map(set, settings))
    shorter = [
        ",".join(re.sub(r"^[\w.]*\.(?=\w+=)", "", one) for one in several if one not in common) for several in settings
    ]
    return shorter if all(shorter) and len(set(shorter)) == len(set(names)) else list(names)
