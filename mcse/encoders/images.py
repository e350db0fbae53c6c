"""Images to feature rows, for checkpoints that know their image tower; and checks of features that were stored.

N images, B of one batch, F feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mcse.models.image_tower import ImageTower
from mcse.types import FloatArray

ImageInput: TypeAlias = str | Path | Image.Image
"""An image, or the path of its file."""

_THREADS = 4


def image_features(
    tower: ImageTower, images: Sequence[ImageInput], *, batch_size: int, autocast: torch.autocast
) -> FloatArray:
    """(N, F) float32 features of images, in their order; the tower must be in evaluation mode.

    Raises:
        ValueError: ``batch_size`` is below 1; an image is missing, cannot be read or is none, by place and name.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    feature_NF = np.empty((len(images), tower.width), dtype=np.float32)
    device = next((parameter.device for parameter in tower.parameters()), torch.device("cpu"))

    def pixels_of(place: int) -> Tensor:
        return tower.preprocess(_as_rgb(images[place], place))

    with ThreadPoolExecutor(_THREADS) as pool, torch.inference_mode(), autocast:
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            pixel_B3HW = torch.stack(list(pool.map(pixels_of, range(start, stop)))).to(device)
            feature_NF[start:stop] = tower(pixel_B3HW).float().cpu().numpy()
    return feature_NF


def checked_features(
    features: FloatArray, *, width: int, batch_size: int, title: str, tower: str | None
) -> Iterator[tuple[int, FloatArray]]:
    """Stored features in blocks: the first row's number, and (B, F) float32; the shape is checked before the first.

    Args:
        features: (N, F).
        width: F that the model was trained on.
        batch_size: Rows of a block.
        title: What the model is called.
        tower: What gave the features that it was trained on, if that is known.

    Raises:
        ValueError: ``batch_size`` is below 1, the features are no matrix of that width, or a row is not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if features.ndim != 2 or features.shape[1] != width:
        source = f" features of {tower}" if tower else ""
        raise ValueError(f"image features have shape {features.shape}; {title} was trained on (N, {width}){source}")
    return _blocks(features, batch_size)


def _blocks(features: FloatArray, batch_size: int) -> Iterator[tuple[int, FloatArray]]:
    for start in range(0, len(features), batch_size):
        block_BF = np.asarray(features[start : start + batch_size], dtype=np.float32)
        finite_B = np.isfinite(block_BF).all(axis=1)
        if not finite_B.all():
            raise ValueError(f"image features: row {start + int(np.argmin(finite_B))} is not finite")
        yield start, block_BF


def _as_rgb(image: ImageInput, place: int) -> Image.Image:
    """In RGB and upright, as training saw images."""
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    if not isinstance(image, str | Path):
        raise ValueError(f"images[{place}] is a {type(image).__name__}, neither a path nor a PIL image")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"images[{place}], {image}: cannot be read: {error}") from error
