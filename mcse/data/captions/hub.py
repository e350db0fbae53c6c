"""Hugging Face datasets with an image and a caption column: hub ids, and local folders in the hub's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from mcse.data.captions.files import CaptionRow, caption_texts
from mcse.data.hub_datasets import load_hub_dataset
from mcse.data.images.names import name_of_cell
from mcse.data.saved_datasets import load_saved
from mcse.data.tables import CAPTIONS, find_columns

NAME_COLUMNS = (
    "file_name",
    "filename",
    "image_name",
    "image_path",
    "filepath",
    "image_id",
    "img_id",
    "cocoid",
    "coco_id",
)

_MORE_CAPTION_COLUMNS = (*CAPTIONS["caption"], "answer", "alt_text", "description", "en")
_EDGE = 4096
"""Bytes of an image's beginning and end. JPEGs of one size that differ only between them have not been seen."""

_UNCOMPRESSED = (b"BM", b"II", b"MM")
"""How BMP and TIFF begin, which may differ in a few bytes of their middle alone."""

_NUMBERED_CAPTION = re.compile(r"(?:caption|sentence|text|answer)_?\d+")


@dataclass(frozen=True, slots=True)
class HubColumns:
    """The columns of the image, of its captions (one or several), and of its name (None: the image's path)."""

    image: str
    captions: tuple[str, ...]
    name: str | None


def read_hub(source: str, *, split: str | None) -> Iterator[CaptionRow]:
    """Rows of a dataset, one a caption; images are not decoded, nor read where they lie in a column of their own.

    Raises:
        ValueError: it cannot be loaded, has no such split, or no image and caption column (naming those it has).
    """
    dataset = load_split(source, split=split)
    columns = hub_columns(dataset, source=source)
    names = image_names(dataset, columns, source=source)
    captions = dataset.select_columns(list(columns.captions))
    for number, (name, row) in enumerate(zip(names, captions, strict=True)):
        for column in columns.captions:
            value = "" if row[column] is None else row[column]  # counted with the blank ones
            for caption in caption_texts(value, where=f"{source}: row {number}, column {column!r}"):
                yield CaptionRow(name, caption)


def load_split(source: str, *, split: str | None) -> datasets.Dataset:
    """One split of a dataset; without ``split`` its ``train``, or the only one there is.

    A name that is no split of the dataset may be a value of its ``split`` column (so Karpathy's are often stored).

    Raises:
        ValueError: it cannot be loaded, or has no such split (naming those it has).
    """
    try:
        loaded = _load(source)
    except Exception as error:  # datasets raises many kinds, some of them its own
        raise ValueError(
            f"{source}: not loadable as a Hugging Face dataset ({type(error).__name__}: {error}). Captions are a "
            "caption file, an image folder with metadata.csv or .txt files, or a dataset in the hub's format (parquet)"
        ) from error
    if split is not None and all(name in loaded for name in split.split("+")):
        return datasets.concatenate_datasets([loaded[name] for name in split.split("+")])
    whole = _whole(loaded, source=source, named=split is None)
    if split is None:
        return whole
    if "split" not in whole.column_names:
        raise ValueError(f"{source}: no split {split!r}; it has {', '.join(loaded)}")
    values = whole["split"][:]
    rows = [i for i, value in enumerate(values) if value in split.split("+")]
    if not rows:
        raise ValueError(f"{source}: no split {split!r}; its column 'split' has {', '.join(sorted(set(values)))}")
    return whole.select(rows)


def hub_columns(dataset: datasets.Dataset, *, source: str) -> HubColumns:
    """The image, caption and name columns, by feature type and name; of several images the one named ``image``.

    Raises:
        ValueError: no image or no caption column, or several images; the message names the columns there are.
    """
    features = dataset.features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if len(images) > 1 and "image" not in images:
        raise ValueError(
            f"{source}: several columns of images, {', '.join(images)}; rename the one that is meant 'image'"
        )
    image = "image" if "image" in images else images[0] if images else None
    text = [name for name, kind in features.items() if _holds_text(kind)]
    one = _pick(text, _MORE_CAPTION_COLUMNS)
    captions = (one,) if one is not None else tuple(sorted(filter(_NUMBERED_CAPTION.fullmatch, text)))
    if image is None or not captions:
        found = ", ".join(f"{name} ({_kind(kind)})" for name, kind in features.items())
        lacking = (
            "an image column" if image is None else f"a caption column (one of {', '.join(_MORE_CAPTION_COLUMNS)})"
        )
        raise ValueError(f"{source}: it lacks {lacking}; its columns are {found}")
    return HubColumns(image, captions, _pick(features, NAME_COLUMNS))


