"""Settings of the recipe ``unpaired``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mcse.data.config import UnpairedDataConfig
from mcse.models.config import EncoderConfig
from mcse.recipes.base import RunConfig

Contrast: TypeAlias = Literal["supervised", "simclr", "as_published", "random_labels", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """SimCSE's term, and one of images."""

    contrast: Contrast
    """Which views of images become similar.

    ``supervised``: those of a class (SupCon). ``simclr``: those of one image. ``random_labels``: those of a class that
    was drawn for each image. ``as_published``: what VisualCSE's code has, whose positives are wrong. ``none``: images
    are not read at all, which is SimCSE.
    """

    image_weight: float
    """Multiplies the image term. VisualCSE's 0.05 and 0.2 did nothing: its second optimizer forgets a loss's scale."""

    temperature: float = 0.05
    """Divides cosines of sentences. Source: SimCSE."""

    image_temperature: float = 0.07
    """Divides cosines of views. Source: VisualCSE."""

    random_classes: int | None = None
    """Classes that ``random_labels`` draws from; ``null`` deals the folder's own classes anew, sizes and all."""

    def __post_init__(self) -> None:
        for key in ("temperature", "image_temperature"):
            if getattr(self, key) <= 0:
                raise ValueError(f"loss.{key}: must be positive, got {getattr(self, key)}")
        if self.image_weight < 0:
            raise ValueError(f"loss.image_weight: must be 0 or more, got {self.image_weight}")
        if self.random_classes is not None and self.contrast != "random_labels":
            raise ValueError(f"loss.random_classes: would do nothing, since loss.contrast is {self.contrast}")
        if self.random_classes is not None and self.random_classes < 2:
            raise ValueError(f"loss.random_classes: must be 2 or more, got {self.random_classes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """How images become rows that the text encoder's layers read."""

    batch_size: int = 48
    """Images in a process's step, two views each; it adds nothing to ``train.batch_size``. Source: VisualCSE."""

    size: int = 224
    """Pixels of a view's side. Source: VisualCSE."""

    embeddings: str | None = None
    """A ViT as wide as the encoder, of which the embedding layer is taken; ``null`` draws a fresh one.

    A hub id or folder, such as ``google/vit-base-patch16-224-in21k`` for base models, or ``timm:MODEL``. Positions are
    stretched where ``size`` is not the ViT's own.
    """

    patch_size: int | None = None
    """Pixels of a patch's side in a fresh embedding layer; ``null`` is 16."""

    learning_rate: float | None = None
    """The peak rate of embedding layer and image head; ``null`` is ``optim.learning_rate``."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "size", "patch_size", "learning_rate"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"image.{key}: must be positive, got {value}")
        if self.batch_size < 2:
            raise ValueError("image.batch_size: 1 image has no other to be told from; give 2 or more")
        if self.embeddings is not None and self.patch_size is not None:
            raise ValueError("image.patch_size: would do nothing, since the ViT of image.embeddings has its own")
        if self.embeddings is None and self.size % self.fresh_patch_size:
            raise ValueError(f"image.size: {self.size} is no multiple of image.patch_size {self.fresh_patch_size}")

    @property
    def fresh_patch_size(self) -> int:
        """``patch_size``, or what stands for it. Source: ViT."""
        return self.patch_size or 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(RunConfig):
    """One complete run."""

    recipe: Literal["unpaired"]
    """Sentence embeddings from text, and from images that belong to no text."""

    encoder: EncoderConfig
    """The encoder of sentences, whose layers also read images."""

    data: UnpairedDataConfig
    """Sentences, and images."""

    loss: LossConfig
    """The terms of the loss."""

    image: ImageConfig = field(default_factory=ImageConfig)
    """How images become rows."""

    def __post_init__(self) -> None:
        if self.encoder.frozen is True:
            raise ValueError("encoder.frozen: true leaves no layers that images could teach; freeze parts, or none")
        if self.train.cached_chunk_size is not None:
            raise ValueError(
                "train.cached_chunk_size: a step has sentences and images in different numbers, which no one chunk "
                "size cuts; lower train.batch_size or image.batch_size"
            )
