"""Which of the names one file uses for its images are the same images as those of another file."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mcse.files import text_lines
from mcse.reading import read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif")
"""Endings that mark a file as an image, in lower case."""

ABSENT = -1

_COCO_STEM = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d+)")
_COLLISION = -2
_NUMBERED = re.compile(r"(?P<name>.+)#\d+")
"""Flickr's files number the captions of an image behind its name."""

NO_VALUES = ("nan", "NaN", "None", "null")
"""What tables write where there is nothing. And numbers become fractions where some are missing: 391895.0."""


def read_name_list(path: Path) -> list[str]:
    """The names in a file, one a line, or those of a store's ``names.json``; blank ones are left out.

    Raises:
        ValueError: Not UTF-8 (naming the line), no list of names, or there is no name in it.
    """
    listed = read_json(path, list[str]) if path.suffix == ".json" else text_lines(path)
    names = [name for name in listed if name]
    if not names:
        raise ValueError(f"{path}: the file is empty")
    return names


def is_image_file(path: Path) -> bool:
    """Whether a file's name says that it is an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_resource_fork(path)


def is_resource_fork(path: PurePath) -> bool:
    """Whether a file is what macOS puts beside another in archives: ``._a.jpg`` beside ``a.jpg``, or ``__MACOSX/``."""
    return path.name.startswith("._") or "__MACOSX" in path.parts


def name_of_cell(value: object, *, where: str) -> str:
    """The name of an image in a cell: text, a whole number, or a record with its ``path``, as datasets has it.

    Raises:
        ValueError: It is none of these; ``where`` opens the message.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip() and value.strip() not in NO_VALUES:
        if (numbered := _NUMBERED.fullmatch(value)) and is_image_file(Path(numbered["name"])):
            return numbered["name"]
        return value.removesuffix(".0") if value.removesuffix(".0").isdecimal() else value
    shown = "null" if value is None else repr(value)[:60]
    raise ValueError(f"{where}: an image is a name or a whole number, got {shown}")


def stem(name: str) -> str:
    """The name without folders and without an image's ending: ``val/12.jpg`` and ``12`` are both ``12``."""
    base = _base(name)
    for suffix in IMAGE_SUFFIXES:
        if base.lower().endswith(suffix):
            return base[: -len(suffix)]
    return base


def find_names(wanted: Sequence[str], available: Sequence[str], *, where: str) -> NDArray[np.int64]:
    """The position in ``available`` of each wanted image, or ``ABSENT``.

    Names are compared whole, then without folders, then also without ending (ids), then as COCO's numbers
    (``391895`` is ``COCO_train2014_000000391895.jpg``). The first of these that finds an image decides.

    Raises:
        ValueError: a name fits several images, or two wanted names are one image; ``where`` opens the message.
    """
    found = np.full(len(wanted), ABSENT, dtype=np.int64)
    levels: tuple[Callable[[str], Hashable], ...] = (str, _base, stem, _number)
    for key in levels:
        missing = np.flatnonzero(found == ABSENT)
        if len(missing) == 0:
            break
        index = _index(available, key)
        for i in missing:
            found[i] = index.get(key(wanted[int(i)]), ABSENT)
        if (found == _COLLISION).any():
            first = wanted[int(np.flatnonzero(found == _COLLISION)[0])]
            raise ValueError(f"{where}: {first!r} fits several images there; write names with their folders")
    _refuse_doubles(found, wanted, where=where)
    return found


def find_all(
    wanted: Sequence[str], available: Sequence[str], *, where: str, problem: str = "are not there"
) -> NDArray[np.int64]:
    """``find_names`` of images that must all be there.

    Args:
        wanted: Names to look for.
        available: Names to look among.
        where: Opens messages.
        problem: What the images that are not there lack.

    Raises:
        ValueError: As for ``find_names``, and where images are absent (count and first).
    """
    rows = find_names(wanted, available, where=where)
    absent = np.flatnonzero(rows == ABSENT)
    if len(absent):
        first = wanted[int(absent[0])]
        raise ValueError(f"{where}: {len(absent):,} of {len(wanted):,} images {problem}, first {first!r}")
    return rows


def _index(names: Sequence[str], key: Callable[[str], Hashable]) -> dict[Hashable, int]:
    index: dict[Hashable, int] = {}
    for position, name in enumerate(names):
        value = key(name)
        if value is not None:
            index[value] = _COLLISION if value in index else position
    return index


def _base(name: str) -> str:
    """Without folders, which Windows parts by backslashes."""
    return PurePosixPath(name.replace("\\", "/")).name


def _number(name: str) -> int | None:
    match = _COCO_STEM.fullmatch(stem(name))
    return int(match.group(1)) if match else None


def _refuse_doubles(found: NDArray[np.int64], wanted: Sequence[str], *, where: str) -> None:
    first_with: dict[int, str] = {}
    for row, name in zip(found.tolist(), wanted, strict=True):
        if row == ABSENT:
            continue
        if row in first_with:
            raise ValueError(
                f"{where}: {first_with[row]!r} and {name!r} are the same image there; list each image once"
            )
        first_with[row] = name
