"""Captions and the images they belong to, whatever layout they are stored in.

``load_captions`` recognises the layout by content: see ``caption_files`` for files and folders, ``caption_hub`` for
Hugging Face datasets.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.files import CaptionRow, folder_files, read_folder, read_rows
from mcse.data.captions.hub import read_hub
from mcse.data.images.names import ABSENT, NO_VALUES, find_all, find_names, read_name_list
from mcse.data.seeds import Draw
from mcse.files import text_lines
from mcse.reading import say_read

_logger = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".token", ".gz")


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """The captions of each image.

    ``captions[i]`` are image i's, in file order, stripped. ``image_names`` is None where the file has no names (MCSE's
    own layout, one caption a line): images are then matched by order, and a blank line between others keeps its place
    as ``()``.
    ``files`` were read, for digests; empty for a dataset of the hub.
    """

    image_names: tuple[str, ...] | None
    captions: tuple[tuple[str, ...], ...]
    source: str
    files: tuple[Path, ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.captions)

    def take(self, rows: Iterable[int]) -> CaptionTable:
        """Some of the images, in this order."""
        rows, names = list(rows), self.image_names
        return replace(
            self,
            image_names=None if names is None else tuple(names[row] for row in rows),
            captions=tuple(self.captions[row] for row in rows),
        )

    def joined(self, groups: Iterable[Sequence[int]]) -> CaptionTable:
        """The images of each group as one: the first's name, and the captions of all in order."""
        groups, names = list(groups), self.image_names
        return replace(
            self,
            image_names=None if names is None else tuple(names[rows[0]] for rows in groups),
            captions=tuple(tuple(caption for row in rows for caption in self.captions[row]) for rows in groups),
        )

    @property
    def num_captions(self) -> int:
        """How many captions all images have together."""
        return sum(map(len, self.captions))


def load_captions(source: str, *, images: Path | None = None, split: str | None = None) -> CaptionTable:
    """Captions of a file, an image folder, or a Hugging Face dataset (a folder in hub format, or a hub id).

    Args:
        source: Path or hub id. ``source::train`` is the same as ``split="train"``.
        images: File with one image name or id a line: these images, in this order.
        split: For files and datasets that sort images into splits; several are joined by ``+``. Without it, files give
            every image and hub datasets their ``train`` split.

    Raises:
        FileNotFoundError: neither a path nor a hub id.
        ValueError: empty, not UTF-8 or broken (file and line), no such split, or ``images`` names unknown ones.
    """
    path_part, _, suffix = source.partition("::")
    if suffix and split:
        raise ValueError(f"{source}: the split is given twice, as ::{suffix} and as {split!r}")
    wanted = split or suffix or None
    path = Path(path_part)
    if path.is_file():
        table = _from_file(path, split=wanted)
    elif path.is_dir():
        table = _from_folder(path, split=wanted)
    elif _HUB_ID.fullmatch(path_part) and path.suffix not in _FILE_SUFFIXES:
        table = _named(read_hub(path_part, split=wanted), source=source, files=(), split=None)
    else:
        raise FileNotFoundError(f"captions {path_part}: no such file or folder, and not a Hugging Face dataset id")
    return table if images is None else select_images(table, images)


def select_images(table: CaptionTable, images: Path) -> CaptionTable:
    """The images that the file ``images`` lists, in its order; names may lack folder and ending, COCO ids are numbers.

    Raises:
        ValueError: the table has no names, or the list is empty, repeats an image or names unknown ones (count, first).
    """
    if table.image_names is None:
        raise ValueError(f"{table.source} has no image names, so {images} cannot select from it; remove data.images")
    wanted = read_name_list(images)
    rows = find_all(wanted, table.image_names, where=str(images), problem=f"have no captions in {table.source}")
    return replace(table.take(rows.tolist()), files=(*table.files, images))


