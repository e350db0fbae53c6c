"""Making the index of ``mcse search``: each image of a folder encoded once, what is unchanged taken over.

N images, B of one batch, D width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mcse.data.images.features import FeatureStore, open_features
from mcse.data.images.names import ABSENT, find_names
from mcse.data.images.sources import ImageFolder, SkippedImage
from mcse.files import sha256_file
from mcse.images import BadImageError, load_image
from mcse.progress import progress_bar
from mcse.search.image_index import ImageIndex, IndexedImage, IndexOrigin, is_image_index
from mcse.search.index_files import is_unfinished
from mcse.search.rows import IndexRows
from mcse.stored_rows import RowKind
from mcse.types import FeatureTextEncoder, FloatArray, ImageTextEncoder

_SAVE_SECONDS = 30.0
"""What a kill loses at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What indexing did: images now in the index, those encoded by this call, those left out."""

    index: ImageIndex
    encoded: int
    was_stopped: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """Rows of an earlier index, by path and by digest."""

    by_path: dict[str, tuple[IndexedImage, FloatArray]]
    by_digest: dict[str, FloatArray]
    ranges: FloatArray | None = None


def build_index(
    source: ImageFolder,
    output: Path,
    *,
    encoder: FeatureTextEncoder,
    model: str,
    model_digest: str | None,
    features: Path | None = None,
    batch_size: int = 32,
    is_new: bool = False,
    rows: RowKind = "float32",
    rescore: RowKind | None = None,
) -> IndexReport:
    """Encodes the images of ``source`` that ``output`` does not hold yet, and writes ``output``.

    An image counts as unchanged by its size and time, else by its bytes. Images that cannot be read are named and
    left out; so are links that lead out of the folder. Killed, the next call goes on.

    Args:
        source: Files below one folder.
        output: The index, kept where it is of this very folder and model.
        encoder: Has a joint space; without ``features`` it must also take images.
        model: Its name, as the index records it.
        model_digest: Its digest; with ``None``, the name must do.
        features: A store of the images' features, instead of the model's own tower.
        batch_size: Images at a time.
        is_new: Replaces an index in ``output``, whatever it is of.
        rows: How embeddings are stored, as for ``EmbeddingIndex``; so is ``rescore``.
        rescore: Stores them a second time, finer.

    Raises:
        ValueError: None of the images can be read, features of another tower, or ``output`` is of another folder
            or model.
    """
    folder = source.root
    store = None if features is None else _open_store(features, encoder)
    if store is None and not isinstance(encoder, ImageTextEncoder):
        raise ValueError(f"{model} takes stored features alone; name their store by --features")
    origin = IndexOrigin(
        folder=str(folder.resolve()),
        model=model,
        model_digest=model_digest,
        tower=getattr(encoder, "image_tower", None),
        features=None if features is None else str(features.resolve()),
    )
    IndexRows(rows=rows, rescore=rescore)  # refuses before anything is encoded
    known = _known(output, origin, is_new=is_new, kinds=(rows, rescore))
    builder = _Builder(
        origin, output, encoder, store, partial(IndexRows, rows=rows, rescore=rescore, ranges=known.ranges)
    )
    names, outside = _inside(source)
    builder.skipped += outside
    was_stopped = builder.add_all(names, known, batch_size=batch_size)
    index = builder.save(is_complete=not was_stopped)
    return IndexReport(index=index, encoded=builder.encoded, was_stopped=was_stopped)


class _Builder:
    """An index as it grows."""

    def __init__(
        self,
        origin: IndexOrigin,
        output: Path,
        encoder: FeatureTextEncoder,
        store: FeatureStore | None,
        new_rows: Callable[[], IndexRows],
    ) -> None:
        self._origin, self._output, self._encoder, self._store = origin, output, encoder, store
        self._new_rows = new_rows
        self._root = Path(origin.folder)
        self._images: list[IndexedImage] = []
        self._rows: list[FloatArray] = []
        self._saved = time.monotonic()
        self.skipped: list[SkippedImage] = []
        self.encoded = 0

    def add_all(self, names: Sequence[str], known: _Known, *, batch_size: int) -> bool:
        """All images of these names; returns whether Ctrl-C stopped it."""
        left_out = len(self.skipped)
        bar = progress_bar(total=left_out + len(names), initial=left_out, unit="image", title=str(self._root))
        with bar:
            try:
                for start in range(0, len(names), batch_size):
                    self.add(names[start : start + batch_size], known)
                    bar.update(len(names[start : start + batch_size]))
            except KeyboardInterrupt:
                return True
        return False

    def add(self, names: Sequence[str], known: _Known) -> None:
        """The images of these names, encoded together where they are not known."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(lambda name: _look_up(self._root, name, known), names))
        new: list[tuple[IndexedImage, FloatArray | None]] = []
        for item in found:
            if isinstance(item, SkippedImage):
                self.skipped.append(item)
            else:
                new.append(item)
        rows = self._encode([image for image, row in new if row is None])
        for image, row in new:
            row = rows.get(image.path) if row is None else row
            if row is not None:  # else it has just been skipped
                self._images.append(image)
                self._rows.append(row)
        if rows and time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save(is_complete=False)

    def save(self, *, is_complete: bool) -> ImageIndex:
        """Writes what there is.

        Raises:
            ValueError: There is nothing.
        """
        if not self._rows:
            why = f", first {self.skipped[0].name}: {self.skipped[0].reason}" if self.skipped else ""
            raise ValueError(f"{self._root}: none of {len(self.skipped)} images could be indexed{why}")
        rows = self._new_rows()
        rows.append(np.stack(self._rows))
        index = ImageIndex(
            origin=self._origin,
            images=tuple(self._images),
            rows=rows,
            skipped=tuple(self.skipped),
            is_complete=is_complete,
        )
        index.save(self._output)
        self._saved = time.monotonic()
        return index

    def _encode(self, images: Sequence[IndexedImage]) -> dict[str, FloatArray]:
        names = [image.path for image in images]
        if self._store is None:
            names, row_BD = self._encode_images(names)
        else:
            names, row_BD = self._encode_features(names, self._store)
        self.encoded += len(names)
        return dict(zip(names, row_BD, strict=True))

    def _encode_images(self, names: Sequence[str]) -> tuple[list[str], FloatArray]:
        assert isinstance(self._encoder, ImageTextEncoder)

        def load(name: str) -> Image.Image | SkippedImage:
            try:
                return load_image(self._root / name)
            except BadImageError as error:
                return SkippedImage(name=name, reason=_short(error, self._root / name))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            loaded = list(zip(names, pool.map(load, names), strict=True))
        self.skipped += [item for _, item in loaded if isinstance(item, SkippedImage)]
        read = [(name, item) for name, item in loaded if isinstance(item, Image.Image)]
        if not read:
            return [], np.zeros((0, 0), dtype=np.float32)
        row_BD = self._encoder.encode_images([image for _, image in read], batch_size=len(read))
        return [name for name, _ in read], row_BD

    def _encode_features(self, names: Sequence[str], store: FeatureStore) -> tuple[list[str], FloatArray]:
        assert store.names is not None
        where = f"{self._root} against {store.path}"
        feature_B = find_names(names, store.names, where=where) if names else np.zeros(0, dtype=np.int64)
        row_of = {name: row for name, row in zip(names, feature_B.tolist(), strict=True) if row != ABSENT}
        lacking = [name for name in names if name not in row_of]
        self.skipped += [SkippedImage(name=name, reason=f"no features in {store.path}") for name in lacking]
        return list(row_of), self._encoder.encode_image_features(store.rows(np.array(list(row_of.values()), np.int64)))


