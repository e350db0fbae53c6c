"""Image–text shards: tars of samples in WebDataset's layout, scanned once and then read at random.

A sample is the members of one tar whose names share all up to the base name's first dot: ``0001.txt`` or ``0001.json``
(``caption`` or ``captions``) with ``0001.jpg`` (any image) or ``0001.npy`` (a feature row), or both.

N samples of all shards, S shards.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import re
import shutil
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Literal, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray

from mcse.data.images.names import IMAGE_SUFFIXES, is_resource_fork
from mcse.data.patterns import files_named, is_pattern
from mcse.files import creating_folder, digest_of, is_kept, keeping, remove_folder, sha256_file, write_json
from mcse.reading import parse_json, read_json, say_read

logger = logging.getLogger(__name__)

Part: TypeAlias = Literal["text", "image", "row"]
"""What a sample may hold: its captions, its image, its feature row."""

_FORMAT = "3"
_METADATA, _FORKS = ".json beside a .txt", "what macOS adds"
"""Of members that are no part of a sample, those that many sets of shards have."""

_BLOCK = 512
_OPEN_FILES = 128
_PARTS: tuple[Part, ...] = ("text", "image", "row")
# Members of a tar begin at blocks of 512 bytes, so 32 bits reach 2 TiB; a size of 0 means that there is none.
_MOST_BYTES: dict[Part, int] = {"text": 2**24, "image": 2**32 - 1, "row": 2**32 - 1}
_SAMPLE = np.dtype([(f"{part}_{what}", "<u4") for part in _PARTS for what in ("block", "size")] + [("is_json", "u1")])


def find_shards(source: str, *, root: Path) -> tuple[Path, ...]:
    """The tars that a brace range (``pairs-{000..099}.tar``, ``{a,b}.tar``), a glob, a folder or a path names.

    Raises:
        FileNotFoundError: None is there, or one that a range names is not.
        ValueError: They are compressed.
    """
    if source.endswith((".gz", ".tgz")):
        raise ValueError(f"data.captions: {source}: compressed tars cannot be read at random; unpack them to .tar")
    if (root / source).is_dir():
        return tuple(sorted((root / source).glob("*.tar")))
    paths: list[Path] = []
    for name in _braces(source):
        paths += files_named(name, root=root) if is_pattern(name) else [root / name]
    if not paths:
        raise FileNotFoundError(f"data.captions: no tar fits {source}")
    if absent := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"data.captions: {len(absent)} of {len(paths)} tars are not there, first {absent[0]}")
    return tuple(paths)


@dataclass(frozen=True, slots=True)
class _TarIndex:
    """Where the parts of a tar's samples lie, how many captions each has, and a name for it all."""

    samples: NDArray[np.void]
    counts: NDArray[np.int64]
    digest: str
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Meta:
    """``meta.json`` of the index; ``files`` is the digest of its other files."""

    files: str
    digest: str
    lacking: dict[Part, int]
    passed_over: dict[str, int]
    members: int


