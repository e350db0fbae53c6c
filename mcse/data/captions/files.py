"""Published layouts of caption files, each read into (image name, caption) rows in file order.

Layouts: a delimited table with a header (Flickr8k's CSV, Kaggle's Flickr30k with pipes), Flickr's token file,
Karpathy's JSON, MS-COCO's caption JSON, JSON records, an image folder with ``metadata.csv``/``metadata.jsonl`` or
with ``x.txt`` beside ``x.jpg``, and Flickr30k-Entities' ``Sentences`` folder.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcse.data.images.names import IMAGE_SUFFIXES, is_image_file
from mcse.files import read_text

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

IMAGE_COLUMNS = (
    "image",
    "image_name",
    "file_name",
    "filename",
    "image_path",
    "filepath",
    "image_id",
    "img_id",
    "cocoid",
)
CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "raw", "sentence", "sentences", "sentences_raw")

_TOKEN_LINE = re.compile(r"(?P<name>[^\t]+?)#\d+\s*\t(?P<caption>.*)")
_NAME_TAB = re.compile(rf"(?P<name>[^\t]+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s*\t(?P<caption>.*)", re.I)
# Kaggle's Flickr30k results.csv lacks the second bar in one row: "2199200615.jpg| 4   A dog runs across the grass ."
_NUMBER_STUCK_TO_COMMENT = re.compile(r"\s*\d\s+(?P<caption>\S.*)")
_SWALLOWED_ROW = re.compile(rf"\n[^\n]+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})\W", re.I)
_ENTITY = re.compile(r"\[/EN#\S+ ([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption of one image; ``split`` where the file sorts its images into splits."""

    image: str
    caption: str
    split: str | None = None


def read_caption_text(path: Path) -> str:
    """The whole file, plain or ``.gz``, as text; Windows line ends become plain ones.

    Raises:
        ValueError: empty, or not UTF-8 (the message names the line).
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text.replace("\r\n", "\n")


def read_rows(path: Path, text: str) -> list[CaptionRow] | None:
    """The rows of a caption file whose layout ``text`` shows, or None for plain text: one caption a line.

    Raises:
        ValueError: the layout is recognised but broken (file, line and what is wrong).
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    first = next(line for line in text.split("\n") if line.strip())
    if suffix in (".json", ".jsonl") or first.lstrip().startswith(('{"', '[{"')):
        return list(_json_rows(path, text))
    delimiter = _delimiter(first)
    if delimiter is not None:
        return list(_table_rows(path, text, delimiter=delimiter))
    if suffix in (".csv", ".tsv"):
        raise ValueError(_no_columns(f"{path}, line 1", re.split(r"[,|\t]", first)))
    if _TOKEN_LINE.fullmatch(first) or _NAME_TAB.fullmatch(first):
        return list(_token_rows(path, text))
    return None


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The caption files of an image folder: its ``metadata`` files, else its ``.txt`` files, sorted."""
    metadata = sorted([*folder.rglob("metadata.csv"), *folder.rglob("metadata.jsonl")])
    return tuple(metadata or sorted(folder.rglob("*.txt")))


def read_folder(folder: Path, files: Sequence[Path]) -> list[CaptionRow]:
    """Rows of an image folder; an image's name is its path below ``folder``.

    Raises:
        ValueError: a caption file names no image, or is broken.
    """
    if files[0].stem != "metadata":
        return list(_beside_rows(folder, files))
    rows: list[CaptionRow] = []
    for file in files:
        below = file.parent.relative_to(folder)
        for row in read_rows(file, read_caption_text(file)) or ():
            rows.append(CaptionRow((below / row.image).as_posix(), row.caption, row.split))
    return rows


def caption_texts(value: object, *, where: str) -> list[str]:
    """The captions in one cell: a string, a list of strings, a JSON list in a string, or records with ``raw``.

    Raises:
        ValueError: the cell holds something else; ``where`` opens the message.
    """
    if isinstance(value, str):
        if value.startswith('["') or value.startswith("['"):
            return _list_in_a_string(value, where=where)
        return [value]
    if isinstance(value, dict) and "raw" in value:
        return caption_texts(value["raw"], where=where)
    if isinstance(value, list | tuple):
        return [text for item in value for text in caption_texts(item, where=where)]
    raise ValueError(f"{where}: a caption is a string or a list of strings, got {type(value).__name__}")


def pick_column(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    """The first candidate among ``names``, compared without case and outer blanks, as ``names`` spells it."""
    spelled = {name.strip().lower(): name for name in names}
    return next((spelled[candidate] for candidate in candidates if candidate in spelled), None)


def _list_in_a_string(value: str, *, where: str) -> list[str]:
    try:
        return caption_texts(json.loads(value), where=where)
    except json.JSONDecodeError:
        return [value]  # a caption that opens with a bracket and a quote


def _delimiter(header: str) -> str | None:
    for delimiter in ("|", ",", "\t"):
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        if len(names) > 1 and pick_column(names, IMAGE_COLUMNS) and pick_column(names, CAPTION_COLUMNS):
            return delimiter
    return None


def _no_columns(where: str, columns: Iterable[str]) -> str:
    return (
        f"{where}: no image and caption column among {', '.join(map(repr, columns))}; the header needs one of "
        f"{', '.join(IMAGE_COLUMNS)} and one of {', '.join(CAPTION_COLUMNS)}"
    )


def _table_rows(path: Path, text: str, *, delimiter: str) -> Iterator[CaptionRow]:
    # Pipe files are not quoted: a quotation mark there is part of the caption.
    reader = (
        csv.reader(io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE)
        if delimiter == "|"
        else csv.reader(io.StringIO(text), delimiter=delimiter)
    )
    header = [name.strip() for name in next(reader)]
    image = header.index(str(pick_column(header, IMAGE_COLUMNS)))
    caption = header.index(str(pick_column(header, CAPTION_COLUMNS)))
    split = header.index("split") if "split" in header else None
    for line, fields in _numbered(reader, path):
        where = f"{path}, line {line}"
        if not any(fields):
            continue
        cells = _repair(fields, header, caption=caption, delimiter=delimiter, where=where)
        if _SWALLOWED_ROW.search(cells[caption]):
            raise ValueError(f"{where}: a quotation mark is opened and never closed; double it or remove it")
        for one in caption_texts(cells[caption].strip(), where=where):
            yield CaptionRow(cells[image].strip(), one, None if split is None else cells[split].strip())


def _numbered(reader: CsvReader, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row with the line the row begins on."""
    line = reader.line_num + 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: broken table: {error}") from error


