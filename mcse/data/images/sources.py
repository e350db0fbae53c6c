"""Images by name: from a folder tree, or from the image column of a Hugging Face dataset."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcse.data.captions.hub import hub_columns, image_names, load_split
from mcse.data.images.names import IMAGE_SUFFIXES, is_image_file
from mcse.files import digest_of, sha256_bytes, sha256_file
from mcse.images import BadImageError, decode_image, load_image
from mcse.types import FloatArray

OnBadImage: TypeAlias = Literal["error", "skip"]

logger = logging.getLogger(__name__)

READING_THREADS = 4
_LISTED = 5


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that could not be read, and why."""

    name: str
    reason: str


class ImageSource(Protocol):
    """Images that have names and are read one at a time. Safe to use from several threads, and to pickle."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name an image, all different."""
        ...

    def load(self, index: int) -> Image.Image:
        """The image in RGB, upright; ``BadImageError`` where it cannot be read."""
        ...

    def digest(self, index: int) -> str:
        """Of the image's bytes as they are stored; ``OSError`` where they are gone."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The image files below ``root``, sorted; a name is the path below ``root``."""

    root: Path
    names: tuple[str, ...]

    def load(self, index: int) -> Image.Image:
        """The image in RGB, upright; ``BadImageError`` where it cannot be read."""
        return load_image(self.root / self.names[index])

    def digest(self, index: int) -> str:
        """Of the file's bytes; ``OSError`` where it is gone."""
        return sha256_file(self.root / self.names[index])


class HubImages:
    """The images of a Hugging Face dataset; rows of one name are one image."""

    def __init__(self, dataset: datasets.Dataset, names: Sequence[str], *, column: str, source: str) -> None:
        first_row: dict[str, int] = {}
        for row, name in enumerate(names):
            first_row.setdefault(name, row)
        self.names = tuple(first_row)
        self._rows = tuple(first_row.values())
        self._column = column
        self._source = source
        self._dataset = dataset.cast_column(column, datasets.Image(decode=False))

    def load(self, index: int) -> Image.Image:
        """The image in RGB, upright; ``BadImageError`` where it cannot be read."""
        stored = self._dataset[self._rows[index]][self._column]
        if stored is None or not (stored["bytes"] or stored["path"]):
            raise BadImageError(f"image {self.names[index]} of {self._source}: the cell is empty")
        if stored["bytes"] is None:
            return load_image(Path(stored["path"]))
        return decode_image(io.BytesIO(stored["bytes"]), name=f"{self.names[index]} of {self._source}")

    def digest(self, index: int) -> str:
        """Of the image's bytes, in the table or in the file that it names; ``OSError`` where that is gone."""
        stored = self._dataset[self._rows[index]][self._column] or {"bytes": b"", "path": None}
        if stored["bytes"] is None and stored["path"]:
            return sha256_file(Path(stored["path"]))
        return sha256_bytes(stored["bytes"] or b"")


def open_images(source: str) -> ImageSource:
    """The images of a folder (searched to any depth), or of a Hugging Face dataset (``folder-or-id::split``).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images in it, or a dataset without an image and a caption column.
    """
    path_part, _, split = source.partition("::")
    root = Path(path_part)
    if root.is_file():
        raise ValueError(f"images {root}: a file; give the folder that holds the images")
    if not root.is_dir() and (not path_part.count("/") == 1 or path_part.startswith((".", "/"))):
        raise FileNotFoundError(f"images {root}: no such folder")
    if root.is_dir():
        names = _text_names(
            sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if is_image_file(p) and p.is_file()),
            root=root,
        )
        if names and not split:
            return ImageFolder(root, names)
        if not any(p.suffix in (".parquet", ".arrow") for p in root.rglob("*")):
            reason = "no splits in a folder of images; remove '::" + split + "'" if names else "no images in it"
            raise ValueError(f"images {root}: {reason} (looked for {', '.join(IMAGE_SUFFIXES)} and .parquet)")
    dataset = load_split(path_part, split=split or None)
    columns = hub_columns(dataset, source=source)
    return HubImages(dataset, image_names(dataset, columns, source=source), column=columns.image, source=source)


def _text_names(names: Sequence[str], *, root: Path) -> tuple[str, ...]:
    """Those that are text, which all but a few are: no store could write the others down, and no caption name them."""
    odd = [name for name in names if not name.isascii() and any("\ud800" <= sign <= "\udfff" for sign in name)]
    if odd:
        listed = ", ".join(ascii(name) for name in odd[:_LISTED]) + (", …" if len(odd) > _LISTED else "")
        logger.warning(
            "images %s: %d of %d files are left out, whose names are not UTF-8: %s; rename them",
            *(root, len(odd), len(names), listed),
        )
    return tuple(name for name in names if name not in set(odd))


def find_bad_images(source: ImageSource, index: Sequence[int], *, threads: int = READING_THREADS) -> list[SkippedImage]:
    """Those of the images at ``index`` that cannot be read: decodes every one, so minutes for a large set."""

    def problem(i: int) -> SkippedImage | None:
        try:
            source.load(i)
        except BadImageError as error:
            return SkippedImage(source.names[i], str(error))
        return None

    with ThreadPoolExecutor(threads) as pool:
        return [bad for bad in pool.map(problem, index) if bad is not None]


def digest_of_images(source: ImageSource, index: Sequence[int], *, threads: int = READING_THREADS) -> str:
    """Of the images at ``index``: names and every byte, whatever their order."""
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda row: f"{source.names[row]} {source.digest(row)}", index)
        return digest_of(*sorted(found))


def read_distinct(
    read: Callable[[int], FloatArray], index: NDArray[np.int64], *, threads: int = READING_THREADS
) -> FloatArray:
    """(B, …) what ``read`` gives for each of ``index``, in threads; what is asked for twice is read once."""
    unique, inverse = np.unique(index, return_inverse=True)
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(read, unique.tolist())))[inverse]
