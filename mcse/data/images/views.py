"""Images that belong to no text: their classes, two random views of each, and batches of them.

B images of a process, V views, which are two an image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
import torchvision.transforms.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcse.data.config import DataRoot
from mcse.data.images.names import find_all, read_name_list
from mcse.data.images.pixels import FindBad
from mcse.data.images.sources import READING_THREADS, ImageSource, digest_of_images, find_bad_images, open_images
from mcse.data.seeds import Draw
from mcse.data.source_variants import ImagesAlone
from mcse.data.streams import Sampler, Share
from mcse.images import BadImageError
from mcse.types import DataFile, SentenceBatch, Stream, UnpairedBatch, ViewBatch

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, which views are centred and scaled by."""

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
"""Of a crop: its share of the image's area, and its width over its height."""

_TRIES = 10
_JITTERS, _GREYS = 0.8, 0.2
_CHANGE, _HUE_CHANGE = 0.4, 0.1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImagesWithClasses:
    """The images of a run that can be read.

    Attributes:
        source: All images.
        row_of_image: Where in ``source`` each one is.
        classes: Names, sorted; empty where some image lies in no folder of its own.
        class_of_image: Places among ``classes``; empty where there are none.
        origin: Where the images are, for messages.
        num_bare: How many lie in no folder of their own.
        num_left_out: How many could not be read.
    """

    source: ImageSource
    row_of_image: NDArray[np.int64]
    classes: tuple[str, ...]
    class_of_image: NDArray[np.int64]
    origin: str
    num_bare: int
    num_left_out: int

    def __len__(self) -> int:
        return len(self.row_of_image)

    def file(self) -> DataFile:
        """What a run reads, with a digest of every name and byte."""
        return DataFile("images", self.origin, digest_of_images(self.source, self.row_of_image.tolist()))


def load_images(config: DataRoot, given: ImagesAlone, *, find_bad: FindBad = find_bad_images) -> ImagesWithClasses:
    """The images of ``given``; every one is decoded once here.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It holds no images, lacks some that are listed, or some cannot be read: under ``error`` any (count
            and first), under ``skip`` all.
    """
    name, _, split = given.folder.partition("::")
    path = config.folder / name
    origin = (str(path) if path.exists() else name) + (f"::{split}" if split else "")
    try:
        source = open_images(origin)
    except FileNotFoundError:
        reason = f"data.images.folder: no folder at {path}, and no hub dataset {name!r}"
        raise config.absent(name, reason) from None
    wanted = _listed(config, given, source, origin=origin)
    _logger.warning("data.images %s: looking whether all %d images can be read", origin, len(wanted))
    bad = find_bad(source, wanted)
    if bad and (given.on_bad == "error" or len(bad) == len(wanted)):
        hint = "" if len(bad) == len(wanted) else "; data.images.on_bad skip leaves them out"
        raise BadImageError(
            f"data.images {origin}: {len(bad)} of {len(wanted)} images cannot be read, first: {bad[0].reason}{hint}"
        )
    if bad:
        _logger.warning("data.images %s: %d images are left out, first: %s", origin, len(bad), bad[0].reason)
    unread = {image.name for image in bad}
    rows = [row for row in wanted if source.names[row] not in unread]
    folders = [PurePosixPath(source.names[row]).parts for row in rows]
    found = [parts[0] for parts in folders if len(parts) > 1]
    has_classes = len(found) == len(rows)
    classes, class_of_image = np.unique(found, return_inverse=True) if has_classes else (np.empty(0), np.empty(0))
    return ImagesWithClasses(
        source=source,
        row_of_image=np.asarray(rows, dtype=np.int64),
        classes=tuple(map(str, classes)),
        class_of_image=class_of_image.astype(np.int64),
        origin=origin,
        num_bare=len(rows) - len(found),
        num_left_out=len(bad),
    )


def _listed(config: DataRoot, given: ImagesAlone, source: ImageSource, *, origin: str) -> list[int]:
    """Where in ``source`` the images to use are, in its own order, whatever that of the list."""
    if given.listed is None:
        return list(range(len(source.names)))
    path = config.folder / given.listed
    if not path.is_file():
        raise config.absent(given.listed, f"data.images.listed: no file at {path}")
    rows: list[int] = find_all(read_name_list(path), source.names, where=f"{path} against {origin}").tolist()
    return sorted(rows)


@dataclass(frozen=True, slots=True)
class ViewDraw:
    """What a random view does to an image: a crop, a mirror image, and changes of colour in an order.

    Source: Chen et al. 2020 (SimCLR), appendix A, with the strengths that Khosla et al.'s and VisualCSE's code have.
    """

    box: tuple[int, int, int, int]
    """Top, left, height and width, in pixels of the image."""

    is_mirrored: bool
    changes: tuple[tuple[str, float], ...]
    """Names of ``torchvision.transforms.functional.adjust_…`` and how much."""

    is_grey: bool


