"""BIO tags: the tag set of a data set, repairs of what is no BIO, and which tag may follow which.

K tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class TagSet:
    """Tags by id: ``O`` is 0, then ``B-`` and ``I-`` of each type in the order of ``types``."""

    types: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.types or len(set(self.types)) < len(self.types) or not all(self.types):
            raise ValueError(f"a tag set needs types, each once, got {self.types}")

    def __len__(self) -> int:
        return 1 + 2 * len(self.types)

    @property
    def names(self) -> tuple[str, ...]:
        """All K tags."""
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in self.types for prefix in "BI"))

    def ids(self, tags: Iterable[str]) -> NDArray[np.int64]:
        """Ids of tags.

        Raises:
            ValueError: A tag that is not of this set.
        """
        index = {name: number for number, name in enumerate(self.names)}
        try:
            return np.asarray([index[tag] for tag in tags], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"tag {error.args[0]!r} is none of {', '.join(self.names)}") from None

    def may_start(self) -> NDArray[np.bool_]:
        """(K,) whether a sentence may start with the tag: not with any ``I-``."""
        return np.asarray([not name.startswith("I-") for name in self.names])

    def may_follow(self) -> NDArray[np.bool_]:
        """(K, K) whether the column's tag may follow the row's: ``I-X`` follows only ``B-X`` or ``I-X``."""
        return np.asarray(
            [
                [not to.startswith("I-") or (before != OUTSIDE and before[2:] == to[2:]) for to in self.names]
                for before in self.names
            ]
        )


@dataclass(frozen=True, slots=True)
class Repairs:
    """How many ``I-`` tags were turned into ``B-``.

    ``orphan``: they stood at the start of a sentence or after ``O``. ``mistyped``: after another type.
    """

    orphan: int = 0
    mistyped: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.orphan + self.mistyped

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(self.orphan + other.orphan, self.mistyped + other.mistyped)


def check_tag(tag: str, *, where: str) -> None:
    """Refuses a tag that is neither ``O`` nor ``B-`` or ``I-`` with a type.

    Raises:
        ValueError: Says the tag, ``where`` it stands, and what is expected.
    """
    if tag != OUTSIDE and not (tag[:2] in ("B-", "I-") and len(tag) > 2):
        raise ValueError(f"{where}: tag {tag[:60]!r} is neither O nor B-TYPE or I-TYPE")


def types_of(sentences: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The types that occur in the tags, sorted."""
    return tuple(sorted({tag[2:] for tags in sentences for tag in tags if tag != OUTSIDE}))


def repair_tags(tags: Sequence[str]) -> tuple[tuple[str, ...], Repairs]:
    """The same chunks as valid BIO, and how many tags that changed.

    An ``I-X`` that continues nothing of type X opens an entity, so it becomes ``B-X``: the reading of the lenient
    chunking that published scores use. Without it, a CRF that only knows valid sequences gives such gold no
    likelihood.
    """
    repaired: list[str] = []
    repairs = Repairs()
    before = OUTSIDE
    for tag in tags:
        if tag.startswith("I-") and before[2:] != tag[2:]:
            repairs += Repairs(orphan=1) if before == OUTSIDE else Repairs(mistyped=1)
            tag = f"B-{tag[2:]}"
        repaired.append(tag)
        before = tag
    return tuple(repaired), repairs
