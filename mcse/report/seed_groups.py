"""The systems of a report, each one model or several seeds of one, and the short name that plots have room for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcse.types import ModelScores, ScoreKey

_SHORT = 22
_SAYS_LITTLE = re.compile(r"seed\d+|best|last")
"""Folders that every run has or may have: alone they name none."""


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """A model, or several seeds of one.

    Args:
        name: As the command line names it.
        seeds: The scores of each, at least one.
        short: A distinct name of at most 22 characters, as ``numbered`` gives it.
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
        return f"{self.name} ({self.pooling}{seeds})"

    def values(self, key: ScoreKey) -> tuple[float, ...]:
        """The score of every seed that has it."""
        return tuple(value for seed in self.seeds if (value := seed.get(key)) is not None)

    def interval(self, key: ScoreKey) -> tuple[float, float] | None:
        """Of a single run; several seeds show how sure they are by themselves."""
        low, high = map(self.values, key.ends)
        return (low[0], high[0]) if len(self.seeds) == 1 and low and high else None


def numbered(systems: Sequence[System]) -> tuple[System, ...]:
    """The systems with short names and numbers in their order.

    Raises:
        ValueError: There are none.
    """
    if not systems:
        raise ValueError("a report needs the scores of at least one model")
    shorts = short_names([system.name for system in systems])
    return tuple(
        replace(system, short=short, number=number)
        for number, (system, short) in enumerate(zip(systems, shorts, strict=True))
    )


def short_names(names: Sequence[str]) -> list[str]:
    """As few trailing parts of each path as no other ends in, cut in the middle where that is still long."""
    paths = [[part for part in _printable(name).replace("\\", "/").split("/") if part] or ["model"] for name in names]
    found: list[str] = []
    for number, path in enumerate(paths):
        others = [other for place, other in enumerate(paths) if place != number]
        lengths = range(2 if _SAYS_LITTLE.fullmatch(path[-1]) else 1, len(path) + 1)
        length = next((n for n in lengths if all(path[-n:] != other[-n:] for other in others)), len(path))
        name = "/".join(path[-length:])
        short, copy = _cut(name), 2
        while short in found:
            short, copy = f"{_cut(name, room=_SHORT - 4)} ({copy})", copy + 1
        found.append(short)
    return found


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


def _cut(name: str, *, room: int = _SHORT) -> str:
    head = room // 2 - 1
    return name if len(name) <= room else f"{name[:head]}…{name[len(name) - (room - head - 1) :]}"
