"""Image towers: frozen for stored features, or trained end to end; the user of timm's image models.

B images, F feature width.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mcse.files import sha256_bytes
from mcse.hub import commit_of
from mcse.models.open_clip_model import (
    RANDOM_WEIGHTS,
    WHOLE_NAMES,
    build_open_clip,
    check_known,
    is_tag,
    open_clip_source,
    split_name,
)

_CELL = 8
_MOST_PIXELS = 1024
"""Of a side of ``pixels:N``: 3 million values an image."""


Preprocess = Callable[[Image.Image], Tensor]


class ImageTower(nn.Module):
    """Pixels to one feature row an image.

    ``spec`` rebuilds it, ``width`` is F, ``preprocessing`` says in words what ``preprocess`` does to a PIL image.
    A row holds ``regions`` equal parts side by side: 1, unless ``spec`` begins with ``grid:``.
    """

    def __init__(self, body: nn.Module, *, spec: str, preprocess: Preprocess, preprocessing: str) -> None:
        super().__init__()
        self.regions = 1
        self.body = body
        self.spec = spec
        self.preprocess = preprocess
        self.preprocessing = preprocessing
        was_training = body.training
        with torch.no_grad():
            blank = preprocess(Image.new("RGB", (8, 8)))
            body.eval()  # a batch of one must not touch running averages
            self.width = int(self(blank[None]).shape[1])
        body.train(was_training)

    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        """(B, F) features of preprocessed images, not normalised."""
        output = self.body(pixel_B3HW)
        feature_BF: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa also gives its patch tokens
        if feature_BF.ndim != 2:
            raise ValueError(f"{self.spec}: expected one row an image, got shape {tuple(feature_BF.shape)}")
        return feature_BF

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over all weights: tells two checkpoints of one name apart."""
        parts: list[bytes | memoryview] = []
        for name, tensor in self.state_dict().items():
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            parts += [name.encode(), raw.numpy().data]
        return sha256_bytes(*parts)[:16]


class FrozenTower(nn.Module):
    """A tower that works inside the step and is no part of training.

    It gives no gradient and stays in evaluation mode; its parameters are those of no module, so that no optimizer, DDP
    or saved state sees them.
    """

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self._held = (tower.eval().requires_grad_(False),)  # a tuple, which nn.Module does not look into

    @torch.no_grad()
    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        """(B, F) features, as the tower gives them."""
        tower = self._held[0].to(pixel_B3HW)  # it does not move with the module that holds this one
        feature_BF: Tensor = tower(pixel_B3HW)
        return feature_BF


