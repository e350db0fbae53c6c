"""Published layouts of caption files, each read into (image name, caption) rows in file order.

Layouts: a table with a header (Flickr8k's CSV, Kaggle's Flickr30k with bars, JSON lines), Flickr's token file,
Karpathy's JSON, MS-COCO's caption JSON, JSON records, an image folder with ``metadata.csv``/``metadata.jsonl`` or
with ``x.txt`` beside ``x.jpg``, and Flickr30k-Entities' ``Sentences`` folder.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from mcse.data.images.names import IMAGE_SUFFIXES, is_image_file, is_resource_fork, name_of_cell
from mcse.data.tables import (
    CAPTIONS,
    HEAD_LINES,
    Table,
    check_is_text,
    ending,
    find_columns,
    open_records,
    open_table,
    shown_names,
)
from mcse.files import read_bytes, text_lines
from mcse.reading import parse_json, say_read

_T = TypeVar("_T")

MOST_BYTES = 2**31
"""Of a JSON file of captions; COCO's largest has 0.1 GB."""

_LONGEST_RECORD = 2**20
_SPLIT = {"split": ("split",)}
_TOKEN_LINE = re.compile(r"(?P<name>[^\t]+?)#\d+\s*\t(?P<caption>.*)")
_NAME_TAB = re.compile(rf"(?P<name>[^\t]+(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s*\t(?P<caption>.*)", re.I)
# Kaggle's Flickr30k results.csv lacks the second bar in one row: "2199200615.jpg| 4   A dog runs across the grass ."
_NUMBER_STUCK_TO_COMMENT = re.compile(r"\s*\d\s+(?P<caption>\S.*)")
_OPENING = ("[", "(", "{", "array(")
_LISTED = re.compile(r"""(?:array\()?[\[({]\s*["']""")
_ENTITY = re.compile(r"\[/EN#\S+ ([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption of one image; ``split`` where the file sorts its images into splits."""

    image: str
    caption: str
    split: str | None = None


def read_rows(path: Path) -> list[CaptionRow] | None:
    """The rows of a caption file whose ending or first line shows its layout, or None for text: one caption a line.

    Raises:
        ValueError: Empty, not UTF-8, a table without the columns, or a layout that is recognised but broken (file, line
            and what is wrong).
    """
    first = next((line for line in text_lines(path) if line), None)
    if first is None:
        raise ValueError(f"{path}: the file is empty")
    if ending(path) == ".jsonl" or (first.startswith('{"') and _is_record(first)):
        return list(_record_rows(path))
    if ending(path) == ".json" or first.startswith(('{"', "[{")):
        return list(_json_rows(path))
    try:
        table = open_table(path, CAPTIONS, optional=_SPLIT, line_breaks=True, repair=_repair)
    except ValueError:
        if ending(path) in (".csv", ".tsv"):
            raise
    else:
        return list(_table_rows(table))
    if _TOKEN_LINE.fullmatch(first) or _NAME_TAB.fullmatch(first):
        return list(_token_rows(path))
    check_is_text(path, islice(text_lines(path), HEAD_LINES))
    return None


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The caption files of an image folder: its ``metadata`` files, else its ``.txt`` files, sorted.

    Raises:
        ValueError: There are both, and nothing says which are meant.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not is_resource_fork(path))
    metadata = [path for path in files if path.name in ("metadata.csv", "metadata.jsonl")]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    if metadata:
        images = {path.with_suffix("") for path in files if is_image_file(path)}
        if beside := [path for path in texts if path.with_suffix("") in images]:
            raise ValueError(f"{folder}: captions in {metadata[0].name} and in {beside[0].name}; keep one kind")
    return tuple(metadata or texts)


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
        for row in read_rows(file) or ():
            rows.append(CaptionRow((below / row.image).as_posix(), row.caption, row.split))
    return rows


def caption_texts(value: object, *, where: str) -> list[str]:
    """The captions in one cell: a string, a list of strings, a list written into a string, or records with ``raw``.

    Raises:
        ValueError: the cell holds something else; ``where`` opens the message.
    """
    if isinstance(value, str):
        return _written(value, where=where)
    if isinstance(value, dict) and "raw" in value:
        return caption_texts(value["raw"], where=where)
    if isinstance(value, list | tuple):
        return [text for item in value for text in caption_texts(item, where=where)]
    raise ValueError(f"{where}: a caption is a string or a list of strings, got {type(value).__name__}")


def _written(value: str, *, where: str) -> list[str]:
    """A caption, or the captions of a list or record that JSON, Python or NumPy has written into the cell."""
    text = value.strip()
    if text.startswith(_OPENING) and text.endswith((")", "]", "}")):
        for read in (json.loads, _literal):
            try:
                several = read(text)
            except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
                continue
            if isinstance(several, list | tuple | dict):
                return caption_texts(several, where=where) or [""]  # of an empty list, counted with the blank ones
        if _LISTED.match(text):
            raise ValueError(f"{where}: a caption that looks like a list of strings, but is none: {text[:60]!r}")
    return [value]


