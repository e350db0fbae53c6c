"""Stored image features: read by row from disk, matched to captions, written by an extraction that may be killed.

B rows asked for, N stored images, F feature width.

A store of ours is a folder: ``features.npy`` (N, F) float32, ``names.json``, and ``meta.json``, which is written last
and so marks the store as complete. MCSE's own HDF5 files (``features``, optionally ``image_names``) and bare ``.npy``
matrices are read too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import CaptionTable, without_images
from mcse.data.images.names import ABSENT, match_names
from mcse.data.images.sources import OnBadImage, SkippedImage

FloatRows = NDArray[np.float32]
_Stored: TypeAlias = NDArray[np.floating[Any]] | h5py.Dataset

_logger = logging.getLogger(__name__)

_FEATURES, _NAMES, _META, _PROGRESS = "features.npy", "names.json", "meta.json", "progress.json"
_SCHEMA = 1
_HEADER_BYTES = 128
_SCAN_BYTES = 64 * 2**20
_MOMENT_ROWS = 4096
# Compressed HDF5 decompresses whole chunks for every row, so files up to this size are unpacked into memory once.
_IN_MEMORY_BYTES = 2 * 2**30


class FeatureStore:
    """The feature rows of N images, read from disk as they are asked for.

    ``tower``, ``preprocessing`` and ``weights`` (a digest) say what made the rows, where the store knows it. A row
    holds ``regions`` equal parts side by side, 1 for pooled features. Survives fork and pickle: a copy in another
    process opens the file again when first used.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: tuple[int, int],
        names: tuple[str, ...] | None,
        tower: str | None,
        preprocessing: str | None,
        weights: str | None,
        skipped: tuple[SkippedImage, ...],
        files: tuple[Path, ...],
        regions: int = 1,
    ) -> None:
        self.path = path
        self.regions = regions
        self.names = names
        self.width = shape[1]
        self.tower = tower
        self.preprocessing = preprocessing
        self.weights = weights
        self.skipped = skipped
        self.files = files
        self._length = shape[0]
        self._rows: _Stored | None = None
        self._process = -1

    def check_tower(self, trained: str | None) -> None:
        """Refuses the rows for a model that was trained on those of another tower; of unknown towers nothing is said.

        Raises:
            ValueError: Another tower than ``trained``.
        """
        if trained and self.tower and trained != self.tower:
            raise ValueError(f"--features: {self.path} holds features of {self.tower}, not of {trained}")

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_rows": None, "_process": -1}

    def rows(self, index_B: NDArray[np.int64]) -> FloatRows:
        """(B, F) float32; indices in any order, repeats allowed.

        Raises:
            IndexError: an index outside 0 … N - 1.
        """
        index = np.asarray(index_B, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= self._length):
            raise IndexError(f"{self.path}: row {index.min()} … {index.max()} asked for, there are {self._length}")
        stored = self._open()
        if isinstance(stored, np.ndarray):
            return np.ascontiguousarray(stored[index], dtype=np.float32)
        unique, inverse = np.unique(index, return_inverse=True)  # h5py wants increasing indices without repeats
        return np.asarray(stored[unique], dtype=np.float32)[inverse]

    def moments(self, index_B: NDArray[np.int64]) -> tuple[FloatRows, FloatRows]:
        """(F,) mean and standard deviation over the rows ``index_B``; 1 in place of a deviation of 0."""
        sums_2F = np.zeros((2, self.width))
        for start in range(0, len(index_B), _MOMENT_ROWS):
            row_BF = self.rows(index_B[start : start + _MOMENT_ROWS]).astype(np.float64)
            sums_2F += (row_BF.sum(0), np.square(row_BF).sum(0))
        mean_F, square_F = sums_2F / len(index_B)
        std_F = np.sqrt(np.maximum(square_F - mean_F**2, 0))
        return mean_F.astype(np.float32), np.where(std_F < 1e-6, 1.0, std_F).astype(np.float32)

    def _open(self) -> _Stored:
        # An HDF5 handle must not be shared with a forked child; arrays and memory maps may be.
        if self._rows is None or (self._process != os.getpid() and not isinstance(self._rows, np.ndarray)):
            self._rows, self._process = _open_rows(_matrix_file(self.path)), os.getpid()
        return self._rows