class ShardSet:
    """The samples of all shards, numbered through, from a memory-mapped index.

    ``first`` (N + 1) counts the captions before each sample, ``shard_first`` (S + 1) the samples before each shard.
    ``lacking`` says how many samples have no caption, image or row. ``digest`` names the members, their sizes and the
    captions; ``key`` also depends on where and how old the tars are. Reads are safe from several threads, and after a
    fork. ``passed_over`` counts the members that are no part of a sample, by what their names end in; ``members`` the
    others.
    """

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self.paths = tuple(paths)
        self.key = folder.name
        self.samples: NDArray[np.void] = np.load(folder / "samples.npy", mmap_mode="r")
        self.first: NDArray[np.int64] = np.load(folder / "first.npy", mmap_mode="r")
        self.shard_first: NDArray[np.int64] = np.load(folder / "shards.npy")
        meta = read_json(folder / "meta.json", _Meta)
        self.digest = meta.digest
        self.lacking = meta.lacking
        self.passed_over = meta.passed_over
        self.members = meta.members
        self._files = _OpenFiles()

    def __len__(self) -> int:
        return len(self.samples)

    def captions(self, sample: int) -> tuple[str, ...]:
        """The captions of a sample, each on one line; none where the tar holds none."""
        record = self.samples[sample]
        if not record["text_size"]:
            return ()
        where = f"{self.paths[self._shard(sample)]}: sample {sample}"
        return _captions(self.read(sample, "text"), is_json=bool(record["is_json"]), where=where)

    def read(self, sample: int, part: Part) -> bytes:
        """The bytes of one part.

        Raises:
            ValueError: It is not there, or the tar has changed since the scan; names tar and member.
        """
        record = self.samples[sample]
        size = int(record[f"{part}_size"])
        if not size:
            raise ValueError(self.lacks(sample, part))
        path = self.paths[self._shard(sample)]
        data = self._files.read(path, offset=int(record[f"{part}_block"]) * _BLOCK, size=size)
        if len(data) != size:
            raise ValueError(f"{self.member(sample, part)}: cut off; {path} has changed since it was scanned")
        return data

    def without(self, part: Part) -> NDArray[np.int64]:
        """The samples that have no such part, in order."""
        if not self.lacking[part]:
            return np.empty(0, dtype=np.int64)
        step = 2**20
        if part == "text":  # a file may be there and hold no caption
            blocks = (np.diff(self.first[start : start + step + 1]) for start in range(0, len(self), step))
        else:
            blocks = (self.samples[start : start + step][f"{part}_size"] for start in range(0, len(self), step))
        return np.concatenate([np.flatnonzero(block == 0) + number * step for number, block in enumerate(blocks)])

    def lacks(self, sample: int, part: Part) -> str:
        """In words, that a sample has no such part."""
        wanted = {"text": "caption (.txt, or .json with 'caption')", "image": "image (.jpg, .png)", "row": ".npy row"}
        there = next((other for other in _PARTS if self.samples[sample][f"{other}_size"]), part)
        return f"{self.member(sample, there)}: its sample has no {wanted[part]}"

    def member(self, sample: int, part: Part) -> str:
        """``tar: member`` of a part that is there; looks it up in the tar, for messages."""
        path = self.paths[self._shard(sample)]
        offset = int(self.samples[sample][f"{part}_block"]) * _BLOCK
        try:
            with tarfile.open(path, "r:") as tar:
                found = next(member.name for member in tar if member.offset_data == offset)
        except (tarfile.TarError, OSError, StopIteration):
            return f"{path}, byte {offset}"
        return f"{path}: {found}"

    def _shard(self, sample: int) -> int:
        return int(np.searchsorted(self.shard_first, sample, side="right")) - 1


def open_shards(source: str, *, root: Path) -> ShardSet:
    """The shards that ``source`` names, scanned where the cache does not know them.

    The scan reads each tar's headers and captions. It is kept by path, size and time of change, tar by tar: processes
    that start together share the work, since each begins elsewhere and skips what another has done.

    Raises:
        FileNotFoundError: No such tar.
        ValueError: One is truncated or damaged, names a part twice, or holds a caption that cannot be read (names tar
            and member); or there is no sample.
    """
    paths = find_shards(source, root=root)
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / "shards"
    keys = [_key(path) for path in paths]
    begin = os.getpid() % len(paths)
    lacking = 0
    for place in [*range(begin, len(paths)), *range(begin)]:
        scanned = cache / f"{keys[place]}.npz"
        if not is_kept(scanned):
            lacking += 1
            if lacking == 1:
                logger.warning("%s: scanning tars (once; %d in all)", source, len(paths))
            _save_scan(scanned, _scan(paths[place]))
    folder = cache / digest_of(*keys)
    if folder.is_dir() and not _is_whole(folder):
        logger.warning("%s is damaged; it is made anew", folder)
        remove_folder(folder)
    if not folder.is_dir():
        with contextlib.suppress(FileExistsError), creating_folder(folder) as draft:
            _join(draft, [cache / f"{key}.npz" for key in keys], source=source)
    shards = ShardSet(paths, folder)
    passed_over = {f"of {ending}": count for ending, count in shards.passed_over.items()}
    total = shards.members + sum(passed_over.values())
    say_read(
        source,
        read=shards.members,
        total=total,
        unit="members",
        passed_over=passed_over,
        is_usual=shards.passed_over.keys() <= {_METADATA, _FORKS},
    )
    return shards


