"""Frozen encoders that a loss compares with: the key ``teachers`` and its controls. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mcse.data.controls_config import ControlsConfig, PairControls

TeacherControl: TypeAlias = Literal[True, "shuffled", "random", "self"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A frozen encoder. Its rows of the training texts are stored, or computed inside the step."""

    name: str
    """What facts and reports call it."""

    store: str | None = None
    """A store of ``mcse extract-features --texts``, from ``data.root``; or give ``encoder``."""

    encoder: str | None = None
    """Any encoder with the student's tokenizer, run in every step on the student's ids; or give ``store``."""

    pooling: str | None = None
    """Of ``encoder``; ``null`` is its own. A store says itself how its rows were pooled."""

    weight: float = 1.0
    """Of its cosines in the teachers' average; weights are divided by their sum."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("teachers: name: must be some text")
        if (self.store is None) == (self.encoder is None):
            raise ValueError(f"teachers: {self.name}: give one of store and encoder")
        if self.store is not None and self.pooling is not None:
            raise ValueError(f"teachers: {self.name}: pooling would do nothing beside store, whose rows are pooled")
        if self.weight <= 0:
            raise ValueError(f"teachers: {self.name}: weight must be positive, got {self.weight:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaughtControls(PairControls):
    """How many captions there are, and what replaces the teachers."""

    teachers: TeacherControl = True
    """Whose rows are read: the teachers' own (``true``), or others.

    ``shuffled``: those that they give to other texts. ``random``: those of random weights. ``self``: those of the
    student's start weights.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class TaughtImageControls(ControlsConfig):
    """Which image a caption is shown with, how many captions there are, and what replaces the teachers."""

    teachers: TeacherControl = True
    """Whose rows are read: the teachers' own (``true``), or others.

    ``shuffled``: those that they give to other texts. ``random``: those of random weights. ``self``: those of the
    student's start weights.
    """


def shares(teachers: Sequence[Teacher]) -> list[float]:
    """The weights of teachers, which sum to 1."""
    total = sum(teacher.weight for teacher in teachers)
    return [teacher.weight / total for teacher in teachers]


def check_one_teacher(teachers: Sequence[Teacher], compares_sides: Sequence[str]) -> None:
    """Refuses several teachers where captions are compared with images.

    Raises:
        ValueError: Names the first of ``compares_sides``, the keys that do so.
    """
    if compares_sides and len(teachers) > 1:
        raise ValueError(
            f"{compares_sides[0]}, teachers: images are compared with captions in the space of one encoder; give one "
            "teacher"
        )


def check_teachers(
    teachers: Sequence[Teacher], control: TeacherControl, *, readers: Sequence[str] | None = None
) -> None:
    """Refuses teachers that nothing reads, and what would do nothing without teachers.

    Args:
        teachers: The key ``teachers``.
        control: The key ``controls.teachers``.
        readers: The keys of the terms of the loss that read teachers' rows; ``None`` if unknown.

    Raises:
        ValueError: Names the keys.
    """
    names = [teacher.name for teacher in teachers]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"teachers: the name {doubled[0]!r} stands there twice")
    if control is not True and not teachers:
        raise ValueError(f"controls.teachers: {control} would do nothing, since there are no teachers")
    if teachers and readers is not None and not readers:
        raise ValueError("teachers: would do nothing, since no term of the loss reads their rows")
    if readers and not teachers:
        raise ValueError(f"{readers[0]}: needs teachers; give some, or null for {' and '.join(readers)}")
