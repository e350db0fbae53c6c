"""``ImageIndex``: embeddings of a folder of images, the model that made them, and search.

N images, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mcse.data.images.sources import SkippedImage
from mcse.encoders.loading import encoder_digest
from mcse.search.embedding_index import EmbeddingIndex
from mcse.search.index_files import CONTENT_FILE, read_index, save_index
from mcse.search.rows import IndexRows
from mcse.types import FeatureTextEncoder, FloatArray

KIND = "images"

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """An image's path below the folder, and what tells whether it has changed since."""

    path: str
    num_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOrigin:
    """What an index is of.

    Args:
        folder: Of the images.
        model: Name of the encoder.
        model_digest: ``encoder_digest`` of it when the index was made; ``None`` if unknown.
        tower: What gave the images' features, as far as the model says.
        features: Store that the features were read from; ``None`` where the tower made them from the images.
    """

    folder: str
    model: str
    model_digest: str | None
    tower: str | None
    features: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content(IndexOrigin):
    """An index on disk, beside its embeddings."""

    complete: bool
    images: tuple[IndexedImage, ...]
    skipped: tuple[SkippedImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageIndex:
    """Images and their embeddings, of length 1. ``is_complete`` is false while the folder is still being read."""

    origin: IndexOrigin
    images: tuple[IndexedImage, ...]
    rows: IndexRows
    skipped: tuple[SkippedImage, ...] = ()
    is_complete: bool = True

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.images):
            raise ValueError(f"{len(self.rows)} embeddings for {len(self.images)} images")
        if self.rows.coarse.kind != "float32":
            return  # they stand for numbers near those that had length 1
        norms = [np.linalg.norm(rows_RD.astype(np.float64), axis=1) for rows_RD in self.rows.coarse]
        norm_N = np.concatenate([np.zeros(0), *norms])
        # "not" also catches NaN, with which every comparison is false.
        bad_N = ~(np.abs(norm_N - 1) <= _UNIT_TOLERANCE)
        if bad_N.any():
            first = int(np.argmax(bad_N))
            raise ValueError(f"the embedding of {self.images[first].path} has length {norm_N[first]:g}, not 1")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def rows_ND(self) -> FloatArray:  # noqa: N802 - the name ends with the shape
        """(N, D) float32 embeddings, as near as they are stored."""
        return self.rows.restored(np.arange(len(self)))

    def searcher(self, encoder: FeatureTextEncoder) -> EmbeddingIndex:
        """The images, to be searched by sentences in ``encoder``'s joint space, or by embeddings; ids are positions.

        Raises:
            ValueError: There are no images.
        """
        if not len(self):
            raise ValueError(f"the index of {self.origin.folder} holds no images")
        return EmbeddingIndex.of_rows(_Captions(encoder), self.rows, texts=[image.path for image in self.images])

    def save(self, folder: Path) -> None:
        """Writes the index, in place of one that is there; a kill leaves the old one or the new one."""
        content = {
            **asdict(self.origin),
            "complete": self.is_complete,
            "images": [asdict(image) for image in self.images],
            "skipped": [asdict(image) for image in self.skipped],
        }
        save_index(folder, content, self.rows, kind=KIND)

    @classmethod
    def load(cls, folder: Path) -> ImageIndex:
        """Reads an index back.

        Raises:
            ValueError: The folder holds none, or a damaged one, or one of another version.
        """
        with read_index(folder, _Content, kind=KIND) as (content, rows):
            for image in content.images:
                parts = PurePosixPath(image.path).parts
                if not parts or parts[0] == "/" or ".." in parts:
                    raise ValueError(f"image {image.path!r} is not a path below the folder")
            return cls(
                origin=IndexOrigin(**{key: getattr(content, key) for key in IndexOrigin.__dataclass_fields__}),
                images=content.images,
                rows=rows,
                skipped=content.skipped,
                is_complete=content.complete,
            )


def is_image_index(folder: Path) -> bool:
    """Whether there is an index in the folder, whole or not."""
    return (folder / CONTENT_FILE).is_file()


def check_same_model(origin: IndexOrigin, model: str, *, where: str) -> None:
    """Refuses a model that did not make the index.

    Raises:
        ValueError: Its digest is another one; or the digests are unknown, and its name is another one.
    """
    digest = encoder_digest(model)
    if digest is None or origin.model_digest is None:
        if model == origin.model:
            return
        raise ValueError(f"{where} was made with {origin.model}, and nothing tells whether {model} is the same model")
    if digest != origin.model_digest:
        raise ValueError(
            f"{where} was made with {origin.model} (digest {origin.model_digest[:12]}); {model} is another model now "
            f"(digest {digest[:12]}). Name the one that made it by --model, or index the folder anew"
        )


class _Captions:
    """An encoder that puts sentences into the joint space."""

    def __init__(self, encoder: FeatureTextEncoder) -> None:
        self._encoder = encoder
        self.name = str(getattr(encoder, "name", ""))

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        del normalize  # they have length 1
        return self._encoder.encode_captions(sentences, batch_size=batch_size)