def open_features(path: Path) -> FeatureStore:
    """The store at ``path``: our folder, an HDF5 file with ``features``, or a bare ``.npy`` matrix.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: truncated or unreadable, unfinished extraction, not a matrix of floats, empty, repeated names, or
            NaN or infinity in it (file and first offending row and name).
    """
    if not path.exists():
        raise FileNotFoundError(f"features {path}: no such file or folder (data.features)")
    meta = _read_meta(path) if path.is_dir() else {}
    stored = _open_rows(_matrix_file(path))
    if stored.ndim != 2 or 0 in stored.shape:
        raise ValueError(f"{path}: features must be a matrix (images, width), got shape {tuple(stored.shape)}")
    if stored.dtype.kind != "f":
        raise ValueError(f"{path}: features must be floating point, got {stored.dtype}")
    names = _read_names(path)
    _check_names(path, names, len(stored))
    _check_finite(path, stored, names)
    store = FeatureStore(
        path,
        shape=(stored.shape[0], stored.shape[1]),
        names=names,
        tower=meta.get("tower"),
        preprocessing=meta.get("preprocessing"),
        weights=meta.get("weights"),
        regions=_regions(path, meta, width=stored.shape[1]),
        skipped=tuple(SkippedImage(**record) for record in meta.get("skipped", ())),
        files=tuple(path / name for name in (_FEATURES, _NAMES, _META)) if path.is_dir() else (path,),
    )
    if isinstance(stored, h5py.Dataset):
        stored.file.close()
    else:
        store._rows = stored  # what the check has unpacked need not be unpacked again
    return store


def match_features(table: CaptionTable, store: FeatureStore) -> NDArray[np.int64]:
    """The store's row of each image of the table. The store may hold more images.

    Where captions or features have no names, they are matched by order and equal count, which is logged as a warning.

    Raises:
        ValueError: images without features (count and first name), or no names and unequal counts.
    """
    if table.image_names is None or store.names is None:
        if len(table) != len(store):
            lacking = table.source if table.image_names is None else str(store.path)
            raise ValueError(
                f"{table.source} has {len(table)} images and {store.path} {len(store)} features; {lacking} has no "
                "image names, so they can only be matched by order, with equal counts"
            )
        _logger.warning("%s and %s: no image names, so matched by order (%d)", table.source, store.path, len(store))
        return np.arange(len(table), dtype=np.int64)
    rows = match_names(table.image_names, store.names, where=f"{table.source} against {store.path}")
    missing = np.flatnonzero(rows == ABSENT)
    if len(missing):
        hint = f"; its extraction skipped {len(store.skipped)} unreadable images" if store.skipped else ""
        raise ValueError(
            f"{store.path}: no features for {len(missing)} of the {len(table)} images of {table.source}, "
            f"first {table.image_names[int(missing[0])]!r}{hint}"
        )
    return rows