def image_names(dataset: datasets.Dataset, columns: HubColumns, *, source: str) -> list[str]:
    """The name of each row's image: the name column, else the image's own path, else ``row-000123``.

    Rows of one name show one image. Where paths do not keep different images apart, an image is named by its first row.

    Raises:
        ValueError: A name is missing, or stands beside different images.
    """
    content = _contents(dataset, columns.image)
    if columns.name is not None:
        values = dataset[columns.name][:]
        names = [
            name_of_cell(value, where=f"{source}: row {row}, column {columns.name!r}")
            for row, value in enumerate(values)
        ]
        first: dict[str, int] = {}
        for row, name in enumerate(names):
            if content(first.setdefault(name, row)) != content(row):
                raise ValueError(
                    f"{source}: rows {first[name]} and {row} have the name {name!r} in column {columns.name!r}, and "
                    "different images"
                )
        return names
    paths = [path for chunk in _stored(dataset, columns.image) for path in chunk.field("path").to_pylist()]
    if all(paths):
        names = list(map(_basename, paths))
        whole: dict[str, tuple[str, int]] = {}
        if all(
            known[0] == paths[row] and content(known[1]) == content(row)
            for row, name in enumerate(names)
            if (known := whole.setdefault(name, (paths[row], row)))[1] != row
        ):
            return names
        rows: dict[object, int] = {}
        return [f"row-{rows.setdefault((paths[row], content(row)), row):06d}" for row in range(len(paths))]
    return [f"row-{number:06d}" for number in range(len(paths))]


def _stored(dataset: datasets.Dataset, column: str) -> list[Any]:
    """The memory-mapped structs of an image column; nothing of them is read yet."""
    plain = dataset.flatten_indices() if dataset._indices is not None else dataset
    chunks: list[Any] = plain.data.column(column).chunks
    return chunks


def _contents(dataset: datasets.Dataset, column: str) -> Callable[[int], object]:
    """What tells the images of rows apart: their path where they lie beside the table, else their bytes.

    Compressed images need not be read whole: two that differ also do so in their size, beginning or end.
    """
    chunks = [(chunk.field("bytes"), chunk.field("path")) for chunk in _stored(dataset, column)]
    starts = np.cumsum([0, *(len(values) for values, _ in chunks)])

    def content(row: int) -> object:
        place = int(np.searchsorted(starts, row, side="right")) - 1
        values, paths = chunks[place]
        value = values[row - int(starts[place])]
        if not value.is_valid:
            return paths[row - int(starts[place])].as_py()
        data = value.as_buffer()
        start = data.slice(0, min(_EDGE, data.size)).to_pybytes()
        if start.startswith(_UNCOMPRESSED):
            return data.size, hash(data.to_pybytes())
        return data.size, start, data.slice(max(0, data.size - _EDGE)).to_pybytes()

    return content


def _load(source: str) -> Mapping[str, datasets.Dataset]:
    folder = Path(source)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = load_saved(folder)
    else:
        loaded = load_hub_dataset(source)
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded


def _whole(loaded: Mapping[str, datasets.Dataset], *, source: str, named: bool) -> datasets.Dataset:
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    if not named:
        return datasets.concatenate_datasets(list(loaded.values()))
    if "train" not in loaded:
        raise ValueError(
            f"{source}: say which split, such as {source}::{next(iter(loaded))}; it has {', '.join(loaded)}"
        )
    return loaded["train"]


def _holds_text(kind: object) -> bool:
    if isinstance(kind, datasets.Value):
        return kind.dtype in ("string", "large_string")
    if isinstance(kind, dict):
        return "raw" in kind
    inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
    return inner is not None and _holds_text(inner)


def _kind(kind: object) -> str:
    return str(kind.dtype) if isinstance(kind, datasets.Value) else type(kind).__name__


def _pick(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    return find_columns(names, {"": candidates}, where="").get("")


def _basename(path: str) -> str:
    return Path(path).name
