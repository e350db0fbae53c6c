"""Settings of the recipe ``word_features``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.config import refuse_idle
from mcse.data.config import (
    LabelledDataConfig,
)
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """What the words are. ``vectors``: a file of static vectors, below ``data.root`` unless absolute.

    ``contextual``: an ELMo or CoVe by any name that ``load_encoder`` takes; ``untrained`` draws its weights anew, the
    control. ``join``: its mixture beside the static vectors at the ``input`` of the task's LSTM, at its ``output``, or
    ``both``, each with weights and γ of its own. ``layer_norm``: of the layers before they are mixed.
    """

    vectors: str | None = None
    contextual: str | None = None
    untrained: bool = False
    join: Literal["input", "output", "both"] = "input"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        if self.vectors is None and self.contextual is None:
            raise ValueError("features.vectors, features.contextual: give at least one of them")
        if self.contextual is None:
            why = "there is no features.contextual"
            refuse_idle("features", self, keys=("untrained", "join", "layer_norm"), why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """``hidden_dim`` of one direction of the task's LSTM, and the dropout before and behind it."""

    hidden_dim: int = 100
    dropout: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``mix_penalty``: weight of Σ w² over the mixtures' weights (typical for ELMo: 0.001)."""

    mix_penalty: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete run of a tagger or classifier."""

    recipe: Literal["word_features"]
    output_dir: Path
    data: LabelledDataConfig
    features: FeaturesConfig
    optim: OptimConfig
    train: TrainConfig
    encoder: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 42

    def __post_init__(self) -> None:
        if self.features.contextual is None:
            refuse_idle("loss", self.loss, keys=("mix_penalty",), why="there is no features.contextual")
