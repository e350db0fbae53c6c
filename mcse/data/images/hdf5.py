"""Features in HDF5 files of other people: the matrix, and what names its rows. Refused is what would give other rows.

N rows, F feature width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from mcse.data.images.names import name_of_cell

StoredRows: TypeAlias = NDArray[np.floating[Any]] | h5py.Dataset
"""(N, F), of which rows are read as they are asked for."""

_NAMES = ("image_names", "names", "file_names", "filenames", "image_ids", "ids", "image_id", "img_id", "cocoid")
"""What HDF5 files call the names of their rows, the best first; MCSE's own the first."""

_MOST_UNPACKED = 1100
"""How many bytes one may unpack to: gzip's bound is 1,032."""

# Compressed HDF5 decompresses whole chunks for every row, so files up to this size are unpacked into memory once.
_IN_MEMORY_BYTES = 2 * 2**30


@contextmanager
def naming_features(path: Path) -> Iterator[None]:
    """Lets whatever NumPy and HDF5 raise of a damaged file name it."""
    try:
        yield
    except (OSError, EOFError, ValueError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError | ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path}: not readable as features, perhaps truncated: {error}") from error


def open_hdf5(path: Path) -> StoredRows:
    """The dataset ``features``: memory-mapped where the layout allows, unpacked, or open if it is too large for that.

    Raises:
        ValueError: There is none, it lies elsewhere, or was not written whole.
    """
    file = h5py.File(path, "r")
    if "features" not in file or not isinstance(file["features"], h5py.Dataset):
        found = ", ".join(map(repr, file)) or "nothing"
        raise ValueError(f"{path}: no dataset 'features' in it; it holds {found}")
    dataset = file["features"]
    if dataset.file.filename != file.filename or dataset.is_virtual or dataset.external is not None:
        raise ValueError(f"{path}: its 'features' lie in another file; copy them into one")
    offset, shape, dtype = dataset.id.get_offset(), dataset.shape, dataset.dtype
    if dataset.ndim != 2 or 0 in shape:
        return dataset
    if offset is not None:
        file.close()
        return np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset)
    promised, stored = dataset.size * dtype.itemsize, dataset.id.get_storage_size()
    if promised > _MOST_UNPACKED * stored:
        raise ValueError(f"{path}: promises {promised:,} bytes of features, and {stored:,} are stored")
    if dataset.chunks is not None:
        chunks = math.prod(-(-length // part) for length, part in zip(shape, dataset.chunks, strict=True))
        if (written := dataset.id.get_num_chunks()) < chunks:  # HDF5 gives zeros for the others
            raise ValueError(f"{path}: only {written} of the {chunks} chunks of its features were ever written")
    if promised > _IN_MEMORY_BYTES:
        return dataset
    rows = dataset[:]
    file.close()
    return rows


def read_hdf5_names(path: Path, count: int) -> tuple[str, ...] | None:
    """What names the ``count`` rows; ``None`` where nothing does, so that they can only be matched by order.

    Raises:
        ValueError: Something may be meant as names and is not called so, or is none.
    """
    with h5py.File(path, "r") as file:
        found = [name for name in _NAMES if name in file]
        if not found:
            attributes = (*file.attrs, *file["features"].attrs)
            if names := [name for name in attributes if name in _NAMES]:
                raise ValueError(f"{path}: {names[0]!r} is an attribute; store it as a dataset 'image_names'")
            if texts := [name for name in file if _may_be_names(file[name], count)]:
                raise ValueError(
                    f"{path}: {texts[0]!r} may hold the images' names; call it 'image_names', or remove it"
                )
            return None
        stored = file[found[0]]
        if not isinstance(stored, h5py.Dataset) or stored.shape[:1] != (stored.size,):
            raise ValueError(f"{path}: {found[0]!r} must hold one name a row, not {stored}")
        values = np.ravel(stored[:]).tolist()
    try:
        names = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {found[0]!r} holds a name that is not UTF-8, {error.object!r}") from None
    return tuple(name_of_cell(name, where=f"{path}: {found[0]!r}, row {row}") for row, name in enumerate(names))


def _may_be_names(stored: object, count: int) -> bool:
    """Whether it holds as many different words or numbers as there are rows: no captions, splits or running numbers."""
    if not isinstance(stored, h5py.Dataset) or stored.size != count or stored.dtype.kind not in "OSUiu":
        return False
    if stored.dtype.kind in "iu":
        numbers = np.ravel(stored[()])
        return len(np.unique(numbers)) == count > 1 and bool((np.diff(numbers.astype(object)) != 1).any())
    words = [value if isinstance(value, bytes) else str(value).encode() for value in np.ravel(stored[()]).tolist()]
    return len(set(words)) == count > 1 and not any(b" " in word for word in words)