def is_inside(root: Path, name: str) -> bool:
    """Whether ``name`` below ``root`` is a file of that very folder, once all links are followed."""
    try:
        real = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return False
    return real.is_relative_to(root.resolve()) and real.is_file()


def _open_store(features: Path, encoder: FeatureTextEncoder) -> FeatureStore:
    store = open_features(features)
    store.check_tower(getattr(encoder, "image_tower", None))
    if store.names is None:
        raise ValueError(f"--features: {features} has no image names, so nothing says whose features they are")
    return store


def _inside(source: ImageFolder) -> tuple[list[str], list[SkippedImage]]:
    names = [name for name in source.names if is_inside(source.root, name)]
    outside = sorted(set(source.names) - set(names))
    lost = "no such file"
    reasons = ("a link that leads out of the folder" if (source.root / name).exists() else lost for name in outside)
    return names, [SkippedImage(name=name, reason=reason) for name, reason in zip(outside, reasons, strict=True)]


def _known(output: Path, origin: IndexOrigin, *, is_new: bool, kinds: tuple[RowKind, RowKind | None]) -> _Known:
    if is_new or not is_image_index(output):
        if output.is_dir() and not is_image_index(output) and not is_unfinished(output):
            raise ValueError(f"--output: {output} is not empty and holds no index")
        return _Known({}, {})
    index = ImageIndex.load(output)
    stored = (index.rows.coarse.kind, None if index.rows.fine is None else index.rows.fine.kind)
    if stored != kinds:
        raise ValueError(
            f"--output: {output} stores {_shown(stored)} rows, not {_shown(kinds)}; choose another --output, or "
            "replace it by --overwrite"
        )
    for name, ours, theirs in _identity(origin, index.origin):
        if ours != theirs:
            raise ValueError(
                f"--output: {output} is an index with {name} {theirs}, not {ours}; choose another --output, or replace "
                "it by --overwrite"
            )
    rows = list(zip(index.images, index.rows_ND, strict=True))
    by_path = {image.path: (image, row) for image, row in rows}
    return _Known(by_path, {image.sha256: row for image, row in rows}, index.rows.ranges)


def _shown(kinds: tuple[RowKind, RowKind | None]) -> str:
    rows, rescore = kinds
    return rows if rescore is None else f"{rows} with {rescore}"


def _identity(ours: IndexOrigin, theirs: IndexOrigin) -> Iterable[tuple[str, str | None, str | None]]:
    yield "folder", ours.folder, theirs.folder
    yield "tower", ours.tower, theirs.tower
    yield "features", ours.features, theirs.features
    if ours.model_digest is None or theirs.model_digest is None:
        yield "model", ours.model, theirs.model
    yield f"model {theirs.model} of digest", _start(ours.model_digest), _start(theirs.model_digest)


def _start(digest: str | None) -> str | None:
    return None if digest is None else digest[:12]


def _look_up(root: Path, name: str, known: _Known) -> tuple[IndexedImage, FloatArray | None] | SkippedImage:
    """The image as it is now, with its embedding where that is known."""
    path = root / name
    try:
        stat = path.stat()
        before = known.by_path.get(name)
        if before is not None and (before[0].num_bytes, before[0].mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return before
        digest = sha256_file(path)
    except OSError as error:
        return SkippedImage(name=name, reason=error.strerror or str(error))
    image = IndexedImage(path=name, num_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=digest)
    return image, known.by_digest.get(digest)


def _short(error: BadImageError, path: Path) -> str:
    """Without the path, which stands beside it."""
    return str(error).removeprefix(f"image {path}: ")
