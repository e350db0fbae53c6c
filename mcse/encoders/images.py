"""Images for encoders: files to features by an image tower, and features to embeddings beside those of sentences.

N sentences or images, M others, B of one batch, F image feature width, H width of the space in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder, Tokens
from mcse.encoders.inputs import Precision, autocast, check_batch_size, evaluating
from mcse.images import BadImageError, as_rgb, load_image
from mcse.models.image_tower import ImageTower
from mcse.types import FloatArray, TokenBatch, Tokenizer

ImageInput: TypeAlias = str | Path | Image.Image
"""An image, or the path of its file."""

_THREADS = 4

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What makes an encoder's embeddings, for those who write it down in another form.

    Attributes:
        rows: (B, D) embeddings of a batch, not normalised.
        text: The text side, with its pooling.
        head: What stands on it, if anything does.
        tokenizer: Text to ids.
        captions: (B, H) embeddings in the space shared with images, not normalised; ``None`` where there is none.
        images: (B, H) embeddings of (B, F) image features in that space, not normalised.
    """

    rows: Callable[[TokenBatch], Tensor]
    text: nn.Module
    head: nn.Module | None
    tokenizer: Tokenizer
    captions: Callable[[TokenBatch], Tensor] | None = None
    images: Callable[[Tensor], Tensor] | None = None


