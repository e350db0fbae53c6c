"""The image side that recipes share: stored features, or a tower that reads images inside the step. Not a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from torch.optim import Optimizer

from mcse import distributed
from mcse.data.config import DataConfig
from mcse.data.images.features import FeatureStore
from mcse.data.images.pixels import PixelRows
from mcse.data.images.sources import ImageSource, SkippedImage, find_bad_images
from mcse.data.load import load_features, open_caption_shards, open_pixels, store_digest
from mcse.data.shards.pairs import ShardFeatures, ShardImages, ShardPixels
from mcse.data.streams import RowNumbers
from mcse.manifest import ImageSide
from mcse.models.config import ImageConfig
from mcse.models.image_tower import FrozenTower, ImageTower, load_image_tower
from mcse.training.config import OptimConfig
from mcse.training.optim import build_optimizer
from mcse.types import DataFile


@dataclass(frozen=True, slots=True)
class Images:
    """Where the images of a run come from; ``tower`` reads those that are given as pixels."""

    rows: FeatureStore | PixelRows | ShardImages
    tower: ImageTower | None
    trained: bool

    @property
    def width(self) -> int:
        """F, of the features."""
        if isinstance(self.rows, FeatureStore | ShardFeatures):
            return self.rows.width
        assert self.tower is not None
        return self.tower.width

    @property
    def unsharded(self) -> FeatureStore | PixelRows:
        """``rows``, for recipes that need every caption before the first step.

        Raises:
            ValueError: They stand in tars.
        """
        if isinstance(self.rows, ShardImages):
            raise ValueError("data.captions: this recipe reads no shards; give a caption file")
        return self.rows

    @property
    def module(self) -> nn.Module | None:
        """What the model runs inside the step."""
        return self.tower if self.tower is None or self.trained else FrozenTower(self.tower)

    @property
    def facts(self) -> dict[str, str]:
        """For the start of a run."""
        if self.tower is None:
            return {}
        return {"image tower": f"{self.tower.spec}, {'trained' if self.trained else 'frozen'}"}

    def file(self, image_of_caption: RowNumbers) -> DataFile:
        """What was read: the store, the shards, or the images of these captions."""
        if isinstance(self.rows, FeatureStore):
            return DataFile("features", str(self.rows.path), store_digest(self.rows))
        if isinstance(self.rows, ShardImages):
            role = "features" if isinstance(self.rows, ShardFeatures) else "images"
            return DataFile(role, str(self.rows.shards.paths[0].parent), self.rows.shards.digest)
        assert isinstance(image_of_caption, np.ndarray)
        return DataFile("images", self.rows.origin, self.rows.digest(np.unique(image_of_caption)))

    @property
    def trained_tower(self) -> ImageTower | None:
        """The tower, where a checkpoint must hold its weights."""
        return self.tower if self.trained else None

    def stored(self, file: DataFile) -> ImageSide:
        """What a checkpoint's manifest says of the images; ``file`` is what ``self.file`` gave."""
        if isinstance(self.rows, FeatureStore):
            store = self.rows
            return ImageSide(
                tower=store.tower,
                preprocessing=store.preprocessing,
                weights=store.weights,
                features=f"{store.path.name} ({file.digest}, {store.width} wide)",
            )
        if isinstance(self.rows, ShardFeatures):
            return ImageSide(features=f"rows of shards ({file.digest}, {self.width} wide)")
        assert self.tower is not None
        return ImageSide(
            tower=self.tower.spec,
            preprocessing=self.tower.preprocessing,
            weights=None if self.trained else self.tower.digest(),
            is_trained=self.trained,
            features=f"images ({file.digest}), read in training, {self.width} wide",
        )


def open_images(image: ImageConfig, data: DataConfig) -> Images:
    """The features of ``data.features``, or the images of ``data.image_folder`` and their tower.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It cannot be read, the tower cannot be loaded, or a tower without weights is to be trained.
    """
    shards = open_caption_shards(data) if data.captions_are_shards else None
    if image.tower is None:
        return Images(load_features(data) if shards is None else ShardFeatures(shards), tower=None, trained=False)
    tower = load_image_tower(image.tower)
    if image.train and not list(tower.parameters()):
        raise ValueError(f"image.train: {image.tower} has no weights to train")
    if shards is not None:
        return Images(ShardPixels(shards, tower.preprocess), tower=tower, trained=image.train)
    return Images(open_pixels(data, tower.preprocess, find_bad=_find_bad), tower=tower, trained=image.train)


def build_grounded_optimizer(
    text: nn.Module,
    heads: Sequence[nn.Module],
    tower: ImageTower | None,
    *,
    optim: OptimConfig,
    image: ImageConfig,
) -> Optimizer:
    """AdamW over the text side, and over heads and a trained tower at rates of their own.

    Raises:
        ValueError: No part has parameters that train.
    """
    parts: list[tuple[nn.Module, float | None]] = [(text, None), (nn.ModuleList(heads), image.head_learning_rate)]
    if tower is not None and image.train:
        parts.append((tower, image.learning_rate))
    # A side may have nothing to learn: words that stay as they were, features that are not mapped.
    trained = [(module, rate) for module, rate in parts if any(p.requires_grad for p in module.parameters())]
    if not trained:
        raise ValueError("nothing would be trained: every part of the model stays as it is")
    optimizers = [
        build_optimizer(module, replace(optim, learning_rate=rate or optim.learning_rate)) for module, rate in trained
    ]
    for other in optimizers[1:]:
        for group in other.param_groups:
            optimizers[0].add_param_group(group)
    return optimizers[0]


def _find_bad(source: ImageSource, index: Sequence[int]) -> list[SkippedImage]:
    """Each process looks at its share, and all get the same answer: they must agree on which captions there are."""
    own = find_bad_images(source, index[distributed.rank() :: distributed.world_size()])
    return [image for part in distributed.all_gather_object(own) for image in part]


__all__ = ["Images", "build_grounded_optimizer", "open_images"]
