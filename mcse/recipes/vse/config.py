"""Settings of the recipe ``vse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.config import refuse_idle
from mcse.data.config import (
    ControlsConfig,
    JointDataConfig,
)
from mcse.models.config import CaptionEncoderConfig, ImageConfig, JointConfig
from mcse.recipes.checks import check_images
from mcse.training.config import SteppedOptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """``ranking``: hinges with ``margin`` over all ``negatives`` or the hardest; ``info_nce``: with ``temperature``.

    ``reduction``: the published ``sum`` over the batch, to which the published learning rate and clipping belong, or
    the ``mean`` over its pairs. ``unit_images: false`` leaves images' rows as long as they are while training, as
    the reference code does; the margin then acts on scores without a bound. Evaluation always compares cosines.
    """

    kind: Literal["ranking", "info_nce"] = "ranking"
    margin: float = 0.2
    negatives: Literal["sum", "hardest"] = "sum"
    temperature: float = 0.05
    reduction: Literal["sum", "mean"] = "sum"
    unit_images: bool = True

    def __post_init__(self) -> None:
        why = f"loss.kind is {self.kind}"
        idle = ("margin", "negatives", "unit_images") if self.kind == "info_nce" else ("temperature",)
        refuse_idle("loss", self, keys=idle, why=why)
        for key in ("margin", "temperature"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.{key}: must be positive, got {getattr(self, key)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete run."""

    recipe: Literal["vse"]
    output_dir: Path
    encoder: CaptionEncoderConfig
    data: JointDataConfig
    optim: SteppedOptimConfig
    train: TrainConfig
    seed: int = 42
    joint: JointConfig = field(default_factory=JointConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        if self.data.captions is None:
            raise ValueError("data.captions: vse needs captions with images")
        refuse_idle("data", self.data, keys=("sentences",), why="vse trains on captions alone")
        if not self.data.decontaminate:
            why = "vse selects by data.dev_images, and data.decontaminate is off"
            refuse_idle("data", self.data, keys=("sts",), why=why)
        if self.data.dev_images is None and self.train.select_by is not None:
            raise ValueError(
                f"train.select_by: {self.train.select_by!r} needs images that are held out; give data.dev_images, such "
                "as 500, or train.select_by null"
            )
        check_images(self.image, self.data)
