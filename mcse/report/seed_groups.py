"""The systems of a report: which verdicts are seeds of one, and the short name that plots have room for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcse.types import Verdict

_SHORT = 22
_SAYS_LITTLE = re.compile(r"seed\d+|best|last")
"""Folders that every run has or may have: alone they name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A model, or several seeds of one.

    Args:
        name: As the command line names it.
        short: A distinct name of at most 22 characters.
        number: Its place in the report, from 0, which gives its colour.
        verdicts: Of its seeds, at least one.
    """

    name: str
    short: str
    number: int
    verdicts: tuple[Verdict, ...]

    @property
    def pooling(self) -> str:
        """How its rows are pooled."""
        return self.verdicts[0].pooling

    def values(self, suite: str, task: str, metric: str) -> tuple[float, ...]:
        """The score of every seed that has it."""
        tasks = [verdict.scores.get(suite, {}).get(task, {}) for verdict in self.verdicts]
        return tuple(scores[metric] for scores in tasks if metric in scores)

    def interval(self, suite: str, task: str, metric: str) -> tuple[float, float] | None:
        """Of a single run; several seeds show how sure they are by themselves."""
        low, high = (self.values(suite, task, f"{metric}_{end}") for end in ("low", "high"))
        return (low[0], high[0]) if len(self.verdicts) == 1 and low and high else None


def build_systems(verdicts: Sequence[Verdict], *, names: Sequence[str] = ()) -> tuple[System, ...]:
    """Verdicts of one name are seeds of a system; without names each is its own.

    Raises:
        ValueError: There are no verdicts, or not one name a verdict.
    """
    names = names or [verdict.model for verdict in verdicts]
    if not verdicts or len(names) != len(verdicts):
        raise ValueError(f"a report needs verdicts and a name for each, got {len(verdicts)} and {len(names)}")
    distinct = list(dict.fromkeys(names))
    return tuple(
        System(
            name=name,
            short=short,
            number=number,
            verdicts=tuple(verdict for verdict, own in zip(verdicts, names, strict=True) if own == name),
        )
        for number, (name, short) in enumerate(zip(distinct, short_names(distinct), strict=True))
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
