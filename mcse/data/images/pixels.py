"""Images read as pixels while training runs, for image towers that work inside the step.

B images of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcse.data.captions.table import CaptionTable, without_images
from mcse.data.images.names import ABSENT, find_names
from mcse.data.images.sources import (
    READING_THREADS,
    ImageSource,
    OnBadImage,
    SkippedImage,
    digest_of_images,
    find_bad_images,
    read_distinct,
)
from mcse.data.streams import RowNumbers
from mcse.images import BadImageError
from mcse.types import DataFile, FloatArray

FindBad: TypeAlias = Callable[[ImageSource, Sequence[int]], list[SkippedImage]]

_logger = logging.getLogger(__name__)


class PixelRows:
    """Images read and preprocessed when a batch asks for them.

    Args:
        source: The images.
        preprocess: An image to (3, height, width), as the image tower wants it.
        origin: Where the images are, for messages.
        on_bad: Whether images that cannot be read stop the run or lose their captions.
        find_bad: Those of the images that cannot be read; several processes may share the work.
        threads: How many images are decoded at a time.
    """

    label = "images"
    made_by: Mapping[str, str | None] = {}

    def __init__(
        self,
        source: ImageSource,
        preprocess: Callable[[Image.Image], Tensor],
        *,
        origin: str,
        on_bad: OnBadImage = "error",
        find_bad: FindBad = find_bad_images,
        threads: int = READING_THREADS,
    ) -> None:
        self.source, self.preprocess, self.origin = source, preprocess, origin
        self.on_bad, self.find_bad, self.threads = on_bad, find_bad, threads

    @property
    def names(self) -> tuple[str, ...]:
        """One an image."""
        return self.source.names

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, 3, height, width) float32; an image that is asked for twice is read once.

        Raises:
            BadImageError: One cannot be read, by name.
        """
        return read_distinct(self._read, index, threads=self.threads)

    def digest(self, index: NDArray[np.int64]) -> str:
        """Of the images at ``index``: names and every byte, in about a tenth of the time that decoding them takes."""
        return digest_of_images(self.source, index.tolist(), threads=self.threads)

    def file(self, index: RowNumbers) -> DataFile:
        """The images at ``index``."""
        assert isinstance(index, np.ndarray)
        return DataFile("images", self.origin, self.digest(np.unique(index)))

    def match(self, table: CaptionTable) -> tuple[CaptionTable, NDArray[np.int64]]:
        """As ``captions_to_pixels``."""
        return captions_to_pixels(table, self)

    def unreadable(self, index: Sequence[int]) -> frozenset[int]:
        """Those of the images at ``index`` that cannot be read; every one is decoded."""
        bad = {image.name for image in find_bad_images(self.source, index)}
        return frozenset(row for row in index if self.source.names[row] in bad)

    def _read(self, row: int) -> FloatArray:
        pixels: FloatArray = self.preprocess(self.source.load(row)).numpy()
        return pixels


def captions_to_pixels(table: CaptionTable, pixels: PixelRows) -> tuple[CaptionTable, NDArray[np.int64]]:
    """The captions whose images can be read, and the row of each one's image; every image is decoded once here.

    Raises:
        ValueError: The captions have no image names; images are missing or cannot be read, under ``error`` any (count
            and first), under ``skip`` all.
    """
    where = f"data.images {pixels.origin} against {table.source}"
    if table.image_names is None:
        raise ValueError(
            f"{where}: these captions have no image names, so nothing says which image is whose; "
            "give captions with names, or stored features (data.images.features)"
        )
    _logger.warning("%s: looking whether all %d images can be read", where, len(table))
    rows = find_names(table.image_names, pixels.source.names, where=where).tolist()
    found = pixels.find_bad(pixels.source, [row for row in rows if row != ABSENT])
    reasons = {image.name: image.reason for image in found}
    bad: dict[str, str] = {}
    for name, row in zip(table.image_names, rows, strict=True):
        if row == ABSENT:
            bad[name] = f"image {name}: not in {pixels.origin}"
        elif pixels.source.names[row] in reasons:
            bad[name] = reasons[pixels.source.names[row]]
    if bad and pixels.on_bad == "error":
        raise BadImageError(
            f"{where}: {len(bad)} of {len(table)} images are missing or cannot be read, first: "
            f"{next(iter(bad.values()))}; data.images.on_bad skip leaves out their captions"
        )
    names = table.image_names
    table = without_images(table, bad, where=f"data.images {pixels.origin}")
    return table, np.asarray([row for name, row in zip(names, rows, strict=True) if name not in bad], dtype=np.int64)