def _literal(text: str) -> object:
    """What Python has written; NumPy leaves out the commas, and Python would join such strings to one."""
    tree = ast.parse(text, mode="eval")
    found = sum(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in ast.walk(tree))
    written = sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline))
    if found != written:
        raise ValueError("strings without commas between them")
    value: object = ast.literal_eval(tree)
    return value


def _table_rows(table: Table) -> Iterator[CaptionRow]:
    for row in table.rows():
        where = table.where(row)
        image, cell, split = row.cells
        name = name_of_cell(image.strip(), where=where)
        if "\n" in cell and _swallows(cell, name):
            raise ValueError(f"{where}: a quotation mark is opened and never closed; double it or remove it")
        for one in caption_texts(cell.strip(), where=where):
            yield CaptionRow(name, one, None if split is None else split.strip())


def _swallows(cell: str, name: str) -> bool:
    """Whether a line inside a cell holds what may be an image's name: the row of another image, then."""
    kind = _kind(name)
    lines = cell.split("\n")
    return any(_kind(part.strip().strip('"')) == kind for line in lines for part in re.split(r"[,;|\t]", line))


def _kind(name: str) -> str:
    """What names of images have in common: ``391895`` and ``7`` are of one kind, so are ``a.jpg`` and ``b1.jpg``."""
    base = re.split(r"[\\/]", name)[-1]
    stem, dot, suffix = base.rpartition(".")
    if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES and " " not in stem:
        return "image"
    return "number" if base.isdigit() else re.sub(r"\d+", "0", base)


def _repair(fields: list[str], header: Sequence[str], delimiter: str) -> list[str] | None:
    """As many fields as the header has: an unquoted delimiter inside the last column's caption belongs to it."""
    width = len(header)
    caption = find_columns(header, CAPTIONS, where="")["caption"]
    if len(fields) > width and header[-1] == caption:
        return [*fields[: width - 1], delimiter.join(fields[width - 1 :])]
    stuck = _NUMBER_STUCK_TO_COMMENT.fullmatch(fields[-1])
    if len(fields) == width - 1 and list(header[-2:]) == ["comment_number", "comment"] and stuck:
        return [*fields, stuck["caption"]]
    return None


def _token_rows(path: Path) -> Iterator[CaptionRow]:
    for number, line in enumerate(text_lines(path, strip=False), start=1):
        if not line.strip():
            continue
        match = _TOKEN_LINE.fullmatch(line) or _NAME_TAB.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}, line {number}: expected 'name.jpg#0<TAB>caption', got {line[:60]!r}")
        yield CaptionRow(match["name"].strip(), match["caption"])


def _is_record(line: str) -> bool:
    """Whether a line is an object with image and caption, whole; COCO's file is one line of a hundred megabytes."""
    if len(line) > _LONGEST_RECORD:
        return False
    try:
        record = parse_json(line, dict[str, Any], where="")
        return find_columns(record, CAPTIONS, where="").keys() == CAPTIONS.keys()
    except ValueError:
        return False


def _record_rows(path: Path) -> Iterator[CaptionRow]:
    table = open_records(path, CAPTIONS, optional=_SPLIT)
    for row in table.rows():
        yield from _rows_of_record(*row.cells, where=table.where(row))


def _rows_of_record(image: object, caption: object, split: object, *, where: str) -> Iterator[CaptionRow]:
    name = name_of_cell(image, where=where)
    for one in caption_texts(caption, where=where):
        yield CaptionRow(name, one, None if split is None else str(split))


_Id: TypeAlias = int | float | str


@dataclass(frozen=True, slots=True)
class _CocoImage:
    id: _Id
    file_name: str


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: _Id
    caption: str


@dataclass(frozen=True, slots=True)
class _Coco:
    images: list[_CocoImage]
    annotations: list[_Annotation]


@dataclass(frozen=True, slots=True)
class _Sentence:
    raw: str | None = None
    tokens: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _KarpathyImage:
    filename: str
    sentences: list[str | _Sentence]
    split: str | None = None
    filepath: str | None = None


@dataclass(frozen=True, slots=True)
class _Karpathy:
    images: list[_KarpathyImage]


def _json_rows(path: Path) -> Iterator[CaptionRow]:
    text = read_bytes(path, most_bytes=MOST_BYTES)
    if text.lstrip().startswith(b"["):
        records = _parsed(text, list[dict[str, Any]], path, "records of image and caption")
        yield from _listed_rows(path, records)
    elif b'"annotations"' in text:
        yield from _coco_rows(path, _parsed(text, _Coco, path, "one of COCO's captions_*.json"))
    else:
        what = "COCO's JSON (images and annotations), Karpathy's (images with sentences), or records in a list"
        yield from _karpathy_rows(path, _parsed(text, _Karpathy, path, what))