def load_image_tower(spec: str, *, seed: int = 0, weights: bool = True) -> ImageTower:
    """The tower that ``spec`` names, in evaluation mode.

    ``open_clip:MODEL/PRETRAINED`` and ``timm:MODEL`` or ``timm:MODEL/PRETRAINED``, where PRETRAINED is a tag of
    open_clip, the path of a checkpoint, or ``none`` for random weights (drawn by ``seed``, so always the same); also
    ``open_clip:hf-hub:…`` and ``local-dir:…``. ``pixels:N`` is the image at N × N, RGB in [0, 1] minus one half.

    Without ``weights`` it is the architecture alone, for weights stored elsewhere: the named ones are not looked for,
    and need not be there.

    ``grid:`` before ``timm:`` keeps the places of the last feature map apart, row by row (49 of a ResNet at 224 × 224;
    a transformer's patches without its class token), and before ``pixels:N`` squares of 8 × 8 pixels.

    MCSE's own features are ``timm:resnet50.tv_in1k`` (torchvision's first ImageNet weights, resize 256, crop 224).

    Raises:
        ValueError: unknown kind, model or tag, or weights that are not available.
    """
    kind, _, name = spec.partition(":")
    build = {"open_clip": _build_open_clip, "timm": _build_timm, "pixels": _build_pixels, "grid": _build_grid}.get(kind)
    if build is None or not name:
        raise ValueError(
            f"image tower {spec!r}: expected open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N "
            "(such as open_clip:ViT-B-32/openai, timm:resnet50.tv_in1k, pixels:32), or grid: before the last two"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = build(spec, name, weights=weights)
    return tower.eval()


def tower_path(spec: str, *, weights: bool) -> str | None:
    """The file or folder that ``load_image_tower`` would read from this machine for ``spec``; ``None`` for a tag."""
    kind, _, name = spec.removeprefix("grid:").partition(":")
    if kind not in ("open_clip", "timm"):
        return None
    model_name, pretrained = split_name(name)
    if model_name.startswith("local-dir:"):
        return model_name.removeprefix("local-dir:")
    if not weights or pretrained in (None, RANDOM_WEIGHTS):
        return None
    return None if kind == "open_clip" and is_tag(model_name, str(pretrained)) else pretrained


def tower_commit(spec: str) -> str | None:
    """The commit of the hub at which a tower is read; ``None`` of one from elsewhere, or that names a commit itself."""
    kind, _, name = spec.removeprefix("grid:").partition(":")
    if kind == "timm" and name.startswith("hf-hub:"):
        return commit_of(name.removeprefix("hf-hub:"))
    repository = open_clip_source(name, title=f"image tower {spec!r}").repository if kind == "open_clip" else None
    return None if repository is None else commit_of(repository)


class _Pixels(nn.Module):
    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        return pixel_B3HW.flatten(1)


class _SmallImage:
    """Resizes to N × N and centres; a class so that it can be pickled."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        small = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255 - 0.5).permute(2, 0, 1).contiguous()


def _build_pixels(spec: str, name: str, *, weights: bool) -> ImageTower:
    del weights  # there are none
    if not re.fullmatch(r"[0-9]{1,4}", name) or not 1 <= int(name) <= _MOST_PIXELS:
        raise ValueError(f"image tower {spec!r}: pixels:N needs a whole number from 1 to {_MOST_PIXELS}")
    preprocessing = f"resize to {name}x{name} (bilinear), RGB / 255 - 0.5"
    return ImageTower(_Pixels(), spec=spec, preprocess=_SmallImage(int(name)), preprocessing=preprocessing)


class _Cells(nn.Module):
    """Squares of ``_CELL`` × ``_CELL`` pixels, row by row, each as one row of values."""

    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        cell_BVR = F.unfold(pixel_B3HW, kernel_size=_CELL, stride=_CELL)
        return cell_BVR.transpose(1, 2).flatten(1)


class _LastMap(nn.Module):
    """The places of a timm model's last map, row by row: a convolution's, or a transformer's patches."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        body: Any = self.body
        last: Tensor = body.forward_features(pixel_B3HW)
        if last.ndim == 4:
            channels_first = last.shape[1] == body.num_features
            return (last.flatten(2).transpose(1, 2) if channels_first else last.flatten(1, 2)).flatten(1)
        return last[:, getattr(body, "num_prefix_tokens", 0) :].flatten(1)


def _build_grid(spec: str, name: str, *, weights: bool) -> ImageTower:
    kind, _, inner = name.partition(":")
    if kind == "pixels":
        plain = _build_pixels(spec, inner, weights=weights)
        if int(inner) % _CELL:
            raise ValueError(f"image tower {spec!r}: {inner} is no multiple of {_CELL}, the side of a region")
        return _with_regions(_Cells(), plain, spec=spec, width=3 * _CELL * _CELL)
    if kind == "timm":
        plain = _build_timm(spec, inner, weights=weights)
        body: Any = plain.body  # timm's own attribute follows
        return _with_regions(_LastMap(body), plain, spec=spec, width=int(body.num_features))
    raise ValueError(f"image tower {spec!r}: grid: stands before timm:MODEL or pixels:N, whose maps have places")


def _with_regions(body: nn.Module, plain: ImageTower, *, spec: str, width: int) -> ImageTower:
    """The tower again with rows of several regions, each ``width`` wide."""
    whole = ImageTower(body.eval(), spec=spec, preprocess=plain.preprocess, preprocessing=plain.preprocessing)
    if whole.width % width:
        raise ValueError(f"image tower {spec!r}: a map of {whole.width} values has no regions of {width}")
    whole.regions = whole.width // width
    return whole


def _build_open_clip(spec: str, name: str, *, weights: bool) -> ImageTower:
    model, preprocess = build_open_clip(name, title=f"image tower {spec!r}", weights=weights)
    preprocessing = f"open_clip evaluation transform {_in_words(model.visual.preprocess_cfg)}"
    return ImageTower(model.visual, spec=spec, preprocess=preprocess, preprocessing=preprocessing)


def _build_timm(spec: str, name: str, *, weights: bool) -> ImageTower:
    import timm
    import timm.data
    import timm.models

    model_name, pretrained = split_name(name)
    if not model_name.startswith(WHOLE_NAMES):
        check_known(model_name.partition(".")[0], timm.list_models(), title=f"image tower {spec!r}")
    if weights and pretrained not in (None, RANDOM_WEIGHTS) and not Path(str(pretrained)).is_file():
        raise ValueError(f"image tower {spec!r}: no checkpoint file {pretrained}")
    if (commit := tower_commit(f"timm:{model_name}")) is not None:
        model_name = f"{model_name}@{commit}"
    try:
        model = timm.create_model(model_name, pretrained=weights and pretrained is None)
        if weights and pretrained not in (None, RANDOM_WEIGHTS):
            timm.models.load_checkpoint(model, pretrained, weights_only=True)  # not the default of all versions
    except (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"image tower {spec!r}: its weights cannot be loaded: {error}") from error
    model.reset_classifier(0)  # pooled features; after loading, so that a checkpoint with a classifier fits
    config = timm.data.resolve_model_data_config(model)
    preprocess = timm.data.create_transform(**config, is_training=False)
    preprocessing = f"timm evaluation transform {_in_words(config)}"
    return ImageTower(model, spec=spec, preprocess=preprocess, preprocessing=preprocessing)


def _in_words(config: Mapping[str, object]) -> str:
    return json.dumps(dict(config), sort_keys=True, default=str)
