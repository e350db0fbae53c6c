"""Embeddings of a long table on disk: files of so many rows each, with ids, and ``embed.json`` that says what they are.

Every file of rows is a function of its rows alone, so that it does not matter who makes it, in which order, and how
often the work was killed before: what is finished is noted beside it, with digests, and is not made again.

N rows of a file, D width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from mcse.data.npy import map_npy
from mcse.data.text_column import Id
from mcse.files import replacing, sha256_file, write_json
from mcse.reading import read_json

logger = logging.getLogger(__name__)

FACTS = "embed.json"
SCHEMA = 1

FileFormat: TypeAlias = Literal["npy", "parquet"]
RowType: TypeAlias = Literal["float32", "float16"]

_OWN = re.compile(r"(embeddings|ids)-\d{5,}\.(npy|parquet)|(embed|done-\d{5,})\.json")
_DRAFT = re.compile(rf"({_OWN.pattern})\.[^.]+\.partial")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFile:
    """A finished file of rows; ``ids`` is the file of their ids, which a parquet file holds itself."""

    number: int
    rows: int
    file: str
    sha256: str
    ids: str | None = None
    ids_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What makes embeddings what they are. Work goes on only where all of it is the same.

    Args:
        model: Its name, as found from any folder.
        model_digest: Of its files; ``None`` if unknown.
        pooling: Which vector stands for a text.
        prompt: Put before every text.
        precision: Of matrix products.
        dim: Width of the rows, the first numbers of the model's, brought to unit norm.
        dtype: Of the numbers.
        input: Where the texts are.
        input_digest: Of their content.
        column: Their column; ``None`` of lines.
        id_column: What names the rows; ``None``: their numbers, from 0.
        empty_rows: Whether rows without text were refused or left out.
        rows_a_file: Rows a file, but for the last.
        format: Of the files.
    """

    model: str
    model_digest: str | None
    pooling: str
    prompt: str
    precision: str
    dim: int
    dtype: RowType
    input: str
    input_digest: str
    column: str | None
    id_column: str | None
    empty_rows: str
    rows_a_file: int
    format: FileFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedFacts(Asked):
    """``embed.json``. ``files`` is empty, and ``complete`` false, while files are being made."""

    schema: int = SCHEMA
    rows: int = 0
    complete: bool = False
    files: tuple[EmbeddingFile, ...] = ()


