"""Settings of the recipe ``simcse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.config import refuse_idle
from mcse.data.config import (
    ControlsConfig,
    DataConfig,
    MixConfig,
)
from mcse.models.config import EncoderConfig
from mcse.recipes.checks import check_mix
from mcse.training.config import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``temperature`` divides cosines. ``hard_negative_weight`` is added to the logit of a query's own contradiction.

    ``mlm_weight`` above 0 adds the masked-language-model term (published: 0.1; it helps transfer and hurts STS).
    """

    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    mlm_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature: must be positive, got {self.temperature}")
        if self.mlm_weight < 0:
            raise ValueError(f"loss.mlm_weight: must be 0 or more, got {self.mlm_weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete SimCSE run.

    With ``data.captions`` captions are trained on as text, on the batches that MCSE would pair with images: the fair
    baseline. Settings that would do nothing, such as ``controls.images``, since no image is read, are refused.
    """

    recipe: Literal["simcse"]
    output_dir: Path
    encoder: EncoderConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    seed: int = 42
    loss: LossConfig = field(default_factory=LossConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        if self.controls.images is not True:
            raise ValueError(f"controls.images: simcse reads no images, so {self.controls.images!r} would do nothing")
        # Of shards it also says what becomes of samples without a caption.
        unread = ("features", "image_folder", *(() if self.data.captions_are_shards else ("on_bad_image",)))
        refuse_idle("data", self.data, keys=unread, why="simcse reads no images")
        if self.data.captions is None:
            why = "there is no data.captions"
            refuse_idle("data", self.data, keys=("images", "captions_per_image"), why=why)
            refuse_idle("controls", self.controls, keys=("num_pairs",), why=why)
        check_mix(self.mix, self.data)