def _scan(path: Path) -> _TarIndex:
    """Reads every header and caption of one tar."""
    found: dict[str, _Members] = {}
    passed_over: Counter[str] = Counter()
    with path.open("rb") as file:
        last = "its start"
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    last = member.name
                    if member.isdir():
                        continue
                    if is_resource_fork(PurePosixPath(last)):
                        passed_over[_FORKS] += 1
                    elif not member.isreg():
                        passed_over["links"] += 1
                    elif not _note(found, member, path):
                        passed_over[f".{PurePosixPath(last).name.partition('.')[2].lower()}"] += 1
                end = tar.offset
        except (tarfile.TarError, EOFError, OverflowError, UnicodeError, MemoryError, RecursionError) as error:
            raise ValueError(f"{path}: truncated or damaged at {last} ({error})") from None
        # A tar that was cut off between members, or whose next header is damaged, ends without a block of zeros.
        if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
            raise ValueError(f"{path}: truncated or damaged after {last} (no end mark at byte {end})")
        file.seek(end)
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise ValueError(
                    f"{path}: goes on after its end mark at byte {end}; tars are joined by 'tar -A', not cat"
                )
        return _index(found, file, path, passed_over=passed_over)


@dataclass(slots=True)
class _Members:
    """The members of one sample."""

    parts: dict[Part, tarfile.TarInfo] = field(default_factory=dict)
    json: tarfile.TarInfo | None = None


def _note(found: dict[str, _Members], member: tarfile.TarInfo, path: Path) -> bool:
    """Takes a member for its sample; whether it is a part of one."""
    name = PurePosixPath(member.name)
    stem, _, ending = name.name.partition(".")
    suffix = f".{ending.lower()}"
    part: Part | None = None
    if suffix in (".txt", ".json"):
        part = "text"
    elif suffix in IMAGE_SUFFIXES:
        part = "image"
    elif suffix == ".npy":
        part = "row"
    if part is None or not stem:
        return False
    if member.sparse is not None:
        raise ValueError(
            f"{path}: {member.name} is stored with holes (a sparse member); write it with its full content"
        )
    if member.size > _MOST_BYTES[part]:
        raise ValueError(f"{path}: {member.name} has {member.size:,} bytes; expected {_MOST_BYTES[part]:,} at most")
    sample = found.setdefault(str(name.parent / stem), _Members())
    other = sample.json if suffix == ".json" else sample.parts.get(part)
    if other is not None:
        raise ValueError(f"{path}: {member.name} and {other.name} are the same sample's")
    if suffix == ".json":
        sample.json = member
    else:
        sample.parts[part] = member
    return True


def _index(found: dict[str, _Members], file: io.BufferedReader, path: Path, *, passed_over: Counter[str]) -> _TarIndex:
    samples = np.zeros(len(found), dtype=_SAMPLE)
    counts = np.zeros(len(found), dtype=np.int64)
    said: list[str] = []
    for number, (key, members) in enumerate(found.items()):
        # A text file is the caption; a JSON file beside it is other people's metadata.
        is_json = "text" not in members.parts and members.json is not None
        if is_json and members.json is not None:
            members.parts["text"] = members.json
        elif members.json is not None:
            passed_over[_METADATA] += 1
        captions: tuple[str, ...] = ()
        for part, member in members.parts.items():
            samples[number][f"{part}_block"] = member.offset_data // _BLOCK
            samples[number][f"{part}_size"] = member.size
        if "text" in members.parts:
            samples[number]["is_json"] = is_json
            text = members.parts["text"]
            data = os.pread(file.fileno(), text.size, text.offset_data)
            captions = _captions(data, is_json=is_json, where=f"{path}: {text.name}")
        counts[number] = len(captions)
        sizes = {part: members.parts[part].size for part in _PARTS if part in members.parts}
        said.append(json.dumps([key, captions, sizes]))
    return _TarIndex(samples, counts, digest_of(*said), tuple(passed_over.elements()))


@dataclass(frozen=True, slots=True)
class _Captioned:
    """A sample's JSON."""

    caption: str | list[str] | None = None
    captions: str | list[str] | None = None