def draw_view(generator: np.random.Generator, *, width: int, height: int) -> ViewDraw:
    """The distribution of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and RandomGrayscale."""
    box = _draw_box(generator, width=width, height=height)
    is_mirrored = bool(generator.random() < 0.5)
    changes: list[tuple[str, float]] = []
    if generator.random() < _JITTERS:
        factors = {
            name: generator.uniform(1 - _CHANGE, 1 + _CHANGE) for name in ("brightness", "contrast", "saturation")
        }
        factors["hue"] = generator.uniform(-_HUE_CHANGE, _HUE_CHANGE)
        named = list(factors.items())
        changes = [named[place] for place in generator.permutation(len(named)).tolist()]
    return ViewDraw(box, is_mirrored, tuple(changes), is_grey=bool(generator.random() < _GREYS))


def _draw_box(generator: np.random.Generator, *, width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = generator.integers(height - high + 1), generator.integers(width - wide + 1)
            return int(top), int(left), high, wide
    # An image so narrow that no crop fits gives its middle.
    wide = min(width, max(1, round(height * RATIO[1])))
    high = min(height, max(1, round(width / RATIO[0])))
    return (height - high) // 2, (width - wide) // 2, high, wide


def apply_view(image: Image.Image, draw: ViewDraw, *, size: int) -> Tensor:
    """(3, size, size) float32, centred and scaled."""
    view = F.resized_crop(image, *draw.box, [size, size], F.InterpolationMode.BILINEAR)
    if draw.is_mirrored:
        view = F.hflip(view)
    for name, amount in draw.changes:
        view = getattr(F, f"adjust_{name}")(view, amount)
    if draw.is_grey:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    normalised: Tensor = F.normalize(F.to_tensor(view), MEAN, SPREAD)
    return normalised


class ViewStream:
    """Batches of two views of each image, a fresh permutation of the images each epoch.

    Every image draws from a generator of its own, named by seed, step and its place in the global batch, so that the
    draws depend neither on the number of processes nor on what was drawn before.

    Args:
        images: The images.
        label_of_image: What each becomes similar to.
        share: Of every global batch of images.
        seed: Names the draws.
        size: Height and width of a view, in pixels.
        threads: How many images are decoded at a time.

    Raises:
        ValueError: The images do not fill one batch.
    """

    def __init__(
        self,
        images: ImagesWithClasses,
        label_of_image: NDArray[np.int64],
        share: Share,
        *,
        seed: int,
        size: int,
        threads: int = READING_THREADS,
    ) -> None:
        if len(images) < share.global_batch_size:
            raise ValueError(
                f"data.images: {len(images)} images are fewer than one batch of {share.global_batch_size} "
                f"(image.batch_size {share.batch_size} on {share.world_size} processes)"
            )
        self.images, self.label_of_image, self.share = images, label_of_image, share
        self.seed, self.size, self.threads = seed, size, threads
        self.sampler = Sampler(len(images), share, seed=seed, name="data.images")

    def batch(self, step: int) -> ViewBatch:
        """This process's images of ``step``.

        Raises:
            BadImageError: One can no longer be read, by name.
        """
        index_B = self.sampler.index(step)
        first = self.share.rank * self.share.batch_size
        with ThreadPoolExecutor(self.threads) as pool:
            pairs = list(pool.map(lambda at: self._views(int(index_B[at]), step, first + at), range(len(index_B))))
        dropout_seed = np.random.default_rng([self.seed, Draw.VIEW_DROPOUT, step, self.share.rank]).integers(2**62)
        return ViewBatch(
            pixel_V3HW=torch.stack([view for views in zip(*pairs, strict=True) for view in views]),
            label_B=torch.from_numpy(self.label_of_image[index_B]),
            dropout_seed=int(dropout_seed),
        )

    def _views(self, image: int, step: int, place: int) -> Sequence[Tensor]:
        """The image is decoded once; its views are drawn one after the other."""
        generator = np.random.default_rng([self.seed, Draw.VIEWS, step, place])
        loaded = self.images.source.load(int(self.images.row_of_image[image]))
        draws = [draw_view(generator, width=loaded.width, height=loaded.height) for _ in range(2)]
        return [apply_view(loaded, draw, size=self.size) for draw in draws]


class UnpairedStream:
    """Every batch of sentences beside a batch of images; an epoch is one of the sentences."""

    def __init__(self, text: Stream[SentenceBatch], images: ViewStream | None) -> None:
        self.text, self.images = text, images

    @property
    def steps_per_epoch(self) -> int | None:
        """Those of the sentences; ``None`` if they are not counted."""
        return self.text.steps_per_epoch

    def batch(self, step: int) -> UnpairedBatch:
        """This process's sentences and images of ``step``."""
        return UnpairedBatch(self.text.batch(step), None if self.images is None else self.images.batch(step))
