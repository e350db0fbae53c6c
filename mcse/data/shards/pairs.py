"""Training pairs out of shards: captions, images and feature rows are read from the tars as batches ask for them.

B pairs of a batch, N pairs, F feature width.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcse.data.images.sources import READING_THREADS, OnBadImage, read_distinct
from mcse.data.npy import parse_npy
from mcse.data.seeds import Draw
from mcse.data.shards.tars import Part, ShardSet
from mcse.data.streams import RowNumbers
from mcse.files import digest_of, is_kept, keeping
from mcse.images import BadImageError, decode_image
from mcse.types import DataFile, FloatArray, Tokenizer

logger = logging.getLogger(__name__)

_SEARCHED_AT_ONCE = 4096
_HERE = "\0"


class _ShardRows:
    """What lies beside captions in tars."""

    part: Part
    label: str
    role: str
    made_by: Mapping[str, str | None] = {}

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def file(self, index: RowNumbers) -> DataFile:
        """All tars, whichever samples are shown."""
        del index
        return DataFile(self.role, str(self.shards.paths[0].parent), self.shards.digest)


class ShardPixels(_ShardRows):
    """The images of shards, decoded and preprocessed when a batch asks for them.

    Args:
        shards: The tars.
        preprocess: An image to (3, height, width), as the image tower wants it.
    """

    part: Part = "image"
    label, role = "images", "images"

    def __init__(self, shards: ShardSet, preprocess: Callable[[Image.Image], Tensor]) -> None:
        super().__init__(shards)
        self.preprocess = preprocess

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, 3, height, width) float32 of the samples at ``index``; one that is asked for twice is read once.

        Raises:
            BadImageError: One cannot be read; names tar and member.
        """
        return read_distinct(self._pixels, index)

    def check(self, sample: int) -> None:
        """Reads an image and lets it go; ``BadImageError`` where that fails."""
        self._load(sample)

    def _pixels(self, sample: int) -> FloatArray:
        pixels: FloatArray = self.preprocess(self._load(sample)).numpy()
        return pixels

    def _load(self, sample: int) -> Image.Image:
        data = self.shards.read(sample, self.part)
        try:
            return decode_image(io.BytesIO(data), name=_HERE)
        except BadImageError as error:
            where = self.shards.member(sample, self.part)  # found by reading the tar again, so only for a message
            raise BadImageError(str(error).replace(_HERE, where, 1)) from None


class ShardFeatures(_ShardRows):
    """The feature rows (``.npy``) of shards, read when a batch asks for them.

    Args:
        shards: The tars; the first row decides how wide all are.

    Raises:
        ValueError: There is no row, or the first cannot be read.
    """

    part: Part = "row"
    label, role = "rows of shards", "features"

    def __init__(self, shards: ShardSet) -> None:
        super().__init__(shards)
        if shards.lacking["row"] == len(shards):
            raise ValueError(
                f"data.captions: no sample in {shards.paths[0].parent} has a .npy row; data.images.shards images reads "
                "images"
            )
        absent = shards.without("row")
        gaps = np.flatnonzero(absent != np.arange(len(absent)))
        self._known: tuple[bytes, np.dtype[np.floating[Any]]] | None = None
        self.width = len(self._row(int(gaps[0]) if len(gaps) else len(absent), width=None))

    def rows(self, index: NDArray[np.int64]) -> FloatArray:
        """(B, F) float32 of the samples at ``index``.

        Raises:
            BadImageError: One is no finite row of F numbers; names tar and member.
        """
        return read_distinct(self._float_row, index)

    def check(self, sample: int) -> None:
        """Reads a row and lets it go; ``BadImageError`` where that fails."""
        self._float_row(sample)

    def _float_row(self, sample: int) -> FloatArray:
        return self._row(sample, width=self.width)

    def _row(self, sample: int, *, width: int | None) -> FloatArray:
        data = self.shards.read(sample, self.part)
        # Nearly all rows have the header of the one before; NumPy takes fifty times longer to read it anew.
        if (known := self._known) is not None and data.startswith(known[0]):
            head, dtype = known
            if len(data) == len(head) + self.width * dtype.itemsize:
                return self._finite(np.frombuffer(data, dtype, offset=len(head)).astype(np.float32), sample)
        try:
            stored, head_bytes = parse_npy(data, where=_HERE)
        except ValueError as error:
            where = self.shards.member(sample, self.part)
            raise BadImageError(str(error).replace(_HERE, where, 1)) from None
        row = np.ravel(stored).astype(np.float32) if stored.dtype.kind == "f" else np.empty(0, dtype=np.float32)
        wanted = "numbers" if width is None else f"{width} numbers"
        if not row.size or row.size != max(stored.shape, default=0) or width not in (None, row.size):
            found = f"{stored.dtype} of shape {stored.shape}"
            raise BadImageError(f"{self.shards.member(sample, self.part)}: expected a row of {wanted}, found {found}")
        self._known = data[:head_bytes], stored.dtype  # one assignment, since threads read it
        return self._finite(row, sample)

    def _finite(self, row: FloatArray, sample: int) -> FloatArray:
        if not np.isfinite(row).all():
            raise BadImageError(f"{self.shards.member(sample, self.part)}: NaN or infinity in the row")
        return row


