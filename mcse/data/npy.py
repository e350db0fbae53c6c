"""Arrays in NumPy's format, whose header is held against the size of what follows before anything is allocated."""

from __future__ import annotations

import io
import math
import tokenize
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def map_npy(path: Path) -> NDArray[Any]:
    """The array of a file, memory-mapped and read-only.

    Raises:
        ValueError: No ``.npy`` file, Python objects in it, or another size than its header promises; names the file.
        OSError: It cannot be opened.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        shape, order, dtype = _header(stream, size=size, where=str(path))
        offset = stream.tell()
    if 0 in shape:
        return np.empty(shape, dtype=dtype)  # an empty file cannot be mapped
    return np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset, order=order)


def parse_npy(data: bytes, *, where: str) -> tuple[NDArray[Any], int]:
    """The array in the bytes of a file, read-only, and how many of them are its header; ``where`` opens errors."""
    stream = io.BytesIO(data)
    shape, order, dtype = _header(stream, size=len(data), where=where)
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order=order), stream.tell()


def _header(stream: BinaryIO, *, size: int, where: str) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
    except (
        ValueError,
        TypeError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise ValueError(f"{where}: not a .npy file ({error})") from None
    if dtype.hasobject:
        raise ValueError(f"{where}: not a .npy file of numbers (it holds Python objects)")
    promised, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if promised != held or any(length < 0 for length in shape) or not dtype.itemsize:
        raise ValueError(
            f"{where}: its header promises {promised:,} bytes (shape {shape}), {held:,} follow; fetch it again"
        )
    return shape, "F" if is_fortran else "C", dtype