def _parsed(text: bytes, schema: type[_T], path: Path, expected: str) -> _T:
    try:
        return parse_json(text, schema, where=str(path))
    except ValueError as error:
        raise ValueError(f"{error}; expected {expected}") from None


def _listed_rows(path: Path, records: list[dict[str, Any]]) -> Iterator[CaptionRow]:
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        names = find_columns(record, {**CAPTIONS, **_SPLIT}, where=where)
        if lacking := [name for name in CAPTIONS if name not in names]:
            known = ", ".join(CAPTIONS[lacking[0]])
            raise ValueError(f"{where}: no {lacking[0]} ({known}) among {shown_names(record)}")
        split = record[names["split"]] if "split" in names else None
        yield from _rows_of_record(record[names["image"]], record[names["caption"]], split, where=where)


def _coco_rows(path: Path, loaded: _Coco) -> Iterator[CaptionRow]:
    name_of: dict[str, str] = {}
    id_of: dict[str, str] = {}
    for number, image in enumerate(loaded.images):
        where = f"{path}: images.{number}"
        key = name_of_cell(image.id, where=f"{where}.id")
        if key in name_of:
            raise ValueError(f"{where}: the id {key} is that of {name_of[key]!r} and of {image.file_name!r}")
        name_of[key] = image.file_name
        if id_of.setdefault(image.file_name, key) != key:
            raise ValueError(f"{where}: {image.file_name!r} has the ids {id_of[image.file_name]} and {key}")
    captions_of: dict[str, list[str]] = {key: [] for key in name_of}
    for number, annotation in enumerate(loaded.annotations):
        where = f"{path}: annotations.{number}"
        key = name_of_cell(annotation.image_id, where=f"{where}.image_id")
        if key not in captions_of:
            raise ValueError(f"{where}: a caption of the image {key}, which images do not list")
        captions_of[key].append(annotation.caption)
    bare = sum(not captions for captions in captions_of.values())
    passed_over = {"without a caption": bare}
    say_read(path, read=len(name_of) - bare, total=len(name_of), unit="images", passed_over=passed_over)
    for key, captions in captions_of.items():
        for caption in captions:
            yield CaptionRow(name_of_cell(name_of[key], where=str(path)), caption)


def _karpathy_rows(path: Path, loaded: _Karpathy) -> Iterator[CaptionRow]:
    folders: dict[str, set[str | None]] = {}
    for image in loaded.images:
        folders.setdefault(image.filename, set()).add(image.filepath)
    in_folders = any(len(several) > 1 for several in folders.values())
    bare = sum(not image.sentences for image in loaded.images)
    count = len(loaded.images)
    say_read(path, read=count - bare, total=count, unit="images", passed_over={"without a caption": bare})
    for number, image in enumerate(loaded.images):
        name = name_of_cell(image.filename, where=f"{path}: images.{number}.filename")
        if in_folders and image.filepath:
            name = f"{image.filepath}/{name}"
        for sentence in image.sentences:
            text = sentence if isinstance(sentence, str) else sentence.raw
            if text is None and isinstance(sentence, _Sentence) and sentence.tokens is not None:
                text = " ".join(sentence.tokens)
            if text is None:
                raise ValueError(f"{path}: images.{number}: a sentence has neither raw nor tokens")
            yield CaptionRow(name, text, image.split)


def _beside_rows(folder: Path, files: Sequence[Path]) -> Iterator[CaptionRow]:
    beside: dict[Path, list[Path]] = {}
    for image in sorted(path for path in folder.rglob("*") if is_image_file(path)):
        # ``a.jpg.txt`` holds captions of ``a.jpg`` as ``a.txt`` does; ``a.txt`` none of ``a.b.jpg``.
        beside.setdefault(image.with_suffix(""), []).append(image)
        beside.setdefault(image, []).append(image)
    for file in files:
        images = beside.get(file.with_suffix(""), [])
        lines = [line for line in text_lines(file) if line]
        if not lines:
            raise ValueError(f"{file}: the file is empty")
        if len(images) > 1:
            raise ValueError(f"{file}: captions of several images, {images[0].name} and {images[1].name}")
        if not images and not any(map(_ENTITY.search, lines)):
            raise ValueError(f"{file}: no image {file.stem}.jpg (or another image format) lies beside it")
        name = images[0] if images else file.with_suffix(".jpg")  # Entities keep captions apart from the images
        for line in lines:
            yield CaptionRow(name.relative_to(folder).as_posix(), _ENTITY.sub(r"\1", line))
