"""Stored image features: read by row from disk, and joined to captions by the images' names.

B rows asked for, N stored images, F feature width.

A store of ours is a folder: ``features.npy`` (N, F) float32, ``names.json``, and ``meta.json``, which is written last
and so marks the store as complete (``feature_writer``). MCSE's own HDF5 files (``features``, optionally
``image_names``) and bare ``.npy`` matrices are read too.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import CaptionTable, without_images
from mcse.data.images.hdf5 import StoredRows, naming_features, open_hdf5, read_hdf5_names
from mcse.data.images.names import ABSENT, find_all, find_names
from mcse.data.images.sources import OnBadImage, SkippedImage
from mcse.data.npy import map_npy
from mcse.data.streams import RowNumbers
from mcse.files import digest_of, sha256_file
from mcse.reading import read_json, say_read
from mcse.types import DataFile, FloatArray

T = TypeVar("T")


_logger = logging.getLogger(__name__)

FEATURES_FILE, NAMES_FILE, META_FILE, PROGRESS_FILE = "features.npy", "names.json", "meta.json", "progress.json"
SCHEMA = 1

_MOST_NAMES = 2**30
"""Bytes of a JSON file of a store."""

_SCAN_BYTES = 64 * 2**20
_MOMENT_ROWS = 4096


@dataclass(frozen=True, slots=True)
class _Meta:
    """``meta.json``."""

    schema: int
    tower: str | None = None
    preprocessing: str | None = None
    weights: str | None = None
    regions: int | str = 1
    skipped: list[SkippedImage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Progress:
    """``progress.json``: what is computed, how many images of how many are behind, and how many rows they gave."""

    plan: dict[str, str]
    planned: int
    done: int
    rows: int
    skipped: list[SkippedImage]


class FeatureStore:
    """The feature rows of N images, read from disk as they are asked for.

    ``tower``, ``preprocessing`` and ``weights`` (a digest) say what made the rows, where the store knows it; ``on_bad``
    what becomes of captions whose images the extraction skipped. A row
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
        self.on_bad: OnBadImage = "error"
        self.regions = regions
        self.names = names
        self.width = shape[1]
        self.tower = tower
        self.preprocessing = preprocessing
        self.weights = weights
        self.skipped = skipped
        self.files = files
        self._length = shape[0]
        self._rows: StoredRows | None = None
        self._process = -1

    @property
    def origin(self) -> str:
        """Where it is."""
        return str(self.path)

    @property
    def label(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def made_by(self) -> dict[str, str | None]:
        """What made the rows, as far as the store knows."""
        return {"tower": self.tower, "preprocessing": self.preprocessing, "weights": self.weights}

    def file(self, index: RowNumbers) -> DataFile:
        """The whole store, whichever rows are shown."""
        del index
        digests = [sha256_file(path) for path in self.files]
        return DataFile("features", str(self.path), digests[0] if len(digests) == 1 else digest_of(*digests))

    def match(self, table: CaptionTable) -> tuple[CaptionTable, NDArray[np.int64]]:
        """As ``captions_to_features``, after captions of images that the extraction skipped are refused or left out."""
        table = without_skipped(table, self, on_bad_image=self.on_bad)
        return table, captions_to_features(table, self)

    def unreadable(self, index: Sequence[int]) -> frozenset[int]:
        """None: every row was checked when the store was opened."""
        del index
        return frozenset()

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

    def rows(self, index_B: NDArray[np.int64]) -> FloatArray:
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

    def first_equal(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) for each of the rows ``index_B`` the place among them of the first that is equal to it, or its own.

        Rows of zeros say nothing of an image, so each of them is its own.
        """
        print_B = np.empty(len(index_B), dtype=np.uint64)
        for start in range(0, len(index_B), _MOMENT_ROWS):
            row_BF = self.rows(index_B[start : start + _MOMENT_ROWS])
            print_B[start : start + len(row_BF)] = row_prints(row_BF)
        _, first_U, inverse_B = np.unique(print_B, return_index=True, return_inverse=True)
        own_B = np.arange(len(index_B))
        return np.where(print_B == 0, own_B, first_U[inverse_B])

    @cached_property
    def copies(self) -> int:
        """How often the store holds the row of every image, one after the other: 1 but in some published files."""
        if len(self) < 2 or not np.equal(*self.rows(np.arange(2))).all():
            return 1  # nearly always: the other rows need not be read
        first_N = self.first_equal(np.arange(len(self)))
        copies = int(np.argmax(first_N != 0)) if first_N.any() else 1
        is_regular = len(self) % copies == 0 and (first_N == np.arange(len(self)) // copies * copies).all()
        return copies if is_regular else 1

    def moments(self, index_B: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """(F,) mean and standard deviation over the rows ``index_B``; 1 in place of a deviation of 0."""
        sums_2F = np.zeros((2, self.width))
        for start in range(0, len(index_B), _MOMENT_ROWS):
            row_BF = self.rows(index_B[start : start + _MOMENT_ROWS]).astype(np.float64)
            sums_2F += (row_BF.sum(0), np.square(row_BF).sum(0))
        mean_F, square_F = sums_2F / len(index_B)
        std_F = np.sqrt(np.maximum(square_F - mean_F**2, 0))
        return mean_F.astype(np.float32), np.where(std_F < 1e-6, 1.0, std_F).astype(np.float32)

    def _open(self) -> StoredRows:
        # An HDF5 handle must not be shared with a forked child; arrays and memory maps may be.
        if self._rows is None or (self._process != os.getpid() and not isinstance(self._rows, np.ndarray)):
            self._rows, self._process = _open_rows(_matrix_file(self.path)), os.getpid()
        return self._rows


def row_prints(row_BF: FloatArray) -> NDArray[np.uint64]:
    """(B,) a hash of each row, equal for equal rows of equal width, and 0 for zeros."""
    weight_F = np.random.default_rng(0).integers(1, 2**63, size=row_BF.shape[1], dtype=np.uint64) | np.uint64(1)
    row_BF = np.ascontiguousarray(row_BF, dtype=np.float32) + np.float32(0)  # -0 as 0
    # Products modulo 2^64. Two that differ have the same once in 2^63 times.
    print_B: NDArray[np.uint64] = (row_BF.view(np.uint32) * weight_F).sum(1, dtype=np.uint64)
    return print_B


def open_features(path: Path) -> FeatureStore:
    """The store at ``path``: our folder, an HDF5 file with ``features``, or a bare ``.npy`` matrix.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: truncated or unreadable, unfinished extraction, not a matrix of floats, empty, repeated names, or
            NaN or infinity in it (file and first offending row and name).
    """
    if not path.exists():
        raise FileNotFoundError(f"features {path}: no such file or folder")
    meta = _read_meta(path) if path.is_dir() else _Meta(SCHEMA)
    stored = _open_rows(_matrix_file(path))
    if stored.ndim != 2 or 0 in stored.shape:
        raise ValueError(f"{path}: features must be a matrix (images, width), got shape {tuple(stored.shape)}")
    if stored.dtype.kind != "f":
        raise ValueError(f"{path}: features must be floating point, got {stored.dtype}")
    names = _read_names(path, len(stored))
    _check_names(path, names, len(stored))
    _check_finite(path, stored, names)
    store = FeatureStore(
        path,
        shape=(stored.shape[0], stored.shape[1]),
        names=names,
        tower=meta.tower,
        preprocessing=meta.preprocessing,
        weights=meta.weights,
        regions=_regions(path, meta, width=stored.shape[1]),
        skipped=tuple(meta.skipped),
        files=tuple(path / name for name in (FEATURES_FILE, NAMES_FILE, META_FILE)) if path.is_dir() else (path,),
    )
    if isinstance(stored, h5py.Dataset):
        stored.file.close()
    else:
        store._rows = stored  # what the check has unpacked need not be unpacked again
    return store


def read_store_json(path: Path, schema: type[T]) -> T:
    """What a JSON file of a store holds.

    Raises:
        ValueError: Broken, or of another shape; names file and line or key.
    """
    try:
        return read_json(path, schema, most_bytes=_MOST_NAMES)
    except ValueError as error:
        raise ValueError(f"{error}; mcse extract-features --overwrite extracts the features again") from None


def captions_to_features(table: CaptionTable, store: FeatureStore) -> NDArray[np.int64]:
    """The store's row of each image of the table. The store may hold more images.

    Where captions or features have no names, they are matched by order and equal count, which is logged as a warning;
    a file that holds every image's row several times, one after the other, counts as if it held it once.

    Raises:
        ValueError: images without features (count and first name), or no names and unequal counts.
    """
    if table.image_names is None or store.names is None:
        copies = store.copies if len(table) < len(store) and store.names is None else 1
        if len(table) * copies != len(store):
            lacking = table.source if table.image_names is None else str(store.path)
            raise ValueError(
                f"{table.source} has {len(table)} images and {store.path} {len(store)} features; {lacking} has no "
                "image names, so they can only be matched by order, with equal counts"
            )
        _logger.warning("%s and %s: no image names, so matched by order (%d)", table.source, store.path, len(table))
        return np.arange(0, len(store), copies, dtype=np.int64)
    hint = f" (its extraction skipped {len(store.skipped)} unreadable images)" if store.skipped else ""
    problem = f"have no features in {store.path}{hint}"
    rows = find_all(table.image_names, store.names, where=table.source, problem=problem)
    rest = {"without captions here": len(store) - len(rows)}
    say_read(store.path, read=len(rows), total=len(store), unit="images", passed_over=rest, is_usual=True)
    return rows


def join_equal_rows(
    table: CaptionTable, row_of_image: NDArray[np.int64], store: FeatureStore
) -> tuple[CaptionTable, NDArray[np.int64]]:
    """Images of equal rows as one, with the captions of all; says how many in a warning.

    Some published files hold the row of each image once for every caption. Taken for as many images, each would be a
    wrong answer for the captions of the others. Names tell images apart that only look alike to whoever made the rows,
    so with names on both sides this holds of files alone that repeat every row equally often.
    """
    if table.image_names is not None and store.names is not None and store.copies == 1:
        return table, row_of_image
    members: dict[int, list[int]] = {}
    for image, first in enumerate(store.first_equal(row_of_image).tolist()):
        members.setdefault(first, []).append(image)
    if len(members) == len(table):
        return table, row_of_image
    _logger.warning(
        "%s: %d of %d images have the same features as others in %s, and count as one with them",
        *(table.source, len(table) - len(members), len(table), store.path),
    )
    return table.joined(members.values()), row_of_image[list(members)]


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
        rows = find_names(skipped, table.image_names, where=where)
        lacking = [name for name, row in zip(skipped, rows, strict=True) if row != ABSENT]
        if lacking:
            raise ValueError(
                f"data.images.features: the extraction of {store.path} skipped {len(lacking)} of the {len(table)} "
                f"images of {table.source} as unreadable, first {lacking[0]!r}; data.images.on_bad skip leaves out "
                "their captions"
            )
        return table
    return without_images(table, skipped, where=str(store.path))


def _matrix_file(path: Path) -> Path:
    return path / FEATURES_FILE if path.is_dir() else path


def _open_rows(path: Path) -> StoredRows:
    """A (N, F) numpy array (memory-mapped where the layout allows), or an open HDF5 dataset too large to unpack."""
    with naming_features(path):
        return map_npy(path) if path.suffix == ".npy" else open_hdf5(path)


def _read_names(path: Path, count: int) -> tuple[str, ...] | None:
    """The names of the images, of as many as there are rows."""
    if path.is_dir():
        return tuple(read_store_json(path / NAMES_FILE, list[str]))
    if path.suffix == ".npy":
        return None
    with naming_features(path):
        return read_hdf5_names(path, count)


def _read_meta(folder: Path) -> _Meta:
    if (folder / META_FILE).is_file():
        meta = read_store_json(folder / META_FILE, _Meta)
        if meta.schema != SCHEMA:
            raise ValueError(f"{folder / META_FILE}: schema {meta.schema!r}, this version reads {SCHEMA}")
        return meta
    if (folder / PROGRESS_FILE).is_file():
        progress = read_store_json(folder / PROGRESS_FILE, Progress)
        raise ValueError(
            f"{folder}: unfinished extraction, {progress.done} of {progress.planned} images; "
            "run the same mcse extract-features again, it continues"
        )
    raise ValueError(
        f"{folder}: not a feature store (no {META_FILE}); mcse extract-features makes one, or data.images.folder and "
        "data.images.tower read the images themselves"
    )


def _regions(path: Path, meta: _Meta, *, width: int) -> int:
    regions = int(meta.regions) if str(meta.regions).isdecimal() else 0  # stores write it as text
    if regions < 1 or width % regions:
        raise ValueError(f"{path / META_FILE}: {meta.regions} regions do not divide rows of width {width}")
    return regions


def _check_names(path: Path, names: tuple[str, ...] | None, count: int) -> None:
    if names is None:
        return
    if len(names) != count:
        raise ValueError(f"{path}: {len(names)} image names for {count} feature rows")
    if len(set(names)) != count:
        first = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"{path}: {count - len(set(names))} repeated image names, first {first!r}")


def _check_finite(path: Path, stored: StoredRows, names: tuple[str, ...] | None) -> None:
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


def _block(stored: StoredRows, start: int, end: int) -> NDArray[np.floating[Any]]:
    """Rows of a matrix. What is read through the store's own map counts as this process's memory for as long as it."""
    if isinstance(stored, np.memmap) and stored.flags.c_contiguous and stored.filename is not None:
        offset = stored.offset + start * stored.strides[0]
        shape = (end - start, stored.shape[1])
        mapped: NDArray[Any] = np.memmap(stored.filename, mode="r", dtype=stored.dtype, shape=shape, offset=offset)
        return mapped
    rows: NDArray[np.floating[Any]] = stored[start:end]
    return rows