class ImageReader(ABC):
    """Turns images into features by a tower that is loaded with the first of them."""

    precision: Precision
    _load_tower: Callable[[], ImageTower] | None
    _tower: ImageTower | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def _title(self) -> str:
        """What messages call it."""

    @property
    def tower(self) -> ImageTower:
        """The image tower, loaded when first asked for.

        Raises:
            ValueError: None is known, or its weights are not available or have changed.
        """
        if self._tower is None:
            if self._load_tower is None:
                raise ValueError(f"{self._title()} knows no image tower, so it takes image features, not images")
            self._tower = self._load_tower().to(self.device)
        return self._tower

    def image_features(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, F) float32 features of images (PIL images, or paths), in their order.

        The tower is loaded with the first images: one that was trained from the checkpoint folder, a frozen one from
        where ``mcse extract-features`` takes it.

        Raises:
            ValueError: As for ``tower``; ``batch_size`` is below 1; an image is missing or cannot be read, by place
                and name.
        """
        tower = self.tower

        def rows_of(pixels: Sequence[Tensor]) -> Tensor:
            row_BF: Tensor = tower(torch.stack(list(pixels)).to(self.device))
            return row_BF

        with evaluating([tower]):
            return self._read_images(images, tower.preprocess, rows_of, width=tower.width, batch_size=batch_size)

    def _read_images(
        self,
        images: ImageInput | Sequence[ImageInput],
        prepare: Callable[[Image.Image], Prepared],
        forward: Callable[[Sequence[Prepared]], Tensor],
        *,
        width: int,
        batch_size: int,
    ) -> FloatArray:
        """(N, F) float32 rows of images; threads read and ``prepare`` each, ``forward`` takes a batch of them."""
        check_batch_size(batch_size)
        chosen = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        feature_NF = np.empty((len(chosen), width), dtype=np.float32)
        mode = autocast(self.device, precision=self.precision)
        with ThreadPoolExecutor(_THREADS) as pool, torch.inference_mode(), mode:
            for start in range(0, len(chosen), batch_size):
                places = range(start, min(start + batch_size, len(chosen)))
                batch = list(pool.map(lambda place: prepare(_as_rgb(chosen[place], place)), places))
                feature_NF[start : places.stop] = forward(batch).float().cpu().numpy()
        return feature_NF


class JointSpaceEncoder(BaseEncoder[Tokens], ImageReader, Generic[Tokens]):
    """An encoder whose sentences share a space with images.

    Beside the frame's hooks a kind gives ``image_width`` and ``_forward_images``; where sentences stand elsewhere in
    that space than ``encode`` puts them, also ``joint_dimension`` and ``_forward_captions``.

    Attributes:
        image_tower: Names what gave the image features that it was trained with.
    """

    image_tower: str | None

    @property
    def has_image_heads(self) -> bool:
        """Whether ``encode_captions`` and ``encode_image_features`` can work."""
        return True

    @property
    @abstractmethod
    def image_width(self) -> int:
        """F, of the image features that ``encode_image_features`` takes."""

    @property
    def joint_dimension(self) -> int:
        """H, the width of the space in common."""
        return self.dimension

    @abstractmethod
    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        """(B, H) embeddings of features, not normalised."""

    def _forward_captions(self, tokens: Sequence[Tokens]) -> Tensor:
        """(B, H) embeddings of sentences, not normalised."""
        return self._forward(tokens)

    def to(self, device: str | torch.device) -> Self:
        """Moves the weights; returns itself."""
        if self._tower is not None:
            self._tower.to(device)
        return super().to(device)

    def encode_captions(self, sentences: str | Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, H) float32 unit embeddings of sentences in the space shared with images.

        Raises:
            ValueError: The encoder has no image heads, or an item is not a string.
        """
        row_NH: FloatArray = self._embed(
            sentences,
            self._forward_captions,
            width=self.joint_dimension,
            batch_size=batch_size,
            max_length=self.max_length,
            precision=self.precision,
        ).numpy()
        return row_NH

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, H) float32 unit embeddings of images in the space shared with sentences, from stored features.

        Args:
            features: (N, F) features of ``image_tower``, such as ``image_features`` and ``mcse extract-features`` give;
                those of another tower of equal width cannot be told apart.
            batch_size: Images at a time.

        Raises:
            ValueError: The encoder has no image heads, ``batch_size`` is below 1, or the features are not finite rows
                of width F.
        """
        check_batch_size(batch_size)
        wanted = self.image_width
        if features.ndim != 2 or features.shape[1] != wanted:
            source = f" features of {self.image_tower}" if self.image_tower else ""
            shape = f"image features have shape {features.shape}"
            raise ValueError(f"{shape}; {self._title()} was trained on (N, {wanted}){source}")
        row_NH = np.empty((len(features), self.joint_dimension), dtype=np.float32)
        with evaluating(self._modules()), torch.inference_mode():
            for start in range(0, len(features), batch_size):
                block_BF = np.asarray(features[start : start + batch_size], dtype=np.float32)
                finite_B = np.isfinite(block_BF).all(axis=1)
                if not finite_B.all():
                    raise ValueError(f"image features: row {start + int(np.argmin(finite_B))} is not finite")
                row_BH = self._forward_images(torch.from_numpy(block_BF).to(self.device)).float()
                row_NH[start : start + len(block_BF)] = F.normalize(row_BH, dim=-1).cpu().numpy()
        return row_NH

    def encode_images(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, H) float32 unit embeddings of images (PIL images, or paths) in the space shared with sentences.

        Raises:
            ValueError: The encoder has no image heads, or as for ``image_features``.
        """
        _ = self.image_width  # refuses before a tower is loaded
        return self.encode_image_features(self.image_features(images, batch_size=batch_size))

    def image_similarity(self, sentences: str | Sequence[str], features: FloatArray) -> FloatArray:
        """(N, M) cosines between N sentences and M images, given by their features."""
        return self.encode_captions(sentences) @ self.encode_image_features(features).T


def _as_rgb(image: ImageInput, place: int) -> Image.Image:
    """In RGB and upright, as training saw images."""
    if not isinstance(image, str | Path | Image.Image):
        raise ValueError(f"images[{place}] is a {type(image).__name__}, neither a path nor a PIL image")
    try:
        return as_rgb(image) if isinstance(image, Image.Image) else load_image(Path(image))
    except BadImageError as error:
        raise ValueError(f"images[{place}], {str(error).removeprefix('image ')}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"images[{place}]: {error}") from error
