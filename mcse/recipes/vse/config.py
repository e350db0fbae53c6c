"""Settings of the recipe ``vse``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mcse.data.config import JointDataConfig
from mcse.data.controls_config import ControlsConfig
from mcse.models.config import CaptionEncoderConfig, ImageConfig, JointConfig
from mcse.recipes.base import RunConfig
from mcse.training.config import SteppedOptimConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingConfig:
    """Hinges: a correct pair is more similar than wrong ones, by a margin."""

    kind: Literal["ranking"] = "ranking"
    """Hinges. Source: Kiros et al. 2014."""

    margin: float = 0.2
    """Of cosines. Source: Kiros et al. 2014."""

    negatives: Literal["sum", "hardest"] = "sum"
    """Hinges over all wrong pairs, or the ``hardest`` of each query. Source: VSE++ has the latter."""

    unit_images: bool = True
    """Whether images' embeddings have length 1 in training. Source: the reference code leaves them as they are.

    The margin then acts on scores without a bound; evaluation always compares cosines.
    """

    reduction: Literal["sum", "mean"] = "sum"
    """``sum`` over the batch, to which the published learning rate and clipping belong, or ``mean`` over its pairs."""

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise ValueError(f"loss.margin: must be positive, got {self.margin}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoNceConfig:
    """Cross entropy over the batch."""

    kind: Literal["info_nce"]
    """Cross entropy."""

    temperature: float = 0.05
    """Divides cosines."""

    reduction: Literal["sum", "mean"] = "sum"
    """``sum`` over the batch, or ``mean`` over its pairs."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature: must be positive, got {self.temperature}")


LossConfig: TypeAlias = RankingConfig | InfoNceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run."""

    recipe: Literal["vse"]
    """Captions and images in one space."""

    encoder: CaptionEncoderConfig
    """The encoder of captions."""

    data: JointDataConfig
    """Captions with images, and images held out."""

    optim: SteppedOptimConfig
    """The optimizer and its learning-rate schedule."""

    joint: JointConfig = field(default_factory=JointConfig)
    """The space in common."""

    loss: LossConfig = field(default_factory=RankingConfig)
    """What is minimised."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """How the image side learns."""

    controls: ControlsConfig = field(default_factory=ControlsConfig)
    """Which image a caption is shown with, and how many captions there are."""

    def __post_init__(self) -> None:
        if self.data.dev_images is None and self.train.select_by is not None:
            raise ValueError(
                f"train.select_by: {self.train.select_by!r} needs images that are held out; give data.dev_images, such "
                "as 500, or train.select_by null"
            )
