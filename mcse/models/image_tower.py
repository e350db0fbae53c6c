"""Image towers: frozen for stored features, or trained end to end; the user of open_clip's and timm's image models.

B pictures, F feature width.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Preprocess = Callable[[Image.Image], Tensor]

RANDOM_WEIGHTS = "none"

_WHOLE_NAMES = ("hf-hub:", "hf_hub:", "local-dir:")  # both libraries' own notation for weights and config in one place


class ImageTower(nn.Module):
    """Pixels to one feature row a picture.

    ``spec`` rebuilds it, ``width`` is F, ``preprocessing`` says in words what ``preprocess`` does to a PIL picture.
    """

    def __init__(self, body: nn.Module, *, spec: str, preprocess: Preprocess, preprocessing: str) -> None:
        super().__init__()
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
        """(B, F) features of preprocessed pictures, not normalised."""
        output = self.body(pixel_B3HW)
        feature_BF: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa also gives its patch tokens
        if feature_BF.ndim != 2:
            raise ValueError(f"{self.spec}: expected one row a picture, got shape {tuple(feature_BF.shape)}")
        return feature_BF

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 over all weights: tells two checkpoints of one name apart."""
        sha = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            sha.update(name.encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            sha.update(raw.numpy().data)
        return sha.hexdigest()[:16]


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
    ``open_clip:hf-hub:…`` and ``local-dir:…``. ``pixels:N`` is the picture at N × N, RGB in [0, 1] minus one half.

    Without ``weights`` it is the architecture alone, for weights stored elsewhere: the named ones are not looked for,
    and need not be there.

    MCSE's own features are ``timm:resnet50.tv_in1k`` (torchvision's first ImageNet weights, resize 256, crop 224).

    Raises:
        ValueError: unknown kind, model or tag, or weights neither here nor to be had.
    """
    kind, _, name = spec.partition(":")
    build = {"open_clip": _build_open_clip, "timm": _build_timm, "pixels": _build_pixels}.get(kind)
    if build is None or not name:
        raise ValueError(
            f"image tower {spec!r}: expected open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N "
            "(such as open_clip:ViT-B-32/openai, timm:resnet50.tv_in1k, pixels:32)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = build(spec, name, weights=weights)
    return tower.eval()


class _Pixels(nn.Module):
    def forward(self, pixel_B3HW: Tensor) -> Tensor:
        return pixel_B3HW.flatten(1)


class _SmallPicture:
    """Resizes to N × N and centres; a class so that it can be pickled."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Tensor:
        small = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255 - 0.5).permute(2, 0, 1).contiguous()


def _build_pixels(spec: str, name: str, *, weights: bool) -> ImageTower:
    del weights  # there are none
    if not name.isdecimal() or int(name) == 0:
        raise ValueError(f"image tower {spec!r}: pixels:N needs a positive whole number")
    preprocessing = f"resize to {name}x{name} (bilinear), RGB / 255 - 0.5"
    return ImageTower(_Pixels(), spec=spec, preprocess=_SmallPicture(int(name)), preprocessing=preprocessing)


def _build_open_clip(spec: str, name: str, *, weights: bool) -> ImageTower:
    import open_clip  # seconds to import, and a tower of pixels needs neither library

    model_name, pretrained = _split(name)
    if pretrained is None and not model_name.startswith(_WHOLE_NAMES):
        raise ValueError(
            f"image tower {spec!r}: say which weights, such as open_clip:{model_name}/openai, a checkpoint's path, "
            f"or /{RANDOM_WEIGHTS} for random ones"
        )
    tag: Mapping[str, Any] = {}
    if not model_name.startswith(_WHOLE_NAMES):
        _check_model(spec, model_name, known=open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        tag = open_clip.get_pretrained_cfg(model_name, str(pretrained)) if pretrained in tags else {}
        found = pretrained == RANDOM_WEIGHTS or pretrained in tags or Path(str(pretrained)).is_file()
        if weights and not found:
            raise ValueError(
                f"image tower {spec!r}: {pretrained!r} is neither a checkpoint file nor a tag of {model_name}; "
                f"its tags: {', '.join(tags) or 'none'}"
            )
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            model_name,
            pretrained=pretrained if weights and pretrained != RANDOM_WEIGHTS else None,
            load_weights=weights and pretrained != RANDOM_WEIGHTS,
            # A tag's weights want its own activation and preprocessing, also where they come from elsewhere.
            force_quick_gelu=bool(tag.get("quick_gelu")),
            **_tag_preprocessing(tag),
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"image tower {spec!r}: its weights cannot be loaded: {error}") from error
    preprocessing = f"open_clip evaluation transform {_in_words(model.visual.preprocess_cfg)}"
    return ImageTower(model.visual, spec=spec, preprocess=preprocess, preprocessing=preprocessing)


def _build_timm(spec: str, name: str, *, weights: bool) -> ImageTower:
    import timm
    import timm.data
    import timm.models

    model_name, pretrained = _split(name)
    if not model_name.startswith(_WHOLE_NAMES):
        _check_model(spec, model_name.partition(".")[0], known=timm.list_models())
    if weights and pretrained not in (None, RANDOM_WEIGHTS) and not Path(str(pretrained)).is_file():
        raise ValueError(f"image tower {spec!r}: no checkpoint file {pretrained}")
    try:
        model = timm.create_model(model_name, pretrained=weights and pretrained is None)
        if weights and pretrained not in (None, RANDOM_WEIGHTS):
            timm.models.load_checkpoint(model, pretrained)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"image tower {spec!r}: its weights cannot be loaded: {error}") from error
    model.reset_classifier(0)  # pooled features; after loading, so that a checkpoint with a classifier fits
    config = timm.data.resolve_model_data_config(model)
    preprocess = timm.data.create_transform(**config, is_training=False)
    preprocessing = f"timm evaluation transform {_in_words(config)}"
    return ImageTower(model, spec=spec, preprocess=preprocess, preprocessing=preprocessing)


def _tag_preprocessing(tag: Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip reads out of a tag only where it also fetches the tag's weights."""
    names = {"mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation"}
    names["resize_mode"] = "image_resize_mode"
    return {argument: tag[key] for key, argument in names.items() if key in tag}


def _split(name: str) -> tuple[str, str | None]:
    if name.startswith(_WHOLE_NAMES):
        return name, None
    model, slash, pretrained = name.partition("/")
    return model, pretrained if slash else None


def _check_model(spec: str, model_name: str, *, known: Iterable[str]) -> None:
    names = list(known)
    if model_name not in names:
        near = difflib.get_close_matches(model_name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(names)}, such as {names[0]}"
        raise ValueError(f"image tower {spec!r}: unknown model {model_name!r}; {hint}")


def _in_words(config: Mapping[str, object]) -> str:
    return json.dumps(dict(config), sort_keys=True, default=str)
