"""Writing a store of rows, of images or of texts, by an extraction that may be killed at any time and goes on.

B rows of one block, F feature width.

While it runs, ``progress.json`` says how many rows of ``features.npy`` count; ``meta.json`` comes last and makes the
store one that ``features`` reads.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from mcse.data.images.features import (
    FEATURES_FILE,
    META_FILE,
    NAMES_FILE,
    PROGRESS_FILE,
    SCHEMA,
    Progress,
    read_store_json,
)
from mcse.data.images.sources import SkippedImage
from mcse.files import claimed, digest_of, naming, write_json
from mcse.types import FloatArray

_HEADER_BYTES = 128


class Plan(Protocol):
    """What an extraction computes; an interrupted one continues only under the same plan."""

    @property
    def names(self) -> Sequence[str]:
        """Of the rows, in order; no two are the same."""
        ...

    @property
    def width(self) -> int:
        """F."""
        ...

    @property
    def dtype(self) -> Literal["float32", "float16"]:
        """Of the numbers on the disk."""
        ...

    @property
    def maker(self) -> str:
        """What makes the rows, for messages."""
        ...

    def identity(self) -> dict[str, str]:
        """All of it as short strings."""
        ...


PlanT = TypeVar("PlanT", bound=Plan)


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
    dtype: ClassVar[Literal["float32", "float16"]] = "float32"

    @property
    def maker(self) -> str:
        """The tower."""
        return self.tower

    def identity(self) -> dict[str, str]:
        """All of it as short strings, image names as a digest; pooled features say nothing of regions."""
        left_out = {"names"} | ({"regions"} if self.regions == 1 else set())
        own = {key: str(value) for key, value in asdict(self).items() if key not in left_out}
        return {**own, "images": f"{len(self.names)} images, digest {digest_of(*self.names)[:16]}"}


class FeatureWriter(Generic[PlanT]):
    """Appends rows to a store folder; a killed process loses at most the block it was writing.

    Use as a context manager: ``done`` images are behind us, ``append`` takes the next, ``finish`` makes it readable.
    """

    def __init__(self, folder: Path, plan: PlanT, *, overwrite: bool = False) -> None:
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
        with ExitStack() as claim:
            claim.enter_context(claimed(folder))
            folder.mkdir(parents=True, exist_ok=True)
            if overwrite:
                _remove_store(folder)
            self._restore()
            self._file = self._open_at_progress()
            self._claim = claim.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._claim, naming(self.folder / FEATURES_FILE):  # what did not fit is tried once more here
            self._file.close()

    def append(self, rows_BF: FloatArray, *, skipped: Sequence[SkippedImage] = ()) -> None:
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
            raise ValueError(f"{self.plan.maker} gave NaN or infinity for {names[int(bad[0])]!r}")
        with naming(self.folder / FEATURES_FILE):
            self._file.write(np.ascontiguousarray(rows_BF, dtype=_descr(self.plan)).tobytes())
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
        with naming(self.folder / FEATURES_FILE):
            self._file.seek(0)
            self._file.write(_npy_header(self._num_rows, self.plan))
            self._file.flush()
            os.fsync(self._file.fileno())
        left_out = {image.name for image in self.skipped}
        write_json(self.folder / NAMES_FILE, [name for name in self.plan.names if name not in left_out])
        meta = {"schema": SCHEMA, **self.plan.identity(), "rows": self._num_rows, "skipped": self._skipped_records()}
        write_json(self.folder / META_FILE, meta)
        (self.folder / PROGRESS_FILE).unlink()

    def _restore(self) -> None:
        if (self.folder / META_FILE).exists():
            raise ValueError(f"{self.folder} holds a finished feature store; use --overwrite or another --output")
        if not (self.folder / PROGRESS_FILE).exists():
            if any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} is not empty and holds no feature store; use another --output")
            self._record()  # before the matrix, so that a folder with a matrix always says whose it is
            return
        progress = read_store_json(self.folder / PROGRESS_FILE, Progress)
        for key, value in self.plan.identity().items():
            if (begun := progress.plan.get(key, "")) != value:
                differ = f"{key} {begun[:80] or 'none'}, not {value or 'none'}"
                raise ValueError(
                    f"{self.folder} holds an unfinished extraction with {differ}; continue it as it was begun, or use "
                    "--overwrite"
                )
        if not 0 <= progress.rows == progress.done - len(progress.skipped) <= len(self.plan.names):
            raise ValueError(f"{self.folder / PROGRESS_FILE}: counts that do not fit each other; use --overwrite")
        self.done, self._num_rows = progress.done, progress.rows
        self.skipped = list(progress.skipped)

    def _open_at_progress(self) -> BinaryIO:
        """The matrix file, positioned behind the last recorded row; what a killed block wrote after it is cut off."""
        path = self.folder / FEATURES_FILE
        recorded_bytes = _HEADER_BYTES + self._num_rows * self.plan.width * np.dtype(_descr(self.plan)).itemsize
        held_bytes = path.stat().st_size if path.exists() else 0
        if self.done and held_bytes < recorded_bytes:
            raise ValueError(
                f"{path}: {held_bytes} bytes, but {self._num_rows} rows are recorded as written; use --overwrite"
            )
        with naming(path):
            file = path.open("r+b" if path.exists() else "w+b")
            if not self.done:
                file.write(_npy_header(0, self.plan))
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
        write_json(self.folder / PROGRESS_FILE, progress)

    def _skipped_records(self) -> list[dict[str, str]]:
        return [asdict(image) for image in self.skipped]


def _remove_store(folder: Path) -> None:
    """Deletes a store's own files and nothing else; a folder that is no store keeps everything."""
    if (folder / META_FILE).is_file() or (folder / PROGRESS_FILE).is_file():
        for name in (META_FILE, NAMES_FILE, FEATURES_FILE, PROGRESS_FILE):
            (folder / name).unlink(missing_ok=True)


def _descr(plan: Plan) -> str:
    """The type of the numbers as ``.npy`` files name it."""
    return "<f4" if plan.dtype == "float32" else "<f2"


def _npy_header(num_rows: int, plan: Plan) -> bytes:
    """An .npy header of fixed size, so that the number of rows can be filled in at the end."""
    fields = f"{{'descr': '{_descr(plan)}', 'fortran_order': False, 'shape': ({num_rows}, {plan.width}), }}"
    body = fields.ljust(_HEADER_BYTES - 11).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body