ShardImages: TypeAlias = ShardPixels | ShardFeatures


class PairRows:
    """Which caption of which sample a pair is, computed from its number.

    Args:
        shards: The tars.
        mode: ``all`` captions of a sample are pairs, or ``one`` drawn at random, once.
        seed: Draws that one.
        dropped: Samples left out, in order.
    """

    def __init__(self, shards: ShardSet, *, mode: Literal["one", "all"], seed: int, dropped: NDArray[np.int64]) -> None:
        self.shards, self.mode, self.seed = shards, mode, seed
        # Rows are samples, or captions; ``_gap`` is, for each dropped row, how many kept ones came before it.
        rows = dropped
        total = len(shards)
        self.shard_first = shards.shard_first
        if mode == "all":
            total = int(shards.first[-1])
            spans = [np.arange(shards.first[sample], shards.first[sample + 1]) for sample in dropped.tolist()]
            rows = np.concatenate([np.empty(0, dtype=np.int64), *spans])
            self.shard_first = np.asarray(shards.first[shards.shard_first])
        self.shard_first = self.shard_first - np.searchsorted(rows, self.shard_first)
        self._gap = rows - np.arange(len(rows))
        self._length = total - len(rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sample of each pair."""
        return self.places(index)[0]

    def places(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sample of each pair, and which of its captions."""
        row_B = index + np.searchsorted(self._gap, index, side="right")
        if self.mode == "all":
            sample_B = np.searchsorted(self.shards.first, row_B, side="right") - 1
            return sample_B, row_B - self.shards.first[sample_B]
        count_B = self.shards.first[row_B + 1] - self.shards.first[row_B]
        return row_B, np.asarray([self._draw(*pair) for pair in zip(row_B.tolist(), count_B.tolist(), strict=True)])

    def _draw(self, sample: int, count: int) -> int:
        if count == 1:
            return 0
        return int(np.random.default_rng([self.seed, Draw.CAPTIONS, sample]).integers(count))


class CaptionsOfPairs:
    """The captions of pairs, read from the tars and tokenised as they are asked for.

    Args:
        rows: Which caption a pair is.
        tokenizer: Of the text encoder.
        max_length: Tokens a caption keeps, special tokens included.
        chosen: The pairs that are used, where not all are.
    """

    columns = 1

    def __init__(
        self, rows: PairRows, tokenizer: Tokenizer, *, max_length: int, chosen: NDArray[np.int64] | None = None
    ) -> None:
        self.rows, self.tokenizer, self.max_length, self.chosen = rows, tokenizer, max_length, chosen

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def texts(self, index: NDArray[np.int64]) -> list[str]:
        """The captions themselves."""
        sample_B, number_B = self.rows.places(index if self.chosen is None else self.chosen[index])
        shards = self.rows.shards
        return [
            shards.captions(sample)[number] for sample, number in zip(sample_B.tolist(), number_B.tolist(), strict=True)
        ]

    def ids(self, index: NDArray[np.int64], *, column: int = 0) -> list[NDArray[np.int64]]:
        """Token ids of the pairs at ``index``, special tokens included; the one column is 0."""
        del column
        encoded = self.tokenizer.ids(self.texts(index), max_length=self.max_length)
        return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def unusable_samples(
    shards: ShardSet,
    images: ShardImages | None,
    *,
    on_bad_image: OnBadImage,
    known: frozenset[str],
    normalise: Callable[[str], str],
) -> NDArray[np.int64]:
    """The samples to leave out, in order: without a caption, without an image that can be read, or contaminated.

    Under ``error`` a missing part is refused here; images are looked at when they are used, and one that cannot be
    read then stops the run. Under ``skip`` every image is read once, here, and what was found is kept.

    Args:
        shards: The tars.
        images: What is read of them beside captions.
        on_bad_image: Whether unusable samples stop the run or are left out.
        known: Normalised sentences; a sample with a caption among them is left out.
        normalise: Applied to a caption before it is looked for.

    Raises:
        ValueError: Unusable samples under ``error`` (count and first, with tar and member), or no sample is left.
    """
    parts: list[Part] = ["text"] if images is None else ["text", images.part]
    lacking = [(part, shards.without(part)) for part in parts]
    for part, without in lacking:
        if len(without) and on_bad_image == "error":
            raise ValueError(
                f"data.captions: {len(without)} of {len(shards)} samples are not whole, first: "
                f"{shards.lacks(int(without[0]), part)}; data.captions.on_bad skip leaves them out"
            )
    dropped = _union([without for _, without in lacking])
    if images is not None and on_bad_image == "skip":
        logger.warning("data.captions: looking, once, whether all %d images can be read", len(shards))
        dropped = _union([dropped, _search(shards, _unreadable(images), name=images.part)])
    if len(dropped):
        logger.warning("data.captions: left out %d of %d samples that are not whole", len(dropped), len(shards))
    if known:

        def is_known(sample: int) -> bool:
            return any(normalise(caption) in known for caption in shards.captions(sample))

        seen = _search(shards, is_known, name=digest_of(*sorted(known)))
        logger.warning("data.captions: dropped %d samples whose captions occur in STS test files", len(seen))
        dropped = _union([dropped, seen])
    if len(dropped) == len(shards):
        raise ValueError(f"data.captions: none of the {len(shards)} samples is left")
    return dropped


def _unreadable(images: ShardImages) -> Callable[[int], bool]:
    def fails(sample: int) -> bool:
        if not images.shards.samples[sample][f"{images.part}_size"]:
            return False  # missing, which is known already
        try:
            images.check(sample)
        except BadImageError as error:
            logger.warning("left out: %s", error)
            return True
        return False

    return fails


def _search(shards: ShardSet, is_wanted: Callable[[int], bool], *, name: str) -> NDArray[np.int64]:
    """The samples for which ``is_wanted``, looked for once and kept under the shards' key and ``name``.

    The answer is kept block by block, so that processes that start together share the work (each begins elsewhere and
    skips what another has done), and one that is killed loses a block.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "mcse" / "shards" / f"{digest_of(shards.key, name)}.search"
    size = max(_SEARCHED_AT_ONCE, len(shards) // 1000)
    starts = list(range(0, len(shards), size))
    begin = os.getpid() % len(starts)
    for start in [*starts[begin:], *starts[:begin]]:
        path = folder / f"{start}.npy"
        if is_kept(path):
            continue
        block = range(start, min(start + size, len(shards)))
        with ThreadPoolExecutor(READING_THREADS) as pool:
            found = [sample for sample, wanted in zip(block, pool.map(is_wanted, block), strict=True) if wanted]
        with keeping(path) as draft, draft.open("wb") as file:
            np.save(file, np.asarray(found, dtype=np.int64))
    return _union([np.load(folder / f"{start}.npy") for start in starts])


def _union(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts]))
