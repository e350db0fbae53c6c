"""Settings of the recipe ``cove``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.data.config import (
    TranslationDataConfig,
)
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """``hidden_dim`` of one direction; the decoder is twice as wide. ``target_dim``: of the target's word vectors."""

    hidden_dim: int = 300
    target_dim: int = 300
    layers: int = 2
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for key in ("hidden_dim", "target_dim", "layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``mean_over``: what the sum over target words is divided by; the released code divides by sentences."""

    mean_over: Literal["words", "sentences"] = "words"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete CoVe run."""

    recipe: Literal["cove"]
    output_dir: Path
    data: TranslationDataConfig
    optim: OptimConfig
    train: TrainConfig
    encoder: SizeConfig = field(default_factory=SizeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 42
