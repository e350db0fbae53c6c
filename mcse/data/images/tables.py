"""Tables whose rows are images with captions: a column names files, or holds the images themselves."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from mcse.data.captions.files import caption_texts
from mcse.data.captions.table import CaptionTable
from mcse.data.config import DataRoot
from mcse.data.images.names import name_of_cell
from mcse.data.images.sources import ImageFolder, ImageSource, open_images
from mcse.data.named_columns import OpenTable, check_columns, check_header, open_source, say_columns
from mcse.data.source_variants import CaptionedTable, ImageColumn
from mcse.data.tables import CAPTIONS, find_columns, in_one_line, shown_names
from mcse.errors import said
from mcse.files import digest_of, sha256_file
from mcse.images import decode_image, load_image

logger = logging.getLogger(__name__)

_PLAIN = {"image": CAPTIONS["image"], "caption": (*CAPTIONS["caption"], "description")}
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NAME_LETTERS = 16
"""Of a digest, which names an image that has no path."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """An image as a row gives it: its name, and of one that is stored in the table the digest of its bytes."""

    name: str
    content: str | None


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A table whose columns of images, and of captions if they were asked for, have been found.

    Attributes:
        source: The file, folder or dataset.
        image: The column of images.
        caption: The column of captions; empty unless asked for.
    """

    source: str
    image: str
    caption: str
    _skips_empty: bool
    _table: OpenTable
    _root: Path

    def captions(self) -> CaptionTable:
        """The captions of each image, in order of first appearance.

        Raises:
            ValueError: A row without image or caption, unless these are left out; an address instead of an image; or a
                cell that is neither. Names row and column.
        """
        grouped: dict[str, list[str]] = {}
        names, read, lacking = _Names(), 0, {self.image: 0, self.caption: 0}
        for where, (image, value) in self._table.read([self.image, self.caption]):
            read += 1
            cell = names.cell(image, where=f"{where}, column {self.image!r}")
            texts = [in_one_line(text) for text in _texts(value, where=f"{where}, column {self.caption!r}")]
            kept = [text for text in texts if text]
            if cell is None or not kept or (len(kept) < len(texts) and not self._skips_empty):
                column = self.image if cell is None else self.caption
                if not self._skips_empty:
                    raise ValueError(f"{where}: the column {column!r} is empty; empty_rows: skip leaves such rows out")
                lacking[column] += 1
                continue
            grouped.setdefault(cell.name, []).extend(kept)
        if any(lacking.values()):
            counts = " and ".join(f"{number} without {column!r}" for column, number in lacking.items() if number)
            logger.warning("%s: left out %d of %d rows, %s", self.source, sum(lacking.values()), read, counts)
        if not grouped:
            raise ValueError(f"{self.source} holds no image with a caption")
        files = (Path(self.source),) if Path(self.source).is_file() else ()
        return CaptionTable(tuple(grouped), tuple(map(tuple, grouped.values())), self.source, files)

    def images(self, *, must_be_there: bool = False) -> ImageSource:
        """The images, in order of first appearance; rows without one are left out and counted.

        Relative paths start at the table's folder, at the root of the data, or at ``MCSE_DATA``: at the first that has
        the first image, or else any of them.

        Args:
            must_be_there: Whether it is an error if none of the files is in any of these folders.

        Raises:
            ValueError: An address instead of an image, or a cell that is neither a path nor an image.
            FileNotFoundError: As ``must_be_there`` says; names the folders.
        """
        names, places, read, empty = _Names(), dict[str, tuple[int, str | None]](), 0, 0
        for where, (image,) in self._table.read([self.image]):
            cell = names.cell(image, where=f"{where}, column {self.image!r}")
            if cell is None:
                empty += 1
            else:
                places.setdefault(cell.name, (read, cell.content))
            read += 1
        if empty:
            logger.warning("%s: %d of %d rows have no image", self.source, empty, read)
        if not places:
            raise ValueError(f"{self.source}: its column {self.image!r} holds no image")
        files = [name for name, (_, content) in places.items() if content is None]
        folder = self._folder(files, must_be_there=must_be_there)
        if all(content is None for _, content in places.values()):
            return ImageFolder(folder, tuple(places))
        dataset = self._table.dataset
        if dataset is None:
            dataset = _as_dataset(Path(self.source), self.image)
        return TableImages(dataset, places, column=self.image, folder=folder, source=self.source)

    def _folder(self, files: Sequence[str], *, must_be_there: bool) -> Path:
        own = Path(self.source).parent if Path(self.source).is_file() else Path(self.source)
        folders = list(dict.fromkeys((own, self._root, DataRoot().folder)))
        for names in (files[:1], files):
            for folder in folders:
                if any((folder / name).is_file() for name in names):
                    return folder
        if files and must_be_there:
            listed = ", ".join(str(folder) for folder in folders)
            raise FileNotFoundError(
                f"{self.source}: none of the {len(files):,} images of its column {self.image!r} is there, such as "
                f"{files[0]}; looked in {listed}"
            )
        return own