def _repair(fields: list[str], header: list[str], *, caption: int, delimiter: str, where: str) -> list[str]:
    """As many fields as the header has: an unquoted delimiter inside the last column's caption belongs to it."""
    width = len(header)
    if len(fields) == width:
        return fields
    if len(fields) > width and caption == width - 1:
        return [*fields[: width - 1], delimiter.join(fields[width - 1 :])]
    stuck = _NUMBER_STUCK_TO_COMMENT.fullmatch(fields[-1])
    if len(fields) == width - 1 and header[-2:] == ["comment_number", "comment"] and stuck:
        return [*fields, stuck["caption"]]
    raise ValueError(f"{where}: {len(fields)} fields, but the header has {width} ({delimiter.join(header)})")


def _token_rows(path: Path, text: str) -> Iterator[CaptionRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        match = _TOKEN_LINE.fullmatch(line) or _NAME_TAB.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}, line {number}: expected 'name.jpg#0<TAB>caption', got {line[:60]!r}")
        yield CaptionRow(match["name"].strip(), match["caption"])


def _json_rows(path: Path, text: str) -> Iterator[CaptionRow]:
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise ValueError(f"{path}, line {error.lineno}: broken JSON: {error.msg}") from error
        loaded = [_json_line(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if isinstance(loaded, dict) and pick_column(loaded, IMAGE_COLUMNS) and pick_column(loaded, CAPTION_COLUMNS):
        loaded = [loaded]
    if isinstance(loaded, list):
        yield from _record_rows(path, loaded)
    elif isinstance(loaded, dict) and "images" in loaded and "annotations" in loaded:
        yield from _coco_rows(path, loaded)
    elif isinstance(loaded, dict) and "images" in loaded:
        yield from _karpathy_rows(path, loaded["images"])
    else:
        found = ", ".join(map(repr, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise ValueError(
            f"{path}: neither COCO's JSON (images and annotations), nor Karpathy's (images with sentences), "
            f"nor records of image and caption; found {found}"
        )


def _json_line(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: broken JSON: {error.msg}") from error


def _record_rows(path: Path, records: list[Any]) -> Iterator[CaptionRow]:
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: expected an object with image and caption, got {type(record).__name__}")
        image, caption = pick_column(record, IMAGE_COLUMNS), pick_column(record, CAPTION_COLUMNS)
        if image is None or caption is None:
            raise ValueError(_no_columns(where, record))
        for one in caption_texts(record[caption], where=where):
            yield CaptionRow(str(record[image]), one, record.get("split"))


def _coco_rows(path: Path, loaded: dict[str, Any]) -> Iterator[CaptionRow]:
    try:
        name_of = {image["id"]: str(image["file_name"]) for image in loaded["images"]}
        captions_of: dict[Any, list[str]] = {image_id: [] for image_id in name_of}
        for annotation in loaded["annotations"]:
            captions_of[annotation["image_id"]].append(annotation["caption"])
    except KeyError as error:
        raise ValueError(
            f"{path}: an entry of images or annotations lacks {error}, or an annotation is of an image not listed; "
            "the file must be one of COCO's captions_*.json"
        ) from error
    for image_id, captions in captions_of.items():
        for caption in captions:
            yield CaptionRow(name_of[image_id], caption)


def _karpathy_rows(path: Path, images: list[dict[str, Any]]) -> Iterator[CaptionRow]:
    for number, image in enumerate(images, start=1):
        missing = [key for key in ("filename", "sentences") if key not in image]
        if missing:
            raise ValueError(f"{path}: image {number} has no {missing[0]!r}; expected Karpathy's JSON or COCO's")
        for sentence in image["sentences"]:
            yield CaptionRow(str(image["filename"]), sentence["raw"], image.get("split"))


def _beside_rows(folder: Path, files: Sequence[Path]) -> Iterator[CaptionRow]:
    for file in files:
        images = [p for p in sorted(file.parent.glob(f"{_glob_escape(file.stem)}.*")) if is_image_file(p)]
        text = read_caption_text(file)
        if len(images) > 1:
            raise ValueError(f"{file}: captions of several images, {images[0].name} and {images[1].name}")
        if not images and not _ENTITY.search(text):
            raise ValueError(f"{file}: no image {file.stem}.jpg (or another image format) lies beside it")
        name = images[0] if images else file.with_suffix(".jpg")  # Entities keep captions apart from the images
        for line in text.split("\n"):
            if line.strip():
                yield CaptionRow(name.relative_to(folder).as_posix(), _ENTITY.sub(r"\1", line))


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