def without_skipped(table: CaptionTable, store: FeatureStore, *, on_bad_image: OnBadImage) -> CaptionTable:
    """The table without the images that the store's extraction skipped as unreadable; says which in a warning.

    Where captions have no image names, nothing says whose image was skipped, and the table stays as it is.

    Raises:
        ValueError: There are such images, and ``on_bad_image`` is ``error`` (count and first name).
    """
    if table.image_names is None or not store.skipped:
        return table
    skipped = [image.name for image in store.skipped]
    where = f"{store.path} against {table.source}"
    if on_bad_image == "error":
        rows = match_names(skipped, table.image_names, where=where)
        lacking = [name for name, row in zip(skipped, rows, strict=True) if row != ABSENT]
        if lacking:
            raise ValueError(
                f"data.features: the extraction of {store.path} skipped {len(lacking)} of the {len(table)} images of "
                f"{table.source} as unreadable, first {lacking[0]!r}; data.on_bad_image skip leaves out their captions"
            )
        return table
    return without_images(table, skipped, where=str(store.path))


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What an extraction computes; an interrupted one continues only under the same plan."""

    names: tuple[str, ...]
    tower: str
    preprocessing: str
    precision: str
    weights: str  # digest of the tower's weights
    width: int
    regions: int = 1

    def identity(self) -> dict[str, str]:
        """All of it as short strings, image names as a digest; pooled features say nothing of regions."""
        images = hashlib.sha256(json.dumps(self.names).encode()).hexdigest()
        left_out = {"names"} | ({"regions"} if self.regions == 1 else set())
        own = {key: str(value) for key, value in asdict(self).items() if key not in left_out}
        return {**own, "images": f"{len(self.names)} images, sha256 {images[:16]}"}


class FeatureWriter:
    """Appends rows to a store folder; a killed process loses at most the block it was writing.

    Use as a context manager: ``done`` images are behind us, ``append`` takes the next, ``finish`` makes it readable.
    """

    def __init__(self, folder: Path, plan: ExtractionPlan, *, overwrite: bool = False) -> None:
        """Starts a store, or continues the unfinished one in ``folder``; ``overwrite`` deletes a store there first.

        Raises:
            ValueError: ``folder`` holds a finished store, something else, an extraction under another plan, or one
                that is still running.
        """
        self.folder = folder
        self.plan = plan
        self.done = 0
        self.skipped: list[SkippedImage] = []
        self._num_rows = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            if overwrite:
                _remove_store(folder)
            self._restore()
            self._file = self._open_at_progress()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        os.close(self._lock)

    def append(self, rows_BF: FloatRows, *, skipped: Sequence[SkippedImage] = ()) -> None:
        """Records the next ``B + len(skipped)`` images: ``rows_BF`` in the plan's order without ``skipped``.

        Raises:
            ValueError: wrong shape, NaN or infinity, or more images than planned.
        """
        if rows_BF.ndim != 2 or rows_BF.shape[1] != self.plan.width:
            raise ValueError(f"{self.folder}: rows of shape {rows_BF.shape} for width {self.plan.width}")
        upcoming = self.plan.names[self.done : self.done + len(rows_BF) + len(skipped)]
        left_out = {image.name for image in skipped}
        names = [name for name in upcoming if name not in left_out]
        if len(names) != len(rows_BF) or len(upcoming) - len(names) != len(skipped):
            raise ValueError(
                f"{self.folder}: {len(rows_BF)} rows and {len(skipped)} skipped images are not the next ones"
            )
        bad = np.flatnonzero(~np.isfinite(rows_BF).all(axis=1))
        if len(bad):
            raise ValueError(f"{self.plan.tower} gave NaN or infinity for {names[int(bad[0])]!r}")
        self._file.write(np.ascontiguousarray(rows_BF, dtype="<f4").tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())  # the rows must be on disk before the progress that counts them
        self.done += len(upcoming)
        self.skipped.extend(skipped)
        self._num_rows += len(rows_BF)
        self._record()

    def finish(self) -> None:
        """Completes the store.

        Raises:
            ValueError: images of the plan are still to come, or every one was skipped.
        """
        if self.done != len(self.plan.names):
            raise ValueError(f"{self.folder}: {self.done} of {len(self.plan.names)} images done")
        if self._num_rows == 0:
            raise ValueError(f"{self.folder}: all {self.done} images were skipped, first {self.skipped[0].reason}")
        self._file.seek(0)
        self._file.write(_npy_header(self._num_rows, self.plan.width))
        self._file.flush()
        os.fsync(self._file.fileno())
        left_out = {image.name for image in self.skipped}
        _write_json(self.folder / _NAMES, [name for name in self.plan.names if name not in left_out])
        meta = {"schema": _SCHEMA, **self.plan.identity(), "rows": self._num_rows, "skipped": self._skipped_records()}
        _write_json(self.folder / _META, meta)
        (self.folder / _PROGRESS).unlink()

    def _restore(self) -> None:
        if (self.folder / _META).exists():
            raise ValueError(f"{self.folder} holds a finished feature store; use --overwrite or another --output")
        if not (self.folder / _PROGRESS).exists():
            if any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} is not empty and holds no feature store; use another --output")
            self._record()  # before the matrix, so that a folder with a matrix always says whose it is
            return
        progress = _read_json(self.folder / _PROGRESS)
        for key, value in self.plan.identity().items():
            if progress["plan"].get(key) != value:
                raise ValueError(
                    f"{self.folder} holds an unfinished extraction with {key} {progress['plan'].get(key)}, not {value}"
                    "; continue it as it was begun, or use --overwrite"
                )
        self.done, self._num_rows = int(progress["done"]), int(progress["rows"])
        self.skipped = [SkippedImage(**record) for record in progress["skipped"]]

    def _open_at_progress(self) -> BinaryIO:
        """The matrix file, positioned behind the last recorded row; what a killed block wrote after it is cut off."""
        path = self.folder / _FEATURES
        recorded_bytes = _HEADER_BYTES + self._num_rows * self.plan.width * 4
        held_bytes = path.stat().st_size if path.exists() else 0
        if self.done and held_bytes < recorded_bytes:
            raise ValueError(
                f"{path}: {held_bytes} bytes, but {self._num_rows} rows are recorded as written; use --overwrite"
            )
        file = path.open("r+b" if path.exists() else "w+b")
        if not self.done:
            file.write(_npy_header(0, self.plan.width))
        file.truncate(recorded_bytes)
        file.seek(0, os.SEEK_END)
        return file

    def _record(self) -> None:
        progress = {
            "plan": self.plan.identity(),
            "planned": len(self.plan.names),
            "done": self.done,
            "rows": self._num_rows,
            "skipped": self._skipped_records(),
        }
        _write_json(self.folder / _PROGRESS, progress)

    def _skipped_records(self) -> list[dict[str, str]]:
        return [asdict(image) for image in self.skipped]


def _remove_store(folder: Path) -> None:
    """Deletes a store's own files and nothing else; a folder that is no store keeps everything."""
    if (folder / _META).is_file() or (folder / _PROGRESS).is_file():
        for name in (_META, _NAMES, _FEATURES, _PROGRESS):
            (folder / name).unlink(missing_ok=True)


