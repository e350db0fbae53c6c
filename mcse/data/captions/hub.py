"""Hugging Face datasets with an image and a caption column: hub ids, and local folders in the hub's format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from mcse.data.captions.files import CAPTION_COLUMNS, CaptionRow, caption_texts, pick_column

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

_MORE_CAPTION_COLUMNS = (*CAPTION_COLUMNS, "answer", "alt_text", "description", "en")
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
    columns = find_columns(dataset, source=source)
    names = image_names(dataset, columns)
    captions = dataset.select_columns(list(columns.captions))
    for number, (name, row) in enumerate(zip(names, captions, strict=True)):
        for column in columns.captions:
            if row[column] is not None:
                for caption in caption_texts(row[column], where=f"{source}: row {number}, column {column!r}"):
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


def find_columns(dataset: datasets.Dataset, *, source: str) -> HubColumns:
    """The image, caption and name columns, by feature type and name.

    Raises:
        ValueError: no image or no caption column; the message names the columns there are.
    """
    features = dataset.features
    image = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    text = [name for name, kind in features.items() if _holds_text(kind)]
    one = pick_column(text, _MORE_CAPTION_COLUMNS)
    captions = (one,) if one is not None else tuple(sorted(filter(_NUMBERED_CAPTION.fullmatch, text)))
    if image is None or not captions:
        found = ", ".join(f"{name} ({_kind(kind)})" for name, kind in features.items())
        lacking = (
            "an image column" if image is None else f"a caption column (one of {', '.join(_MORE_CAPTION_COLUMNS)})"
        )
        raise ValueError(f"{source}: it lacks {lacking}; its columns are {found}")
    return HubColumns(image, captions, pick_column(features, NAME_COLUMNS))


def image_names(dataset: datasets.Dataset, columns: HubColumns) -> list[str]:
    """The name of each row's image: the name column, else the image's own path, else ``row-000123``."""
    if columns.name is not None:
        return [str(value) for value in dataset[columns.name][:]]
    plain = dataset.flatten_indices() if dataset._indices is not None else dataset
    # Only the path is taken out of the (memory-mapped) struct; the images' bytes stay on disk.
    paths = [path for chunk in plain.data.column(columns.image).chunks for path in chunk.field("path").to_pylist()]
    if all(paths) and len(set(map(_basename, paths))) == len(set(paths)):
        return [_basename(path) for path in paths]
    return [f"row-{number:06d}" for number in range(len(paths))]


def _load(source: str) -> Mapping[str, datasets.Dataset]:
    folder = Path(source)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        loaded = datasets.load_from_disk(source)
    else:
        loaded = datasets.load_dataset(source)
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


def _basename(path: str) -> str:
    return Path(path).name
