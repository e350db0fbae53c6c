"""Settings of the recipe ``rankcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import DataConfig
from mcse.data.controls_config import Mix
from mcse.data.source_variants import TableSentences
from mcse.data.teacher_config import TaughtControls, Teacher, check_teachers
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig, check_frozen, check_num_pairs, resolve_mix
from mcse.recipes.terms.config import Consistency, ListMLE, TextLossConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(TextLossConfig):
    """SimCSE's term, the consistency of its views, and one of the teachers' lists."""

    list_mle: ListMLE | None = field(default_factory=ListMLE)
    """A term of the teachers' orders; ``null`` beside ``list_net``. Source: RankCSE, γ is its weight."""

    consistency: Consistency | None = field(default_factory=Consistency)
    """A term of the two views' distributions. Source: RankCSE, β is its weight."""

    def __post_init__(self) -> None:
        TextLossConfig.__post_init__(self)
        if (self.list_mle is None) == (self.list_net is None):
            raise ValueError("loss.list_mle, loss.list_net: give one of them, and null for the other")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete RankCSE run."""

    recipe: Literal["rankcse"]
    """Sentence embeddings that order sentences as frozen teachers do."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: DataConfig
    """Sentences, captions as text, or both."""

    teachers: tuple[Teacher, ...]
    """Frozen encoders whose cosines, averaged by weight, order the sentences of a batch."""

    loss: LossConfig = field(default_factory=LossConfig)
    """The terms of the loss."""

    mix: Mix | None = None
    """How batches of captions are spread among those of sentences; ``null`` is as published, if both are there."""

    controls: TaughtControls = field(default_factory=TaughtControls)
    """How many captions there are, and what replaces the teachers."""

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("teachers: give one or more")
        check_teachers(self.teachers, self.controls.teachers, readers=self.loss.reads_teachers)
        check_frozen(self.encoder)
        check_num_pairs(self.data, self.controls)
        if isinstance(self.data.sentences, TableSentences):
            raise ValueError("data.sentences: a table of hard negatives has positives of their own; give sentences")
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
