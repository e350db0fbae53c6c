"""Settings of the recipe ``maf``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcse.config import refuse_idle
from mcse.data.config import (
    ControlsConfig,
    TaggedConfig,
)
from mcse.models.config import EncoderConfig, ImageConfig, TaggerConfig
from mcse.training.config import OptimConfig, TrainConfig

_POOLINGS = ("cls", "mean", "max")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """L = ``tagging_weight`` · CRF + ``alignment_weight`` · InfoNCE + ``matching_weight`` · matching.

    Published: λ = 0.62 for tagging and 1 − λ for the other two. ``alignment_weight`` 0 leaves the term out.
    ``text_to_image_share`` is λ_c. ``num_swapped`` (2k) tweets of a global batch exchange images for the matching
    loss; ``tag_on_swapped`` tags them with the wrong image, too, as the released code does.
    """

    tagging_weight: float = 0.62
    alignment_weight: float = 0.38
    matching_weight: float = 0.38
    temperature: float = 0.179
    text_to_image_share: float = 0.7
    num_swapped: int = 16
    tag_on_swapped: bool = False

    def __post_init__(self) -> None:
        for key in ("tagging_weight", "temperature"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.{key}: must be positive, got {getattr(self, key)}")
        for key in ("alignment_weight", "matching_weight", "num_swapped"):
            if getattr(self, key) < 0:
                raise ValueError(f"loss.{key}: must be 0 or more, got {getattr(self, key)}")
        if not 0 <= self.text_to_image_share <= 1:
            raise ValueError(f"loss.text_to_image_share: must be in [0, 1], got {self.text_to_image_share}")
        if self.alignment_weight == 0:
            why = "loss.alignment_weight is 0"
            refuse_idle("loss", self, keys=("temperature", "text_to_image_share"), why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One complete run. Without ``data.features`` and ``image.tower`` it is encoder and CRF on text alone.

    ``encoder.pooling`` is the text's own row for alignment and matching: ``cls`` as published, ``mean`` or ``max``.
    """

    recipe: Literal["maf"]
    output_dir: Path
    encoder: EncoderConfig
    data: TaggedConfig
    optim: OptimConfig
    train: TrainConfig
    seed: int = 42
    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)

    def __post_init__(self) -> None:
        _check_images(self.data, self.image)
        if self.encoder.pooling not in _POOLINGS:
            raise ValueError(f"encoder.pooling: maf takes {', '.join(_POOLINGS)}, got {self.encoder.pooling!r}")
        why = "maf needs a batch's words side by side, as they are"
        refuse_idle("encoder", self.encoder, keys=("length_chunks", "packing", "compile"), why=why)
        refuse_idle("image", self.image, keys=("head_learning_rate",), why="maf has tagger.learning_rate")
        refuse_idle("controls", self.controls, keys=("num_pairs",), why="maf trains on every tweet")
        if self.train.cached_chunk_size is not None:
            raise ValueError("train.cached_chunk_size: maf's swaps need a whole batch in one forward pass")
        if not self.reads_images:
            why = "text alone is read (no data.features, no image.tower)"
            if self.controls.images is not True:
                raise ValueError(f"controls.images: {self.controls.images!r} would do nothing, since {why}")
            refuse_idle("encoder", self.encoder, keys=("pooling",), why=why)
            of_images = ("matching", "match_threshold", "image_dropout", "image_row", "heads", "standardise")
            refuse_idle("tagger", self.tagger, keys=of_images, why=why)
            keys = ("alignment_weight", "matching_weight", "temperature", "num_swapped", "tag_on_swapped")
            refuse_idle("loss", self.loss, keys=keys, why=why)
            return
        if self.loss.alignment_weight == 0 and self.tagger.matching != "corrected":
            why = "neither alignment nor corrected matching reads it"
            refuse_idle("tagger", self.tagger, keys=("image_row",), why=why)
        if self.tagger.matching == "none":
            own = ("matching_weight", "num_swapped", "tag_on_swapped")
            refuse_idle("loss", self.loss, keys=own, why="tagger.matching is none")
            refuse_idle("tagger", self.tagger, keys=("match_threshold",), why="tagger.matching is none")

    @property
    def reads_images(self) -> bool:
        """Whether there are images at all."""
        return self.data.features is not None or self.image.tower is not None


def _check_images(data: TaggedConfig, image: ImageConfig) -> None:
    """Refuses a tower without images, and images without a tower; neither is text alone."""
    if data.features is not None and image.tower is not None:
        raise ValueError(f"data.features, image.tower: got {data.features!r} and {image.tower!r}; give one of them")
    if (data.image_folder is None) != (image.tower is None):
        raise ValueError(
            f"data.image_folder, image.tower: got {data.image_folder!r} and {image.tower!r}; give both, or neither"
        )
