"""An index on disk: ``index.json``, and the one file of embeddings that it names with that file's digest.

N embeddings, D width.

A save writes the embeddings under a name of their own, and then replaces ``index.json``. So there is at every instant
either the old index or the new one, and nothing else that lies in the folder is touched.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mcse.files import claimed, read_bytes, replacing, sha256_file, write_json
from mcse.reading import parse_json, read_json
from mcse.search.rows import IndexRows, RowBlocks
from mcse.stored_rows import RANGED, RowKind, check_row_kind

T = TypeVar("T")

SCHEMA = 2

_MOST_BYTES = 2**33
"""An index stores its sentences in its JSON."""

CONTENT_FILE = "index.json"
_EMBEDDINGS, _FINE, _RANGES = "embeddings", "rescoring", "ranges"
_DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}
_OWN_EMBEDDINGS = re.compile(_EMBEDDINGS + r"-[0-9a-f]{12}\.safetensors(\.[^.]+\.partial)?")
_SECONDS_TO_WAIT = 60.0


def save_index(folder: Path, content: Mapping[str, Any], rows: IndexRows, *, kind: str) -> None:
    """Writes an index.

    Args:
        folder: Made if it is not there; an index in it is replaced.
        content: Everything but the embeddings, as JSON can hold it.
        rows: The embeddings.
        kind: What the index is of; ``read_index`` asks for the same.

    Raises:
        OSError: The disk is full or cannot be written to; the old index is as it was.
        ValueError: Another process has been saving there for a minute.
    """
    path = folder / f"{_EMBEDDINGS}-{uuid.uuid4().hex[:12]}.safetensors"
    # Without the claim two that save at once would each remove the embeddings of the other.
    with claimed(folder / CONTENT_FILE, wait=_SECONDS_TO_WAIT):
        try:
            with replacing(path) as draft:
                _write_embeddings(draft, rows)
            named: dict[str, Any] = {"file": path.name, "sha256": sha256_file(path)}
            if rows.coarse.kind != "float32":  # else as earlier versions wrote it, and read it
                named |= {"rows": rows.coarse.kind, "width": rows.width}
                named |= {} if rows.fine is None else {"rescore": rows.fine.kind}
            write_json(folder / CONTENT_FILE, {"schema": SCHEMA, "index_of": kind, **content, _EMBEDDINGS: named})
        except OSError:
            path.unlink(missing_ok=True)  # whatever a kill leaves, the next save removes
            raise
        for old in folder.iterdir():
            if _OWN_EMBEDDINGS.fullmatch(old.name) and old != path:
                old.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Whether all that a folder holds is what a kill left of its first save."""
    starts = (f"{CONTENT_FILE}.", f".{CONTENT_FILE}.")
    return all(_OWN_EMBEDDINGS.fullmatch(path.name) or path.name.startswith(starts) for path in folder.iterdir())


def kind_of(folder: Path) -> str:
    """What a folder is an index of.

    Raises:
        ValueError: It is none, or a damaged one.
    """
    path = folder / CONTENT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an index: there is no {CONTENT_FILE} in it")
    return read_json(path, _Head, most_bytes=_MOST_BYTES).index_of


@dataclass(frozen=True, slots=True)
class _Embeddings:
    file: str
    sha256: str
    rows: RowKind = "float32"
    width: int | None = None
    rescore: RowKind | None = None


@dataclass(frozen=True, slots=True)
class _Head:
    """What every index says."""

    schema: int
    index_of: str
    embeddings: _Embeddings


@contextmanager
def read_index(folder: Path, schema: type[T], *, kind: str) -> Iterator[tuple[T, IndexRows]]:
    """The content of an index and its N embeddings; what the block finds wrong with them counts as damage.

    Raises:
        ValueError: The folder holds no index of this kind, one of another version, or a damaged one.
    """
    path = folder / CONTENT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an index of {kind}: there is no {CONTENT_FILE} in it")
    try:
        content, embeddings = _read_content(path, schema, kind=kind)
        try:
            rows = _read_embeddings(folder, embeddings)
        except FileNotFoundError:  # somebody may have saved between the two reads
            content, embeddings = _read_content(path, schema, kind=kind)
            rows = _read_embeddings(folder, embeddings)
        yield content, rows
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: damaged, or not an index of {kind}: {reason}") from error


def _write_embeddings(path: Path, rows: IndexRows) -> None:
    """A safetensors file, block by block: its own writer copies the whole."""
    tensors: dict[str, tuple[Iterable[NDArray[Any]], int]] = {_EMBEDDINGS: (rows.coarse, len(rows))}
    if rows.fine is not None:
        tensors[_FINE] = rows.fine, len(rows.fine)
    if rows.ranges is not None:
        tensors[_RANGES] = [rows.ranges], 2
    places, end = {}, 0
    for name, (blocks, number) in tensors.items():
        first = next(iter(blocks))
        start, end = end, end + number * first.shape[1] * first.dtype.itemsize
        shape = [number, first.shape[1]]
        places[name] = {"dtype": _DTYPES[str(first.dtype)], "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(places).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for blocks, _ in tensors.values():
            for block in blocks:
                stream.write(np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).data)


def _read_content(path: Path, schema: type[T], *, kind: str) -> tuple[T, _Embeddings]:
    """The content of ``index.json`` and what it says of its embeddings, read at once, since others may replace it."""
    text = read_bytes(path, most_bytes=_MOST_BYTES)
    head = parse_json(text, _Head, where=str(path))
    if head.schema != SCHEMA:
        raise ValueError(f"schema {head.schema!r}, this version reads {SCHEMA}")
    if head.index_of != kind:
        raise ValueError(f"it is an index of {head.index_of}")
    return parse_json(text, schema, where=str(path)), head.embeddings


def _read_embeddings(folder: Path, embeddings: _Embeddings) -> IndexRows:
    file = embeddings.file
    if Path(file).name != file:
        raise ValueError(f"embeddings {file!r} is not a plain file name")
    if sha256_file(folder / file) != embeddings.sha256:
        raise ValueError(f"{file} is not the file that was saved: its digest differs")
    tensors = load_file(folder / file)
    ranges = tensors.get(_RANGES)
    width = embeddings.width or tensors[_EMBEDDINGS].shape[-1]
    if ranges is not None:
        check_row_kind(RANGED[0], ranges, width=width)

    def blocks(name: str, kind: RowKind) -> RowBlocks:
        stored = tensors[name]
        dtype, columns = ("uint8", -(-width // 8)) if kind == "binary" else (kind, width)
        if stored.ndim != 2 or stored.dtype != dtype or stored.shape[1] != columns:
            raise ValueError(f"{file} holds {name} of {stored.dtype} and shape {stored.shape}, not {kind} rows")
        if kind in RANGED and ranges is None:
            raise ValueError(f"{file} holds {kind} rows without their ranges")
        return RowBlocks.of_stored(stored, kind=kind, width=width, ranges=ranges)

    coarse = blocks(_EMBEDDINGS, embeddings.rows)
    fine = None if embeddings.rescore is None else blocks(_FINE, embeddings.rescore)
    if fine is not None and len(fine) != len(coarse):
        raise ValueError(f"{file} holds {len(coarse)} embeddings, and {len(fine)} to score again")
    return IndexRows.of(coarse, fine)
