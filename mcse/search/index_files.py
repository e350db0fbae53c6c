"""An index on disk: ``index.json``, and the one file of embeddings that it names with that file's digest.

N embeddings, D width.

A save writes the embeddings under a name of their own, and then replaces ``index.json``. So there is at every instant
either the old index or the new one, and nothing else that lies in the folder is touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mcse.files import replacing, sha256_file, write_json
from mcse.reading import read_json
from mcse.types import FloatArray

T = TypeVar("T")

SCHEMA = 2

_MOST_BYTES = 2**33
"""The sentences of an index stand in its JSON."""

CONTENT_FILE = "index.json"
_EMBEDDINGS = "embeddings"


def save_index(folder: Path, content: Mapping[str, Any], rows_ND: FloatArray, *, kind: str) -> None:
    """Writes an index.

    Args:
        folder: Made if it is not there; an index in it is replaced.
        content: Everything but the embeddings, as JSON can hold it.
        rows_ND: The embeddings.
        kind: What the index is of; ``read_index`` asks for the same.

    Raises:
        OSError: The disk is full or cannot be written to; the old index is as it was.
    """
    path = folder / f"{_EMBEDDINGS}-{uuid.uuid4().hex[:12]}.safetensors"
    try:
        with replacing(path) as draft:
            save_file({_EMBEDDINGS: np.ascontiguousarray(rows_ND)}, draft)
        named = {"file": path.name, "sha256": sha256_file(path)}
        write_json(folder / CONTENT_FILE, {"schema": SCHEMA, "index_of": kind, **content, _EMBEDDINGS: named})
    except OSError:
        path.unlink(missing_ok=True)  # whatever a kill leaves, the next save removes
        raise
    for old in folder.glob(f"{_EMBEDDINGS}-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Embeddings:
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Head:
    """What every index says."""

    schema: int
    index_of: str
    embeddings: _Embeddings


@contextmanager
def read_index(folder: Path, schema: type[T], *, kind: str) -> Iterator[tuple[T, FloatArray]]:
    """The content of an index and its (N, D) embeddings; what the block finds wrong with them counts as damage.

    Raises:
        ValueError: The folder holds no index of this kind, one of another version, or a damaged one.
    """
    path = folder / CONTENT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not an index of {kind}: there is no {CONTENT_FILE} in it")
    try:
        head = read_json(path, _Head, most_bytes=_MOST_BYTES)
        if head.schema != SCHEMA:
            raise ValueError(f"schema {head.schema!r}, this version reads {SCHEMA}")
        if head.index_of != kind:
            raise ValueError(f"it is an index of {head.index_of}")
        content = read_json(path, schema, most_bytes=_MOST_BYTES)
        yield content, _read_embeddings(folder, head.embeddings.file, sha256=head.embeddings.sha256)
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: damaged, or not an index of {kind}: {reason}") from error


def _read_embeddings(folder: Path, file: str, *, sha256: str) -> FloatArray:
    if Path(file).name != file:
        raise ValueError(f"embeddings {file!r} is not a plain file name")
    if sha256_file(folder / file) != sha256:
        raise ValueError(f"{file} is not the file that was saved: its digest differs")
    rows_ND: FloatArray = load_file(folder / file)[_EMBEDDINGS]
    if rows_ND.ndim != 2 or rows_ND.dtype != np.float32:
        raise ValueError(f"{file} holds {rows_ND.dtype} of shape {rows_ND.shape}")
    return rows_ND
