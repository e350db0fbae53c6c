"""Settings of the recipe ``mcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.data.config import (
    ControlsConfig,
    DataConfig,
    MixConfig,
)
from mcse.models.config import EncoderConfig, ImageConfig
from mcse.recipes.checks import check_images, check_mix
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``temperature`` of the text term, ``image_temperature`` and weight λ (``image_weight``) of the image term.

    ``image_reduction``: ``mean`` over the two dropout views is what the released code does; ``sum`` is the paper's
    formula, and equals the mean with twice λ.
    """

    image_weight: float
    temperature: float = 0.05
    image_temperature: float = 0.05
    image_reduction: Literal["mean", "sum"] = "mean"
    joint_dim: int = 256
    mlm_weight: float = 0.0

    def __post_init__(self) -> None:
        for key in ("temperature", "image_temperature", "joint_dim"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.{key}: must be positive, got {getattr(self, key)}")
        for key in ("image_weight", "mlm_weight"):
            if getattr(self, key) < 0:
                raise ValueError(f"loss.{key}: must be 0 or more, got {getattr(self, key)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete MCSE run; without ``data.sentences`` it trains on captions alone."""

    recipe: Literal["mcse"]
    output_dir: Path
    encoder: EncoderConfig
    data: DataConfig
    loss: LossConfig
    optim: OptimConfig
    train: TrainConfig
    seed: int = 42
    image: ImageConfig = field(default_factory=ImageConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        if self.data.captions is None:
            raise ValueError("data.captions: mcse needs captions with images")
        check_images(self.image, self.data)
        check_mix(self.mix, self.data)
