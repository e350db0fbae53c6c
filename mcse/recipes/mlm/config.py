"""Settings of the recipe ``mlm``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import MaskedDataConfig
from mcse.models.config import MaskedModelConfig
from mcse.recipes.base import RunConfig, check_uncached
from mcse.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Which tokens are hidden and predicted."""

    mask_share: float = 0.15
    """Share of the tokens that are predicted, drawn anew each time that a sentence comes. Source: BERT.

    Of these 80 % become the mask token, 10 % a random one, and 10 % stay.
    """

    whole_word: bool = False
    """Whether all pieces of a word are hidden together. Source: BERT's later release."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_share < 1:
            raise ValueError(f"loss.mask_share: must be above 0 and below 1, got {self.mask_share:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedTrainConfig(TrainConfig):
    """Length, cadence and selection of a run; give ``max_steps`` or ``epochs``."""

    select_by: str | None = "dev.perplexity"
    """The dev score that picks ``best/``; ``null`` keeps the last weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run of masked-language-model training; ``train.select_by`` is ``dev.perplexity`` by default."""

    recipe: Literal["mlm"]
    """An encoder that is trained to fill in hidden words."""

    encoder: MaskedModelConfig
    """A model that trains on (``name_or_path``), or one from nothing (``scratch``)."""

    data: MaskedDataConfig
    """Text, and the part of it that is held out."""

    loss: LossConfig = field(default_factory=LossConfig)
    """Which tokens are hidden and predicted."""

    train: MaskedTrainConfig
    """Length, cadence and selection of the run."""

    def __post_init__(self) -> None:
        check_uncached(self.train)
        if self.train.graphs == "cuda_graphs":
            raise ValueError(
                "train.graphs: mlm reads the rows of masked tokens, and only pooled rows are captured; use compile"
            )
