"""Settings of the recipe ``simcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import DataConfig, Mix, PairControls
from mcse.data.source_variants import TableSentences
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig, resolve_mix
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

    controls: PairControls = field(default_factory=PairControls)
    """How many captions there are."""

    def __post_init__(self) -> None:
        if self.encoder.frozen is True and self.encoder.pooling != "cls_with_head":
            raise ValueError(
                "encoder.frozen: true would train a head that no embedding has; encoder.pooling cls_with_head keeps it"
            )
        if self.data.captions is None and self.controls.num_pairs is not None:
            raise ValueError(
                f"controls.num_pairs: {self.controls.num_pairs} would do nothing, since there is no data.captions"
            )
        if isinstance(self.data.sentences, TableSentences):
            self.loss.check_own_positives(what="data.sentences.table has positives of their own")
        if self.loss.hard_negative_weight != 0 and not isinstance(self.data.sentences, TableSentences):
            raise ValueError(
                f"loss.hard_negative_weight: {self.loss.hard_negative_weight} would do nothing, since there are no "
                "hard negatives (data.sentences.table has them)"
            )
        object.__setattr__(self, "mix", resolve_mix(self.mix, self.data))
