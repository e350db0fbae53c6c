"""Captions and images to train one space on, and images held out to select the checkpoint by.

I held-out images, C their captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcse.data.config import JointDataConfig
from mcse.data.controls_config import ControlsConfig
from mcse.data.images.training import NamedImages
from mcse.data.load import MatchedCaptions, caption_files, captions_to_images, captions_used, select_pairs
from mcse.data.seeds import Draw
from mcse.data.source_variants import FileCaptions, HubCaptions, Table, TableCaptions
from mcse.files import digest_of
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

    @property
    def digest(self) -> str:
        """Of the captions, and of which of them are of one image."""
        return digest_of(*self.captions, repr(self.image_C.tolist()))


@dataclass(frozen=True, slots=True)
class JointPairs:
    """Captions to train on, the row of the image that each is shown with, and the held-out images.

    ``num_left_out``: images that could not be read. ``files`` are what was read. ``facts`` are for the start of a run,
    as ``captions_used`` has them.
    """

    captions: tuple[str, ...]
    image_of_caption: NDArray[np.int64]
    num_images: int
    num_left_out: int
    dev: DevImages | None
    files: tuple[DataFile, ...]
    facts: Mapping[str, str]

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
    config: JointDataConfig, *, controls: ControlsConfig, seed: int, images: NamedImages
) -> JointPairs:
    """Captions with images, less those of the held-out images, as ``controls`` say.

    Controls change the training pairs alone: held-out images keep their own captions.

    Raises:
        FileNotFoundError: ``data.dev_images`` names a file that is not there.
        ValueError: Images without images; ``data.dev_images`` lists images without captions, or leaves none to train
            on.
    """
    matched = captions_to_images(config, config.captions, images)
    dev = _held_out(config, matched, seed=seed, images=images)
    table = matched if dev is None else _part(matched, ~np.isin(matched.row_of_image, dev.row_of_image))
    held_out = None if dev is None else _dev_images(dev)
    captions, own, shown = select_pairs(config, config.captions, table, controls=controls, seed=seed)
    if not captions:
        raise ValueError(f"data.captions: no captions of {matched.table.source} are left to train on")
    return JointPairs(
        captions=tuple(captions),
        image_of_caption=shown,
        num_images=len(np.unique(own)),
        num_left_out=matched.num_left_out,
        dev=held_out,
        files=(
            *caption_files(config, config.captions, matched.table, captions),
            *(() if held_out is None else (DataFile("dev captions", matched.table.source, held_out.digest),)),
        ),
        facts=captions_used(config.captions.per_image, table.table),
    )


def _held_out(
    config: JointDataConfig, matched: MatchedCaptions, *, seed: int, images: NamedImages
) -> MatchedCaptions | None:
    """The images of ``data.dev_images``; of a number of them only images with captions."""
    if config.dev_images is None:
        return None
    if isinstance(config.dev_images, str) and config.dev_images.startswith("::"):
        return captions_to_images(config, _split(config.captions, config.dev_images), images)
    if isinstance(config.dev_images, str):
        path = config.folder / config.dev_images
        if not path.is_file():
            raise config.absent(config.dev_images, f"data.dev_images: no file at {path}")
        return captions_to_images(config, replace(config.captions, images=config.dev_images), images)
    with_captions = np.flatnonzero([len(several) > 0 for several in matched.table.captions])
    if config.dev_images >= len(with_captions):
        raise ValueError(
            f"data.dev_images: {config.dev_images} of {len(with_captions)} images with captions leave none to train on"
        )
    generator = np.random.default_rng([seed, Draw.DEV_IMAGES])
    chosen = np.zeros(len(matched.table), dtype=np.bool_)
    chosen[generator.permutation(with_captions)[: config.dev_images]] = True
    return _part(matched, chosen)


def _split(source: Table, split: str) -> Table:
    """Another split of the captions, of all its images.

    Raises:
        ValueError: A table, which has no splits.
    """
    if isinstance(source, TableCaptions):
        raise ValueError(f"data.dev_images: {split} is a split, and a table has none; give a number or a file of names")
    if isinstance(source, HubCaptions):
        return HubCaptions(hub=source.hub.partition("::")[0] + split)
    return FileCaptions(file=source.file.partition("::")[0] + split)


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
