"""``ImageIndex``: rows of a folder of images, the model that made them, and search; on disk as safetensors and JSON.

N images, D row width.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mcse.encoders.loading import encoder_digest
from mcse.search.embedding_index import EmbeddingIndex
from mcse.types import FeatureTextEncoder, FloatArray

SCHEMA = 1

_CONTENT = "index.json"
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """An image's path below the folder, and what tells whether it has changed since."""

    path: str
    num_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedImage:
    """An image that is not in the index, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOrigin:
    """What an index is of.

    Args:
        folder: Of the images.
        model: Name of the encoder.
        model_digest: ``encoder_digest`` of it when the index was made; ``None`` where nobody knows it.
        tower: What gave the images' features, as far as the model says.
        features: Store that the features were read from; ``None`` where the tower made them from the images.
    """

    folder: str
    model: str
    model_digest: str | None
    tower: str | None
    features: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageIndex:
    """Images and their unit rows. ``is_complete`` is false while the folder is still being read."""

    origin: IndexOrigin
    images: tuple[IndexedImage, ...]
    rows_ND: FloatArray
    skipped: tuple[SkippedImage, ...] = ()
    is_complete: bool = True

    def __post_init__(self) -> None:
        if self.rows_ND.ndim != 2 or len(self.rows_ND) != len(self.images):
            raise ValueError(f"rows of shape {self.rows_ND.shape} for {len(self.images)} images")
        norm_N = np.linalg.norm(self.rows_ND.astype(np.float64), axis=1)
        # "not" also catches NaN, with which every comparison is false.
        bad_N = ~(np.abs(norm_N - 1) <= _UNIT_TOLERANCE)
        if bad_N.any():
            first = int(np.argmax(bad_N))
            raise ValueError(f"the row of {self.images[first].path} has length {norm_N[first]:g}, not 1")

    def __len__(self) -> int:
        return len(self.images)

    def searcher(self, encoder: FeatureTextEncoder) -> EmbeddingIndex:
        """The rows, to be searched by sentences in ``encoder``'s joint space, or by rows; ids are positions.

        Raises:
            ValueError: There are no images.
        """
        if not len(self):
            raise ValueError(f"the index of {self.origin.folder} holds no images")
        index = EmbeddingIndex(_Captions(encoder))
        index.add_rows(self.rows_ND, texts=[image.path for image in self.images])
        return index

    def save(self, folder: Path) -> None:
        """Writes ``index.json`` and the rows' file that it names; a kill leaves the old index or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own for every state: the one file that is replaced says which rows belong to it.
        rows_file = f"rows-{uuid.uuid4().hex[:12]}.safetensors"
        (folder / rows_file).write_bytes(save({"rows": np.ascontiguousarray(self.rows_ND)}))
        content = {
            "schema": SCHEMA,
            **asdict(self.origin),
            "dimension": int(self.rows_ND.shape[1]),
            "rows": rows_file,
            "complete": self.is_complete,
            "images": [asdict(image) for image in self.images],
            "skipped": [asdict(image) for image in self.skipped],
        }
        draft = folder / f".{_CONTENT}.part"
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, folder / _CONTENT)
        for old in folder.glob("rows-*.safetensors"):
            if old.name != rows_file:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> ImageIndex:
        """Reads an index back.

        Raises:
            ValueError: The folder holds none, or a damaged one, or one of another version.
        """
        path = folder / _CONTENT
        if not path.is_file():
            raise ValueError(f"{folder} is no index of images (no {_CONTENT}); mcse search index makes one")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if (schema := content.get("schema")) != SCHEMA:
                raise ValueError(f"schema {schema!r}, this version reads {SCHEMA}")
            rows_file = str(content["rows"])
            if Path(rows_file).name != rows_file:
                raise ValueError(f"rows {rows_file!r} is no plain file name")
            return cls(
                origin=IndexOrigin(**{key: content[key] for key in IndexOrigin.__dataclass_fields__}),
                images=tuple(_image(record) for record in content["images"]),
                rows_ND=load_file(folder / rows_file)["rows"].astype(np.float32, copy=False),
                skipped=tuple(SkippedImage(**record) for record in content["skipped"]),
                is_complete=bool(content["complete"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError) as error:
            raise ValueError(f"{path}: damaged, or no index of images: {error}") from error


def is_image_index(folder: Path) -> bool:
    """Whether an index stands in the folder, whole or not."""
    return (folder / _CONTENT).is_file()


def check_same_model(origin: IndexOrigin, model: str, *, where: str) -> None:
    """Refuses a model that did not make the index.

    Raises:
        ValueError: Its digest is another one; or nobody knows the digests, and its name is another one.
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
    """An encoder whose sentences are rows of the joint space."""

    def __init__(self, encoder: FeatureTextEncoder) -> None:
        self._encoder = encoder
        self.name = str(getattr(encoder, "name", ""))

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        del normalize  # they are unit rows
        return self._encoder.encode_captions(sentences, batch_size=batch_size)


def _image(record: dict[str, Any]) -> IndexedImage:
    image = IndexedImage(**record)
    parts = PurePosixPath(image.path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"image {image.path!r} is no path below the folder")
    return image