def begin(folder: Path, asked: Asked, *, overwrite: bool = False) -> dict[int, EmbeddingFile]:
    """Prepares a folder for the files; gives those that an earlier call has finished, by their numbers.

    A file that is not as it was finished is said, and is to be made anew.

    Raises:
        ValueError: The folder holds something else, or embeddings of other texts, of another model, or made in another
            way: names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = [path.name for path in folder.iterdir()]
    if strange := [name for name in there if not _OWN.fullmatch(name) and not _DRAFT.fullmatch(name)]:
        raise ValueError(f"{folder} holds something else ({sorted(strange)[0]}); choose another --output")
    if overwrite:
        for name in sorted(there, key=lambda name: name != FACTS):
            (folder / name).unlink(missing_ok=True)
    if not (folder / FACTS).is_file():
        if left := [name for name in there if _OWN.fullmatch(name) and (folder / name).exists()]:
            raise ValueError(f"{folder} holds {sorted(left)[0]} without {FACTS}; --overwrite makes all of it anew")
        write_json(folder / FACTS, asdict(EmbedFacts(**asdict(asked))))
        return {}
    facts = read_facts(folder)
    _check_same(folder, facts, asked)
    return {number: file for number, file in _noted(folder, facts).items() if _is_whole(folder, file)}


def read_facts(folder: Path) -> EmbedFacts:
    """What a folder of embeddings says of itself.

    Raises:
        ValueError: It is none, a damaged one, or of another version.
    """
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"{folder} holds no embeddings of mcse embed: there is no {FACTS} in it")
    facts = read_json(path, EmbedFacts, most_bytes=2**30)
    if facts.schema != SCHEMA:
        raise ValueError(f"{path}: schema {facts.schema}, this version reads {SCHEMA}")
    return facts


def write_file(folder: Path, asked: Asked, number: int, ids: Sequence[Id], row_ND: NDArray[Any]) -> None:
    """Writes the rows of a file, and then the note that it is finished."""
    name, own_ids = f"embeddings-{number:05d}.{asked.format}", None
    if asked.format == "parquet":
        flat = pa.array(row_ND.reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(flat, row_ND.shape[1])
        with replacing(folder / name) as draft:
            parquet.write_table(pa.table({"id": pa.array(list(ids)), "embedding": rows}), draft)
    else:
        own_ids = f"ids-{number:05d}.npy"
        id_N = np.array(ids)  # int64, or text as wide as the widest
        for path, array in ((folder / own_ids, id_N), (folder / name, row_ND)):
            with replacing(path) as draft, draft.open("wb") as stream:
                np.save(stream, array)
    file = EmbeddingFile(
        number=number,
        rows=len(ids),
        file=name,
        sha256=sha256_file(folder / name),
        ids=own_ids,
        ids_sha256=None if own_ids is None else sha256_file(folder / own_ids),
    )
    write_json(folder / f"done-{number:05d}.json", asdict(file))


def finish(folder: Path, asked: Asked, *, number_of_files: int, rows: int) -> EmbedFacts:
    """Writes down all files, once all of them are finished; the notes of each are not needed any more.

    They are not read again: ``begin`` has looked at those that it gave, and the others are just written.

    Raises:
        ValueError: One is missing, or they hold another number of rows than were read.
    """
    files = sorted(_noted(folder, read_facts(folder)).values(), key=lambda file: file.number)
    if [file.number for file in files] != list(range(number_of_files)) or sum(file.rows for file in files) != rows:
        raise ValueError(
            f"{folder}: {len(files)} files of {sum(file.rows for file in files):,} rows, but {number_of_files} of "
            f"{rows:,} were to be made; give the same command again"
        )
    facts = EmbedFacts(**asdict(asked), rows=rows, complete=True, files=tuple(files))
    write_json(folder / FACTS, asdict(facts))
    for path in folder.glob("done-*.json"):
        path.unlink()
    return facts


def read_embeddings(folder: Path) -> Iterator[tuple[list[Id], NDArray[Any]]]:
    """Ids and (N, D) embeddings, file by file; of ``.npy`` the embeddings stay on the disk until they are used.

    Raises:
        ValueError: The folder holds no embeddings, they are not complete, or a file is not the one that was written.
    """
    facts = read_facts(folder)
    if not facts.complete:
        raise ValueError(f"{folder}: its making was stopped; the same mcse embed command goes on")
    for file in facts.files:
        if not _is_whole(folder, file):
            raise ValueError(f"{folder / file.file}: damaged or missing; the same mcse embed command makes it anew")
        yield _read(folder, file, facts)


def _read(folder: Path, file: EmbeddingFile, facts: EmbedFacts) -> tuple[list[Id], NDArray[Any]]:
    if file.ids is None:
        table = parquet.read_table(folder / file.file)
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        ids, row_ND = table["id"].to_pylist(), flat.reshape(-1, facts.dim)
    else:
        ids, row_ND = map_npy(folder / file.ids).tolist(), map_npy(folder / file.file)
    if len(ids) != file.rows or row_ND.shape != (file.rows, facts.dim):
        raise ValueError(f"{folder / file.file}: {len(ids)} ids, rows of shape {row_ND.shape}, not as {FACTS} says")
    return ids, row_ND


def _noted(folder: Path, facts: EmbedFacts) -> dict[int, EmbeddingFile]:
    """What is said of each finished file, last beside it."""
    noted = {file.number: file for file in facts.files}
    for path in folder.glob("done-*.json"):
        file = read_json(path, EmbeddingFile)
        noted[file.number] = file
    return noted


def _is_whole(folder: Path, file: EmbeddingFile) -> bool:
    """Whether a file is as it was finished; the files' names are ours, so that nothing else is read."""
    for name, digest in ((file.file, file.sha256), (file.ids, file.ids_sha256)):
        if name is None:
            continue
        path = folder / name
        if not _OWN.fullmatch(name) or not path.is_file() or sha256_file(path) != digest:
            logger.warning("%s is damaged, or not there any more; it is to be made anew", path)
            return False
    return True


def _check_same(folder: Path, facts: EmbedFacts, asked: Asked) -> None:
    for key in (field.name for field in fields(Asked)):
        before, now = getattr(facts, key), getattr(asked, key)
        if key == "model" and facts.model_digest is not None:
            continue  # it may lie elsewhere now
        if key == "input":
            continue  # it, too
        if before != now:
            what = _WORDS.get(key, f"--{key.replace('_', '-')}")
            raise ValueError(
                f"{folder} was begun with another {what}: {before!r}, now {now!r}. Give the same again, another "
                "--output, or --overwrite"
            )


_WORDS = {
    "model": "model",
    "model_digest": "model (its digest)",
    "input_digest": "content of --input, which has changed since (its digest)",
}