def _matrix_file(path: Path) -> Path:
    return path / _FEATURES if path.is_dir() else path


def _open_rows(path: Path) -> _Stored:
    """A (N, F) numpy array (memory-mapped where the layout allows), or an open HDF5 dataset too large to unpack."""
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return _open_hdf5(path)
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: not readable as features, perhaps truncated: {error}") from error


def _open_hdf5(path: Path) -> _Stored:
    file = h5py.File(path, "r")
    if "features" not in file or not isinstance(file["features"], h5py.Dataset):
        found = ", ".join(map(repr, file)) or "nothing"
        raise ValueError(f"{path}: no dataset 'features' in it; it holds {found}")
    dataset = file["features"]
    offset, shape, dtype = dataset.id.get_offset(), dataset.shape, dataset.dtype
    if dataset.ndim != 2 or 0 in shape:
        return dataset
    if offset is not None and dataset.external is None:
        file.close()
        return np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset)
    if dataset.size * dtype.itemsize > _IN_MEMORY_BYTES:
        return dataset
    rows = dataset[:]
    file.close()
    return rows


def _read_names(path: Path) -> tuple[str, ...] | None:
    if path.is_dir():
        return tuple(_read_json(path / _NAMES))
    if path.suffix == ".npy":
        return None
    with h5py.File(path, "r") as file:
        if "image_names" not in file:
            return None
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in file["image_names"][:])


def _read_meta(folder: Path) -> dict[str, Any]:
    if (folder / _META).is_file():
        meta: dict[str, Any] = _read_json(folder / _META)
        if meta.get("schema") != _SCHEMA:
            raise ValueError(f"{folder / _META}: schema {meta.get('schema')!r}, this version reads {_SCHEMA}")
        return meta
    if (folder / _PROGRESS).is_file():
        progress = _read_json(folder / _PROGRESS)
        raise ValueError(
            f"{folder}: unfinished extraction, {progress['done']} of {progress['planned']} images; "
            "run the same mcse extract-features again, it continues"
        )
    raise ValueError(f"{folder}: not a feature store (no {_META}); mcse extract-features makes one")


def _regions(path: Path, meta: dict[str, Any], *, width: int) -> int:
    regions = int(meta.get("regions", 1))
    if regions < 1 or width % regions:
        raise ValueError(f"{path / _META}: {regions} regions do not divide rows of width {width}")
    return regions


def _check_names(path: Path, names: tuple[str, ...] | None, count: int) -> None:
    if names is None:
        return
    if len(names) != count:
        raise ValueError(f"{path}: {len(names)} image names for {count} feature rows")
    if len(set(names)) != count:
        first = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"{path}: {count - len(set(names))} repeated image names, first {first!r}")


def _check_finite(path: Path, stored: _Stored, names: tuple[str, ...] | None) -> None:
    step = max(1, _SCAN_BYTES // (stored.shape[1] * 4))
    for start in range(0, len(stored), step):
        with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinity, which is what we look for
            block = np.asarray(_block(stored, start, min(start + step, len(stored))), dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            row = start + int(bad[0])
            name = "" if names is None else f" ({names[row]})"
            what = "NaN" if np.isnan(block[bad[0]]).any() else "infinity"
            raise ValueError(f"{path}: {what} in the features of row {row}{name}; extract them again")


def _block(stored: _Stored, start: int, end: int) -> NDArray[np.floating[Any]]:
    """Rows of a matrix. What is read through the store's own map counts as this process's memory for as long as it."""
    if isinstance(stored, np.memmap) and stored.flags.c_contiguous and stored.filename is not None:
        offset = stored.offset + start * stored.strides[0]
        shape = (end - start, stored.shape[1])
        mapped: NDArray[Any] = np.memmap(stored.filename, mode="r", dtype=stored.dtype, shape=shape, offset=offset)
        return mapped
    rows: NDArray[np.floating[Any]] = stored[start:end]
    return rows


def _lock(folder: Path) -> int:
    """A lock on the folder that ends with the process, so that two extractions cannot write one store."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ValueError(f"{folder}: another extraction is writing this store ({error.strerror})") from error
    return descriptor


def _npy_header(num_rows: int, width: int) -> bytes:
    """An .npy header of fixed size, so that the number of rows can be filled in at the end."""
    fields = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({num_rows}, {width}), }}"
    body = fields.ljust(_HEADER_BYTES - 11).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return loaded
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: broken JSON ({error}); extract the features again with --overwrite") from error


def _write_json(path: Path, value: object) -> None:
    """Writes under another name first, so that a kill leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