def _captions(data: bytes, *, is_json: bool, where: str) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{where}: not UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{where}: a NUL byte in it")
    if not is_json:
        return tuple(filter(None, [" ".join(text.split())]))
    loaded = parse_json(text, _Captioned, where=where)
    given = loaded.caption if loaded.captions is None else loaded.captions
    several = [given] if isinstance(given, str) else given or ()
    return tuple(filter(None, (" ".join(caption.split()) for caption in several)))


def _key(path: Path) -> str:
    stat = path.stat()
    return digest_of(_FORMAT, str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns))


def _save_scan(path: Path, index: _TarIndex) -> None:
    with keeping(path) as draft, draft.open("wb") as file:
        passed_over = np.asarray(index.passed_over, dtype=np.str_)
        digest = np.asarray(index.digest)
        np.savez(file, samples=index.samples, counts=index.counts, digest=digest, passed_over=passed_over)


def _join(folder: Path, scans: Sequence[Path], *, source: str) -> None:
    """One index of all tars."""
    shard_first = [0]
    digests: list[str] = []
    lacking = dict.fromkeys(_PARTS, 0)
    members = 0
    passed_over: Counter[str] = Counter()
    with (folder / "samples.raw").open("wb") as samples, (folder / "first.raw").open("wb") as first:
        captions = 0
        first.write(np.zeros(1, dtype="<i8").tobytes())
        for scan in scans:
            with np.load(scan) as loaded:
                part, counts = loaded["samples"], loaded["counts"]
                digests.append(str(loaded["digest"]))
                passed_over.update(loaded["passed_over"].tolist())
            samples.write(part.tobytes())
            first.write((captions + np.cumsum(counts)).astype("<i8").tobytes())
            captions += int(counts.sum())
            shard_first.append(shard_first[-1] + len(part))
            members += sum(int((part[f"{name}_size"] != 0).sum()) for name in _PARTS)
            lacking["text"] += int((counts == 0).sum())
            for name in ("image", "row"):
                lacking[name] += int((part[f"{name}_size"] == 0).sum())
    if not captions:
        raise ValueError(
            f"data.captions: {source}: no sample of the tars has a caption (.txt, or .json with 'caption')"
            + (f"; members end in {', '.join(list(passed_over)[:5])}" if passed_over else "")
        )
    _with_header(folder / "samples", _SAMPLE, shard_first[-1])
    _with_header(folder / "first", np.dtype("<i8"), shard_first[-1] + 1)
    np.save(folder / "shards.npy", np.asarray(shard_first, dtype=np.int64))
    found = {"digest": digest_of(*digests), "lacking": lacking, "passed_over": passed_over, "members": members}
    meta = {"files": _index_digest(folder), **found}
    write_json(folder / "meta.json", meta)


def _index_digest(folder: Path) -> str:
    return sha256_file(*(folder / f"{name}.npy" for name in ("samples", "first", "shards")))


def _is_whole(folder: Path) -> bool:
    try:
        return read_json(folder / "meta.json", _Meta).files == _index_digest(folder)
    except (ValueError, OSError):
        return False


def _with_header(path: Path, dtype: np.dtype[np.void] | np.dtype[np.int64], length: int) -> None:
    """``path.raw`` as ``path.npy``; the length was not known when the rows were written."""
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    with path.with_suffix(".npy").open("wb") as whole, path.with_suffix(".raw").open("rb") as raw:
        np.lib.format.write_array_header_1_0(whole, fields)
        shutil.copyfileobj(raw, whole, 2**22)
    path.with_suffix(".raw").unlink()


def _braces(source: str) -> Iterator[str]:
    """``a-{08..10}-{x,y}`` as ``a-08-x``, ``a-08-y``, ``a-09-x`` …; a range counts with its first number's width."""
    parts = re.split(r"\{([^{}]*)\}", source)
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        low, high = match.groups()
        return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return inside.split(",")


class _OpenFiles:
    """The files read last, kept open; one that is read while it is dropped is closed by the last who holds it."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, io.FileIO] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        """Open files stay behind: a copy in another process opens its own."""
        return _OpenFiles, ()

    def read(self, path: Path, *, offset: int, size: int) -> bytes:
        with self._lock:
            file = self._files.pop(path, None) or io.FileIO(path)
            self._files[path] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return os.pread(file.fileno(), size, offset)


__all__ = ["Part", "ShardSet", "find_shards", "open_shards"]
