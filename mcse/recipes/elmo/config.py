"""Settings of the recipe ``elmo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.data.config import (
    LanguageDataConfig,
)
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """The model's sizes, as ``ElmoConfig`` calls them."""

    character_dim: int = 16
    max_characters: int = 50
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    highway_layers: int = 2
    cell_dim: int = 4096
    projection_dim: int = 512
    layers: int = 2
    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    skip_connections: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for key in ("character_dim", "cell_dim", "projection_dim", "layers"):
            if getattr(self, key) < 1:
                raise ValueError(f"encoder.{key}: must be 1 or more, got {getattr(self, key)}")
        widest = max((width for width, _ in self.filters), default=0)
        if not 1 <= widest <= self.max_characters:
            raise ValueError(f"encoder.filters: the widest takes {widest} of {self.max_characters} characters")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"encoder.dropout: must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``weight`` of each direction's mean (published: 0.5, times the 20 places of a step for the gradients' scale).

    ``samples``: words that the softmax runs over in training, beside the true one; ``null`` for the whole vocabulary.
    """

    weight: float = 0.5
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"loss.weight: must be positive, got {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete ELMo run. ``train.batch_size`` is the number of lanes of a process."""

    recipe: Literal["elmo"]
    output_dir: Path
    data: LanguageDataConfig
    optim: OptimConfig
    train: TrainConfig
    encoder: SizeConfig = field(default_factory=SizeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    seed: int = 42
