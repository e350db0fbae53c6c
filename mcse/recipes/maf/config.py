"""Settings of the recipe ``maf``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mcse.data.config import TaggedConfig
from mcse.data.controls_config import ImageControls
from mcse.models.config import FusionConfig, TaggerConfig, TextEncoderConfig
from mcse.recipes.base import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentConfig:
    """InfoNCE in both directions between texts and their images."""

    weight: float = 0.38
    """Published: 1 − λ."""

    temperature: float = 0.179
    """Divides cosines. Source: MAF."""

    text_to_image_share: float = 0.7
    """λ_c, the share of the direction from text to image. Source: MAF."""

    def __post_init__(self) -> None:
        for key in ("weight", "temperature"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.alignment.{key}: must be positive, got {getattr(self, key)}")
        if not 0 <= self.text_to_image_share <= 1:
            share = self.text_to_image_share
            raise ValueError(f"loss.alignment.text_to_image_share: must be in [0, 1], got {share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchingConfig:
    """Whether an image belongs to the text, learned from tweets that exchange images; scales the image's part."""

    kind: Literal["corrected", "published"] = "corrected"
    """``published`` is as released, which cannot learn."""

    weight: float = 0.38
    """Published: 1 − λ."""

    threshold: float = 0.0
    """An image whose match is lower is left out; published: 0, it is only scaled."""

    num_swapped: int = 16
    """Tweets of a global batch that exchange images (2k of the article)."""

    tag_on_swapped: bool = False
    """Whether they are tagged with the wrong image, too, as the released code does."""

    def __post_init__(self) -> None:
        for key in ("weight", "num_swapped"):
            if getattr(self, key) < 0:
                raise ValueError(f"loss.matching.{key}: must be 0 or more, got {getattr(self, key)}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"loss.matching.threshold: must be in [0, 1), got {self.threshold}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The terms of tweets with images."""

    tagging_weight: float = 0.62
    """λ, the weight of the CRF's term. Source: MAF."""

    alignment: AlignmentConfig | None = field(default_factory=AlignmentConfig)
    """Texts and their images; ``null`` leaves the term out."""

    matching: MatchingConfig | None = field(default_factory=MatchingConfig)
    """Whether an image belongs to the text; ``null`` takes every image as it comes."""

    def __post_init__(self) -> None:
        if self.tagging_weight <= 0:
            raise ValueError(f"loss.tagging_weight: must be positive, got {self.tagging_weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run. Without ``data.images`` it is encoder and CRF on text alone, and has no fusion and loss."""

    recipe: Literal["maf"]
    """Named entities in tweets with images."""

    encoder: TextEncoderConfig
    """The encoder of tweets."""

    data: TaggedConfig
    """Tagged tweets, with or without images."""

    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    """What stands on the encoder."""

    fusion: FusionConfig | None = None
    """How a tweet and its image meet; ``null`` is as published, if there are images."""

    loss: LossConfig | None = None
    """The terms of the loss; ``null`` is as published, if there are images."""

    controls: ImageControls = field(default_factory=ImageControls)
    """Which image a tweet is shown with."""

    def __post_init__(self) -> None:
        if self.train.graphs == "cuda_graphs":
            raise ValueError(
                "train.graphs: maf reads every token's row, and only pooled rows are captured; use compile"
            )
        if self.train.cached_chunk_size is not None:
            raise ValueError("train.cached_chunk_size: maf's swaps need a whole batch in one forward pass")
        if self.data.images is None:
            for key, value in {"fusion": self.fusion, "loss": self.loss}.items():
                if value is not None:
                    raise ValueError(f"{key}: would do nothing, since text alone is read (no data.images)")
            for key, own in {"images": True, "wrong_images": 0.0}.items():
                if (value := getattr(self.controls, key)) != own:
                    why = "since text alone is read (no data.images)"
                    raise ValueError(f"controls.{key}: {value!r} would do nothing, {why}")
            return
        fusion, loss = self.fusion or FusionConfig(), self.loss or LossConfig()
        is_matching_read = loss.matching is not None and loss.matching.kind == "corrected"
        if loss.alignment is None and not is_matching_read and fusion.image_row != "project_mean":
            why = "neither alignment nor corrected matching reads it"
            raise ValueError(f"fusion.image_row: {fusion.image_row!r} would do nothing, since {why}")
        object.__setattr__(self, "fusion", fusion)
        object.__setattr__(self, "loss", loss)
