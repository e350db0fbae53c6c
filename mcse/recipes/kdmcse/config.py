"""Settings of the recipe ``kdmcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import PairedDataConfig
from mcse.data.controls_config import Mix
from mcse.data.teacher_config import TaughtImageControls, Teacher, check_one_teacher, check_teachers
from mcse.models.config import EncoderConfig, ImageConfig
from mcse.recipes.base import RunConfig, resolve_mix
from mcse.recipes.terms.config import AngularMargin, MatchedLossConfig, check_angle, check_not_negative


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossFilter:
    """Leaves out images and captions that the teacher holds to be near to the other side of a pair. Source: KDMCSE."""

    threshold: float = 0.8
    """The teacher's cosine of a caption and an image, of unit rows, above which they are no negatives of each other."""

    def __post_init__(self) -> None:
        if not -1 < self.threshold < 1:
            raise ValueError(f"loss.cross_filter.threshold: must be a cosine, got {self.threshold}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(MatchedLossConfig):
    """The terms of sentences, and λ times those of images and of the teacher's captions."""

    caption_weight: float | None = None
    """Weight of the term of the teacher's captions; ``null`` is ``image_weight``. Source: KDMCSE has one λ."""

    margin: AngularMargin | None = field(default_factory=lambda: AngularMargin(negative=0.15))
    """Angular margin of sentences. Source: KDMCSE's scripts have 0.15, its text 0.125."""

    image_margin: float = 0.15
    """Radians, multiplied by one minus the teacher's cosine of two images, or of two captions; 0 is none."""

    cross_filter: CrossFilter | None = None
    """Leaves out false negatives; ``null`` is what the published scripts do."""

    def __post_init__(self) -> None:
        MatchedLossConfig.__post_init__(self)
        if self.caption_weight is not None:
            check_not_negative(self, "loss", "caption_weight")
        check_angle("loss.image_margin", self.image_margin)

    @property
    def compares_sides(self) -> tuple[str, ...]:
        """The keys of what compares the teacher's rows of captions with those of images."""
        filtering = () if self.cross_filter is None else ("loss.cross_filter",)
        return (*filtering, *self.guided)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete KDMCSE run; without ``data.sentences`` it trains on captions alone."""

    recipe: Literal["kdmcse"]
    """Sentence embeddings from text and images, with a frozen image–text teacher."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: PairedDataConfig
    """Captions with the teacher's rows of their images, and sentences."""

    teachers: tuple[Teacher, ...]
    """The teacher's text side: its rows of the captions."""

    loss: LossConfig
    """The terms of the loss."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """How the heads learn."""

    mix: Mix | None = None
    """How paired batches are spread among those of sentences; ``null`` is as published, if there are sentences."""

    controls: TaughtImageControls = field(default_factory=TaughtImageControls)
    """Which image a caption is shown with, how many captions there are, and what replaces the teacher."""

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("teachers: give the teacher's text side")
        check_teachers(self.teachers, self.controls.teachers)
        check_one_teacher(self.teachers, self.loss.compares_sides)
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
