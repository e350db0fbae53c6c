"""Settings of the recipe ``cove``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import TranslationDataConfig
from mcse.recipes.base import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """The translation model's sizes."""

    hidden_dim: int = 300
    """Width of one direction of the encoder; the decoder is twice as wide. Source: McCann et al. 2017."""

    target_dim: int = 300
    """Width of the target's word vectors. Source: McCann et al. 2017."""

    layers: int = 2
    """Layers of encoder and decoder. Source: McCann et al. 2017."""

    dropout: float = 0.2
    """Between layers. Source: McCann et al. 2017."""

    def __post_init__(self) -> None:
        for key in ("hidden_dim", "target_dim", "layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The negative log-likelihood of translations."""

    mean_over: Literal["words", "sentences"] = "words"
    """What the sum over target words is divided by; the released code divides by sentences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete CoVe run."""

    recipe: Literal["cove"]
    """Word vectors in context, from a translation model."""

    data: TranslationDataConfig
    """Sentences with their translations."""

    encoder: SizeConfig = field(default_factory=SizeConfig)
    """The translation model's sizes."""

    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
