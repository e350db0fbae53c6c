"""Captions and images to train one space on, and images held out to select the checkpoint by.

I held-out images, C their captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import select_captions
from mcse.data.config import ControlsConfig, JointDataConfig
from mcse.data.controls import assign_images, choose_pairs
from mcse.data.images.features import FeatureStore
from mcse.data.images.pixels import PixelRows
from mcse.data.load import (
    MatchedCaptions,
    caption_files,
    captions_to_images,
    clean_images,
    tests_folder,
)
from mcse.data.seeds import Draw
from mcse.types import DataFile


@dataclass(frozen=True, slots=True)
class DevImages:
    """Held-out images: all their captions, image after image, the image of each, and the row of each image."""

    captions: tuple[str, ...]
    image_C: NDArray[np.int64]
    row_I: NDArray[np.int64]

    def __len__(self) -> int:
        """I."""
        return len(self.row_I)


@dataclass(frozen=True, slots=True)
class JointPairs:
    """Captions to train on, the row of the image that each is shown with, and the held-out images.

    ``num_left_out``: images whose images nobody could read. ``files`` are what was read.
    """

    captions: tuple[str, ...]
    image_of_caption: NDArray[np.int64]
    num_images: int
    num_left_out: int
    dev: DevImages | None
    files: tuple[DataFile, ...]

    def only(self, keep: Callable[[str], bool]) -> tuple[JointPairs, int]:
        """The pairs whose caption ``keep`` wants, and how many others there were.

        Raises:
            ValueError: No pair is left.
        """
        kept = [number for number, caption in enumerate(self.captions) if keep(caption)]
        if not kept:
            raise ValueError("data.captions: no caption has a word that the text side knows")
        captions = tuple(self.captions[number] for number in kept)
        part = replace(self, captions=captions, image_of_caption=self.image_of_caption[kept])
        return part, len(self.captions) - len(kept)


def load_joint_pairs(
    config: JointDataConfig, *, controls: ControlsConfig, seed: int, images: FeatureStore | PixelRows
) -> JointPairs:
    """Captions with images, less those of the held-out images, as ``controls`` say.

    Controls change the training pairs alone: held-out images keep their own captions.

    Raises:
        FileNotFoundError: ``data.dev_images`` names a file that is not there.
        ValueError: Images without images; ``data.dev_images`` lists images without captions, or leaves none to train
            on.
    """
    matched = captions_to_images(config, images)
    dev = _held_out(config, matched, seed=seed, images=images)
    table = matched if dev is None else _part(matched, ~np.isin(matched.row_of_image, dev.row_of_image))
    captions, image_of_caption = select_captions(table.table, mode=config.captions_per_image, seed=seed)
    clean = np.flatnonzero(clean_images(table.table, tests_folder(config))[image_of_caption])
    kept = clean[choose_pairs(len(clean), controls.num_pairs, seed=seed)]
    if not len(kept):
        raise ValueError(f"data.captions: no captions of {matched.table.source} are left to train on")
    image_of_caption = table.row_of_image[image_of_caption[kept]]
    return JointPairs(
        captions=tuple(captions[row] for row in kept),
        image_of_caption=assign_images(image_of_caption, controls.images, seed=seed),
        num_images=len(np.unique(image_of_caption)),
        num_left_out=matched.num_left_out,
        dev=None if dev is None else _dev_images(dev),
        files=caption_files(config, matched.table, captions),
    )


def _held_out(
    config: JointDataConfig, matched: MatchedCaptions, *, seed: int, images: FeatureStore | PixelRows
) -> MatchedCaptions | None:
    """The images of ``data.dev_images``; of a number of them only images with captions."""
    if config.dev_images is None:
        return None
    if isinstance(config.dev_images, str) and config.dev_images.startswith("::"):
        source = str(config.captions).partition("::")[0]
        return captions_to_images(replace(config, captions=source + config.dev_images, images=None), images)
    if isinstance(config.dev_images, str):
        path = config.folder / config.dev_images
        if not path.is_file():
            raise config.absent(config.dev_images, f"data.dev_images: no file at {path}")
        return captions_to_images(replace(config, images=config.dev_images), images)
    with_captions = np.flatnonzero([len(several) > 0 for several in matched.table.captions])
    if config.dev_images >= len(with_captions):
        raise ValueError(
            f"data.dev_images: {config.dev_images} of {len(with_captions)} images with captions leave none to train on"
        )
    generator = np.random.default_rng([seed, Draw.DEV_IMAGES])
    chosen = np.zeros(len(matched.table), dtype=np.bool_)
    chosen[generator.permutation(with_captions)[: config.dev_images]] = True
    return _part(matched, chosen)


def _part(matched: MatchedCaptions, chosen: NDArray[np.bool_]) -> MatchedCaptions:
    table = matched.table.take(np.flatnonzero(chosen).tolist())
    return MatchedCaptions(table, matched.row_of_image[chosen], matched.num_left_out)


def _dev_images(part: MatchedCaptions) -> DevImages:
    several = part.table.captions
    return DevImages(
        captions=tuple(caption for captions in several for caption in captions),
        image_C=np.repeat(np.arange(len(several)), [len(captions) for captions in several]),
        row_I=part.row_of_image,
    )
