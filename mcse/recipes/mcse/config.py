"""Settings of the recipe ``mcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import PairedDataConfig
from mcse.data.controls_config import Mix
from mcse.data.teacher_config import TaughtImageControls, Teacher, check_one_teacher, check_teachers
from mcse.models.config import EncoderConfig, ImageConfig
from mcse.recipes.base import RunConfig, resolve_mix
from mcse.recipes.terms.config import MatchedLossConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(MatchedLossConfig):
    """The terms of sentences and λ times the image term."""

    image_reduction: Literal["mean", "sum"] = "mean"
    """``mean`` over the two dropout views as in the released code; the paper's ``sum`` is that with twice λ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete MCSE run; without ``data.sentences`` it trains on captions alone."""

    recipe: Literal["mcse"]
    """Sentence embeddings from text and images."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: PairedDataConfig
    """Captions with images, and sentences."""

    loss: LossConfig
    """The terms of the loss."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """How the image side learns."""

    mix: Mix | None = None
    """How paired batches are spread among those of sentences; ``null`` is as published, if there are sentences."""

    controls: TaughtImageControls = field(default_factory=TaughtImageControls)
    """Which image a caption is shown with, how many captions there are, and what replaces the teachers."""

    teachers: tuple[Teacher, ...] = ()
    """Frozen encoders that terms of the loss compare with."""

    def __post_init__(self) -> None:
        readers = (*self.loss.reads_teachers, *self.loss.guided)
        check_teachers(self.teachers, self.controls.teachers, readers=readers)
        check_one_teacher(self.teachers, self.loss.guided)
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
