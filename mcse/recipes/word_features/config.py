"""Settings of the recipe ``word_features``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import LabelledDataConfig
from mcse.recipes.base import RunConfig, check_uncached


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextualConfig:
    """Word vectors in context, as a mixture of an encoder's layers."""

    encoder: str
    """An ELMo or CoVe by any name that ``load_encoder`` takes."""

    untrained: bool = False
    """Whether its weights are drawn anew: the control."""

    join: Literal["input", "output", "both"] = "input"
    """Where the mixture stands beside the task's LSTM; at ``both`` each place has weights of its own."""

    layer_norm: bool = False
    """Whether layers are normalised before they are mixed."""

    mix_penalty: float = 0.0
    """Weight of Σ w² over the mixtures' weights; typical for ELMo: 0.001."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any name."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """What the words are."""

    vectors: str | None = None
    """A file of static word vectors, below ``data.root``."""

    contextual: ContextualConfig | None = None
    """Word vectors in context; given as a text alone the encoder's name."""

    def __post_init__(self) -> None:
        if self.vectors is None and self.contextual is None:
            raise ValueError("features.vectors, features.contextual: give at least one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The task's LSTM."""

    hidden_dim: int = 100
    """Width of one direction."""

    dropout: float = 0.5
    """Before and behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run of a tagger or classifier."""

    recipe: Literal["word_features"]
    """A tagger or sentence classifier on frozen word features."""

    data: LabelledDataConfig
    """Labelled sentences."""

    features: FeaturesConfig
    """What the words are."""

    encoder: ModelConfig = field(default_factory=ModelConfig)
    """The task's LSTM."""

    def __post_init__(self) -> None:
        check_uncached(self.train)