def without_images(table: CaptionTable, names: Collection[str], *, where: str) -> CaptionTable:
    """The table without the images ``names``, which cannot be read; a warning counts and lists them.

    Args:
        table: Captions with image names.
        names: Images; not all need be in the table, and they may lack folder or ending.
        where: Where the images are, for messages.

    Raises:
        ValueError: A name fits several images of the table, or no image would be left.
    """
    assert table.image_names is not None
    found = find_names(list(names), table.image_names, where=f"{where} against {table.source}")
    gone = sorted(set(found[found != ABSENT].tolist()))
    if not gone:
        return table
    if len(gone) == len(table):
        raise ValueError(f"{where}: none of the {len(table)} images of {table.source} can be read")
    listed = ", ".join(table.image_names[i] for i in gone)
    _logger.warning("%s: left out %d images of %s that cannot be read: %s", where, len(gone), table.source, listed)
    return table.take(sorted(set(range(len(table))) - set(gone)))


def select_captions(
    table: CaptionTable, *, mode: Literal["one", "all"], seed: int
) -> tuple[list[str], NDArray[np.int64]]:
    """Captions to train on, and the image (position in the table) of each, in the table's order.

    ``"one"`` draws one caption an image by ``seed``; ``"all"`` takes every caption. Images without captions give none.
    """
    if mode == "all":
        captions = [caption for several in table.captions for caption in several]
        return captions, np.repeat(np.arange(len(table)), [len(several) for several in table.captions])
    if mode != "one":
        raise ValueError(f"mode must be 'one' or 'all', got {mode!r}")
    draw = np.random.default_rng([seed, Draw.CAPTIONS]).random(len(table))
    kept = [i for i, several in enumerate(table.captions) if several]
    captions = [table.captions[i][int(draw[i] * len(table.captions[i]))] for i in kept]
    return captions, np.asarray(kept, dtype=np.int64)


def _from_file(path: Path, *, split: str | None) -> CaptionTable:
    rows = read_rows(path)
    if rows is not None:
        return _named(rows, source=str(path), files=(path,), split=split)
    if split is not None:
        raise ValueError(f"{path}: plain text has no splits; remove '::{split}'")
    lines = list(text_lines(path))
    count, blank = len(lines), lines.count("")
    while not lines[-1]:
        del lines[-1]  # behind the last caption; others keep their place
    say_read(path, read=count - blank, total=count, unit="captions", passed_over={"blank": blank})
    return CaptionTable(None, tuple((line,) if line else () for line in lines), str(path), (path,))


def _from_folder(folder: Path, *, split: str | None) -> CaptionTable:
    datasets_files = [p for p in folder.rglob("*") if p.suffix in (".parquet", ".arrow")]
    files = folder_files(folder)
    if datasets_files or not files:
        return _named(
            read_hub(str(folder), split=split), source=str(folder), files=tuple(sorted(datasets_files)), split=None
        )
    return _named(read_folder(folder, files), source=str(folder), files=files, split=split)


def _named(rows: Iterable[CaptionRow], *, source: str, files: tuple[Path, ...], split: str | None) -> CaptionTable:
    """Groups rows by image, in order of first appearance."""
    grouped: dict[str, list[str]] = {}
    splits: dict[str, None] = {}
    total = blank = others = 0
    wanted = None if split is None else split.split("+")
    for row in rows:
        total += 1
        if row.split is not None:
            splits[row.split] = None
        if wanted is not None and row.split not in wanted:
            others += 1
            continue
        caption = " ".join(row.caption.splitlines()).strip()  # quoted cells may hold line breaks
        if caption and caption not in NO_VALUES:
            grouped.setdefault(row.image, []).append(caption)
        else:
            blank += 1
    _check_splits(source, list(splits), wanted)
    read = sum(map(len, grouped.values()))
    passed_over = {"blank": blank, "of other splits": others}
    say_read(source, read=read, total=total, unit="captions", passed_over=passed_over, is_usual=not blank)
    if not grouped:
        raise ValueError(f"{source}: no captions in it")
    return CaptionTable(tuple(grouped), tuple(map(tuple, grouped.values())), source, files)


def _check_splits(source: str, found: list[str], wanted: list[str] | None) -> None:
    if wanted is None:
        if len(found) > 1:
            _logger.warning("%s: taking all its splits (%s); add ::train for one", source, ", ".join(found))
        return
    for name in wanted:
        if name not in found:
            raise ValueError(f"{source}: no split {name!r}; it has {', '.join(found) or 'none'}")