def open_image_table(config: ImageColumn, *, root: Path, key: str) -> ImageTable:
    """Finds a table and its column of images, and of captions if ``config`` is of such a table.

    Args:
        config: What the columns are called.
        root: Where relative paths start.
        key: Of the configuration, for messages.

    Raises:
        FileNotFoundError: Neither file nor folder, nor a dataset of the hub.
        ValueError: It lacks a column, or has no plain one; names those that are there.
    """
    table = open_source(config.path, root=root, key=key, line_breaks=config.line_breaks)
    check_header(table)
    given = {"image": config.image}
    if isinstance(config, CaptionedTable):
        given["caption"] = config.caption
    named = {role: name for role, name in given.items() if name is not None}
    check_columns(named, table)
    wanted = {role: _PLAIN[role] for role in given if role not in named}
    plain = find_columns(table.header, wanted, where=table.source)
    if lacking := [role for role in wanted if role not in plain]:
        raise ValueError(
            f"{table.source}: no column is called {', '.join(_PLAIN[lacking[0]][:4])} or the like, among "
            f"{shown_names(table.header)}; say which is which: {', '.join(given)}"
        )
    if plain:
        say_columns(plain, table)
    found = {**named, **plain}
    skips = isinstance(config, CaptionedTable) and config.empty_rows == "skip"
    return ImageTable(table.source, found["image"], found.get("caption", ""), skips, table, root)


def open_images_or_table(name: str, *, column: str | None, key: str) -> ImageSource:
    """The images of a table, where ``name`` is a file or a column of it is named; else as ``open_images`` finds them.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: No images, or a table without a column of images; names those that are there.
    """
    if column is None and not Path(name).is_file():
        return open_images(name)
    return open_image_table(ImageColumn(path=name, image=column), root=Path(), key=key).images()


class TableImages:
    """Images that are stored in a table, as bytes or as ``datasets`` keeps them; some may be files.

    Args:
        dataset: The table's rows by number.
        places: By name the row of each image, and the digest of its bytes; ``None`` of a file.
        column: Of the images.
        folder: Where the files are.
        source: What messages call the table.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        places: Mapping[str, tuple[int, str | None]],
        *,
        column: str,
        folder: Path,
        source: str,
    ) -> None:
        self.names = tuple(places)
        self._contents = tuple(content for _, content in places.values())
        self._rows = tuple(row for row, _ in places.values())
        self._dataset = dataset.select_columns([column]).with_format("arrow")
        self._column, self._folder, self._source = column, folder, source

    def load(self, index: int) -> Image.Image:
        """The image in RGB, upright; ``BadImageError`` where it cannot be read."""
        if self._contents[index] is None:
            return load_image(self._folder / self.names[index])
        value = self._dataset[self._rows[index]][self._column][0].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        return decode_image(io.BytesIO(data), name=f"{self.names[index]} of {self._source}")

    def digest(self, index: int) -> str:
        """Of the image's bytes, in the table or in the file that it names; ``OSError`` where that is gone."""
        content = self._contents[index]
        return sha256_file(self._folder / self.names[index]) if content is None else content


class _Names:
    """What images are called: by their path; without one, or where it is another's, by the digest of their bytes."""

    def __init__(self) -> None:
        self._content: dict[str, str | None] = {}

    def cell(self, value: Any, *, where: str) -> _Cell | None:
        """The image of a cell; ``None`` of an empty one.

        Raises:
            ValueError: An address, or no image; ``where`` opens the message.
        """
        path, data = value, None
        if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
            path, data = value.get("path"), value.get("bytes")
        elif isinstance(value, bytes):
            path, data = None, value
        if not data and (path is None or (isinstance(path, str) and not path.strip())):
            return None
        if not data:
            if isinstance(path, str) and _URL.match(path):
                shown = path if len(path) < 60 else f"{path[:60]}…"
                raise ValueError(
                    f"{where}: {shown} is an address, and nothing is fetched; download it, and name the file"
                )
            return _Cell(name_of_cell(path, where=where), None)
        content = digest_of(data)
        name = Path(path).name if isinstance(path, str) and path else content[:_NAME_LETTERS]
        if self._content.setdefault(name, content) != content:
            name = content[:_NAME_LETTERS]
        return _Cell(name, content)


def _texts(value: Any, *, where: str) -> Sequence[str]:
    return () if value is None else caption_texts(value, where=where)


def _as_dataset(path: Path, column: str) -> datasets.Dataset:
    """The column of a parquet file, by number; a copy of it is kept in the cache of ``datasets``."""
    try:
        return datasets.Dataset.from_parquet(str(path), columns=[column])
    except Exception as error:  # datasets raises many kinds
        raise ValueError(f"{path}: damaged, or no parquet file: {said(error)}") from None
