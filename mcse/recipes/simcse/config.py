"""Settings of the recipe ``simcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import DataConfig
from mcse.data.controls_config import Mix
from mcse.data.source_variants import TableSentences
from mcse.data.teacher_config import TaughtControls, Teacher, check_teachers
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig, check_frozen, check_num_pairs, resolve_mix
from mcse.recipes.terms.config import TextLossConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(TextLossConfig):
    """The contrastive term, and others beside it."""

    hard_negative_weight: float = 0.0
    """Added to the logit of a query's own contradiction, of supervised sentences. Source: SimCSE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete SimCSE run.

    With ``data.captions`` captions are trained on as text, on the batches that MCSE would pair with images: the fair
    baseline.
    """

    recipe: Literal["simcse"]
    """Sentence embeddings from text alone."""

    encoder: EncoderConfig
    """The encoder of sentences."""

    data: DataConfig
    """Sentences, captions as text, or both."""

    loss: LossConfig = field(default_factory=LossConfig)
    """The terms of the loss."""

    mix: Mix | None = None
    """How batches of captions are spread among those of sentences; ``null`` is as published, if both are there."""

    controls: TaughtControls = field(default_factory=TaughtControls)
    """How many captions there are, and what replaces the teachers."""

    teachers: tuple[Teacher, ...] = ()
    """Frozen encoders that terms of the loss compare with."""

    def __post_init__(self) -> None:
        check_teachers(self.teachers, self.controls.teachers, readers=self.loss.reads_teachers)
        if self.teachers and isinstance(self.data.sentences, TableSentences):
            raise ValueError("teachers, data.sentences: a table of hard negatives is trained without teachers")
        check_frozen(self.encoder)
        check_num_pairs(self.data, self.controls)
        if isinstance(self.data.sentences, TableSentences):
            self.loss.check_own_positives(what="data.sentences.table has positives of their own")
        if self.loss.hard_negative_weight != 0 and not isinstance(self.data.sentences, TableSentences):
            raise ValueError(
                f"loss.hard_negative_weight: {self.loss.hard_negative_weight} would do nothing, since there are no "
                "hard negatives (data.sentences.table has them)"
            )
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
