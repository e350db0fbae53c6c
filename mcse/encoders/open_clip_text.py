"""``OpenClipEncoder``: the text tower of an open_clip model, and its images' features in the same space.

N sentences or images, B of one batch, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mcse.encoders.images import ImageInput, image_features
from mcse.encoders.inputs import Precision, as_texts, autocast, check_only_pooling
from mcse.manifest import Located, locate
from mcse.models.image_tower import ImageTower, load_image_tower
from mcse.models.open_clip_text import OpenClipText, load_open_clip_text, used_positions
from mcse.types import FloatArray

# Tokenised and sorted at a time, as SentenceEncoder does.
_CHUNK = 32768


class OpenClipEncoder:
    """Sentences to rows of the space that an open_clip model shares with images.

    ``encode`` and ``encode_captions`` give the same rows: there are no heads. ``pooling`` is "joint", since the tower
    pools in its own way and projects.

    Args:
        text: The text tower, on its device and in evaluation mode.
        name: What to call the encoder in messages and reports.
        load_tower: Loads the image side, the first time that images are encoded.
        precision: ``bfloat16`` runs matrix products in it; rows come out as float32 all the same.

    Raises:
        ValueError: There is no such precision.
    """

    pooling = "joint"
    has_image_heads = True

    def __init__(
        self,
        text: OpenClipText,
        *,
        name: str = "",
        load_tower: Callable[[], ImageTower] | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._text = text
        self._load_tower = load_tower
        self._tower: ImageTower | None = None
        self.name = name
        self.image_tower = text.spec
        self.precision = precision
        autocast(self.device, precision=precision)  # refuses what it does not know before anything is encoded

    @classmethod
    def from_pretrained(
        cls,
        spec: str | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> OpenClipEncoder:
        """Loads the text side of a model.

        Args:
            spec: ``open_clip:MODEL/PRETRAINED``, ``open_clip:hf-hub:ID`` or ``open_clip:local-dir:FOLDER``, the names
                of image towers.
            pooling: "joint", the only one.
            device: CUDA where there is one, by default.
            precision: As for the class.

        Raises:
            ValueError: The model is not known, its weights or tokenizer are not available, or another pooling is asked
                for.
        """
        name = locate(spec).expect("open_clip").name
        check_only_pooling(name, pooling, only=cls.pooling, why="an open_clip model pools in its own way")
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        text = load_open_clip_text(name).to(chosen)
        return cls(text, name=name, load_tower=lambda: load_image_tower(name), precision=precision)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._text.parameters()).device

    @property
    def dimension(self) -> int:
        """D, the width of the rows of sentences and images alike."""
        return self._text.width

    def encode(self, sentences: str | Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """Rows of sentences, in their order; what is longer than the model's context is cut.

        Returns:
            (N, D) float32, or (D,) for a single string; unit norm unless ``normalize`` is false.

        Raises:
            ValueError: An item is not a string, or ``batch_size`` is below 1.
        """
        texts = as_texts(sentences, batch_size=batch_size)
        row_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode(), autocast(self.device, precision=self.precision):
            for start in range(0, len(texts), _CHUNK):
                id_NT = self._text.tokenize(texts[start : start + _CHUNK])
                # The longest first, so that what does not fit into memory says so at once.
                order_N = used_positions(id_NT).argsort(descending=True, stable=True)
                for first in range(0, len(order_N), batch_size):
                    chosen_B = order_N[first : first + batch_size]
                    row_BD = self._text(id_NT[chosen_B].to(self.device)).float()
                    row_BD = F.normalize(row_BD, dim=-1) if normalize else row_BD
                    row_ND[chosen_B.numpy() + start] = row_BD.cpu().numpy()
        return row_ND[0] if isinstance(sentences, str) else row_ND

    def encode_captions(self, sentences: str | Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, D) float32 unit rows of sentences in the space shared with images: those of ``encode``."""
        return self.encode([sentences] if isinstance(sentences, str) else sentences, batch_size=batch_size)

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, D) float32 unit rows of images, from (N, D) features of the same model, which need only their norm.

        ``mcse extract-features --tower`` with this encoder's name gives them; those of another model of equal width
        cannot be told apart.

        Raises:
            ValueError: The features are not finite rows of width D, or ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(
                f"image features have shape {features.shape}; {self.name!r} takes those of its own image tower, "
                f"(N, {self.dimension})"
            )
        row_ND = np.empty(features.shape, dtype=np.float32)
        for start in range(0, len(features), batch_size):
            block_BD = np.asarray(features[start : start + batch_size], dtype=np.float32)
            finite_B = np.isfinite(block_BD).all(axis=1)
            if not finite_B.all():
                raise ValueError(f"image features: row {start + int(np.argmin(finite_B))} is not finite")
            norm_B1 = np.linalg.norm(block_BD, axis=1, keepdims=True)
            row_ND[start : start + len(block_BD)] = block_BD / np.where(norm_B1 == 0, 1.0, norm_B1)
        return row_ND

    def encode_images(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, D) float32 unit rows of images (PIL images, or paths) in the space shared with sentences.

        Raises:
            ValueError: The encoder was made without its image side, or an image cannot be read.
        """
        if self._tower is None:
            if self._load_tower is None:
                raise ValueError(f"{self.name!r} was made without its image side, so it takes image features")
            self._tower = self._load_tower().to(self.device).eval()
        chosen = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        mode = autocast(self.device, precision=self.precision)
        return self.encode_image_features(image_features(self._tower, chosen, batch_size=batch_size, autocast=mode))
