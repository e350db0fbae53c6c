"""The image side that recipes share: stored features, or a tower that reads images inside the step. Not a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import nn
from torch.optim import Optimizer

from mcse import distributed
from mcse.data import source_variants as sources
from mcse.data.config import DataRoot, PairedDataConfig
from mcse.data.images.sources import ImageSource, SkippedImage, find_bad_images
from mcse.data.images.training import NamedImages
from mcse.data.load import load_features, open_caption_shards, open_pixels
from mcse.data.shards.pairs import ShardFeatures, ShardImages, ShardPixels
from mcse.data.streams import RowNumbers
from mcse.manifest import ImageSide
from mcse.models.image_tower import FrozenTower, ImageTower, load_image_tower, tower_commit, tower_path
from mcse.training.config import OptimConfig
from mcse.training.optim import build_optimizer
from mcse.types import DataFile

Rows = TypeVar("Rows", bound=NamedImages | ShardImages, covariant=True)
GivenRows = TypeVar("GivenRows", bound=NamedImages | ShardImages)


@dataclass(frozen=True, slots=True)
class Images(Generic[Rows]):
    """The images of a run: rows of ``width`` numbers in ``regions`` parts, or pixels that ``tower`` makes into such.

    ``learning_rate`` is that of a trained tower, if it has one of its own.
    """

    rows: Rows
    width: int
    regions: int = 1
    tower: ImageTower | None = None
    is_trained: bool = False
    learning_rate: float | None = None

    @property
    def module(self) -> nn.Module | None:
        """What the model runs inside the step."""
        return self.tower if self.tower is None or self.is_trained else FrozenTower(self.tower)

    @property
    def trained_tower(self) -> ImageTower | None:
        """The tower, where a checkpoint must hold its weights."""
        return self.tower if self.is_trained else None

    @property
    def facts(self) -> dict[str, str]:
        """For the start of a run."""
        if self.tower is None:
            return {}
        commit = tower_commit(self.tower.spec)
        pinned = f" at commit {commit}" if commit else ""
        return {"image tower": f"{self.tower.spec}{pinned}, {'trained' if self.is_trained else 'frozen'}"}

    def file(self, image_of_caption: RowNumbers) -> DataFile:
        """What was read: the store, the shards, or the images of these captions."""
        return self.rows.file(image_of_caption)

    @property
    def tower_files(self) -> tuple[DataFile, ...]:
        """The weights of the tower, if there is one."""
        return () if self.tower is None else (DataFile("image tower", self.tower.spec, self.tower.digest()),)

    def stored(self, file: DataFile) -> ImageSide:
        """What a checkpoint's manifest says of the images; ``file`` is what ``self.file`` gave."""
        described = f"{self.rows.label} ({file.digest}"
        if self.tower is None:
            made = self.rows.made_by
            return ImageSide(
                tower=made.get("tower"),
                preprocessing=made.get("preprocessing"),
                weights=made.get("weights"),
                features=f"{described}, {self.width} wide)",
            )
        return ImageSide(
            tower=self.tower.spec,
            preprocessing=self.tower.preprocessing,
            weights=None if self.is_trained else self.tower.digest(),
            is_trained=self.is_trained,
            features=f"{described}), read in training, {self.width} wide",
        )


def open_images(data: DataRoot, source: sources.Features | sources.Folder | sources.PairedTable) -> Images[NamedImages]:
    """Stored features, or image files and their tower.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It cannot be read, the tower cannot be loaded, or a tower without weights is to be trained.
    """
    if isinstance(source, sources.Features):
        store = load_features(data, source)
        return Images(store, width=store.width, regions=store.regions)
    tower = _load_tower(source)
    pixels = open_pixels(data, source, tower.preprocess, find_bad=find_bad_together)
    return _seen(pixels, tower, source)


def open_paired_images(data: PairedDataConfig) -> Images[NamedImages | ShardImages]:
    """As ``open_images``, or what lies beside the captions in their shards."""
    source = data.images
    if isinstance(source, sources.Features | sources.Folder | sources.PairedTable):
        return open_images(data, source)
    assert isinstance(data.captions, sources.ShardCaptions)
    shards = open_caption_shards(data, data.captions)
    if isinstance(source, sources.FeaturesInShards):
        features = ShardFeatures(shards)
        return Images(features, width=features.width)
    tower = _load_tower(source)
    return _seen(ShardPixels(shards, tower.preprocess), tower, source)


def _load_tower(source: sources.Tower) -> ImageTower:
    if source.train and tower_path(source.tower, weights=False) is not None:
        raise ValueError(
            f"data.images.train: {source.tower} is a folder of this machine, and a checkpoint names its tower by a "
            "tag; give MODEL/FILE, the architecture and the file of its weights"
        )
    tower = load_image_tower(source.tower)
    if source.train and not list(tower.parameters()):
        raise ValueError(f"data.images.train: {source.tower} has no weights to train")
    return tower


def _seen(rows: GivenRows, tower: ImageTower, source: sources.Tower) -> Images[GivenRows]:
    return Images(
        rows,
        width=tower.width,
        regions=tower.regions,
        tower=tower,
        is_trained=source.train,
        learning_rate=source.learning_rate,
    )


def build_parted_optimizer(parts: Sequence[tuple[nn.Module | None, float | None]], optim: OptimConfig) -> Optimizer:
    """The optimizer over several parts, each at a peak rate of its own; ``None`` is ``optim.learning_rate``.

    Raises:
        ValueError: No part has parameters that train.
    """
    # A side may have nothing to learn: words that stay as they were, features that are not mapped.
    trained = [
        (module, rate)
        for module, rate in parts
        if module is not None and any(p.requires_grad for p in module.parameters())
    ]
    if not trained:
        raise ValueError("nothing would be trained: every part of the model stays as it is")
    optimizers = [
        build_optimizer(module, replace(optim, learning_rate=rate or optim.learning_rate)) for module, rate in trained
    ]
    for other in optimizers[1:]:
        for group in other.param_groups:
            optimizers[0].add_param_group(group)
    return optimizers[0]


def find_bad_together(source: ImageSource, index: Sequence[int]) -> list[SkippedImage]:
    """Each process looks at its share, and all get the same answer: they must agree on which captions there are."""
    own = find_bad_images(source, index[distributed.rank() :: distributed.world_size()])
    return [image for part in distributed.all_gather_object(own) for image in part]


__all__ = ["Images", "build_parted_optimizer", "find_bad_together", "open_images", "open_paired_images"]
