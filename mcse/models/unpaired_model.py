"""VisualCSE's model: a text encoder whose own layers also read images, cut into patches.

B sentences a process, V views of images, P places (a class token and the patches), D width, S pixels of a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from mcse.errors import said
from mcse.manifest import resolve_name
from mcse.models.backbone import probe_tokens
from mcse.models.image_tower import load_image_tower
from mcse.models.sentence_model import SentenceModel, SentenceRows
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import loading, quiet_transformers
from mcse.nn.dropout import drawn_by
from mcse.nn.heads import TanhHead
from mcse.types import TokenBatch, UnpairedBatch

_TOLERANCE = 1e-4
_INIT_STD = 0.02


class PatchEmbeddings(nn.Module):
    """The embedding layer of a vision transformer: patches projected, a class token before them, positions added.

    Args:
        width: D.
        patch_size: Pixels of a patch's side.
        image_size: S, a multiple of it.

    Weights are drawn as ViT's are; positions and the class token from a normal distribution (0.02), too.

    Source: Dosovitskiy et al. 2021, eq. 1.
    """

    def __init__(self, width: int, *, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.class_token_11D = nn.Parameter(torch.empty(1, 1, width))
        self.position_1PD = nn.Parameter(torch.empty(1, (image_size // patch_size) ** 2 + 1, width))
        for weight in (self.projection.weight, self.class_token_11D, self.position_1PD):
            nn.init.trunc_normal_(weight, std=_INIT_STD)
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)

    @property
    def width(self) -> int:
        """D."""
        return self.projection.out_channels

    def forward(self, pixel_V3HW: Tensor) -> Tensor:
        """(V, P, D) rows, the class token's first."""
        patch_VPD = self.projection(pixel_V3HW).flatten(2).transpose(1, 2)
        token_V1D = self.class_token_11D.expand(len(patch_VPD), -1, -1).to(patch_VPD.dtype)
        embedded_VPD: Tensor = torch.cat([token_V1D, patch_VPD], dim=1) + self.position_1PD
        return embedded_VPD


def load_patch_embeddings(name: str, *, image_size: int) -> PatchEmbeddings:
    """The embedding layer of a trained ViT; its positions are stretched where ``image_size`` is not its own.

    Args:
        name: A hub id or folder of transformers' ViT (``google/vit-base-patch16-224-in21k``), or ``timm:MODEL`` or
            ``timm:MODEL/CHECKPOINT``.
        image_size: S, in pixels.

    Raises:
        ValueError: Nothing that is a ViT can be loaded there, or ``image_size`` is no multiple of its patches.
    """
    projection, class_token_11D, position_1PD = _of_timm(name) if name.startswith("timm:") else _of_transformers(name)
    patch_size = projection.kernel_size[0]
    check_patches(image_size, patch_size)
    embeddings = PatchEmbeddings(projection.out_channels, patch_size=patch_size, image_size=image_size)
    with torch.no_grad():
        embeddings.projection.load_state_dict(projection.state_dict())
        embeddings.class_token_11D.copy_(class_token_11D)
        embeddings.position_1PD.copy_(_stretched(position_1PD, side=image_size // patch_size))
    return embeddings


def check_patches(image_size: int, patch_size: int) -> None:
    """Refuses images that patches do not fill.

    Raises:
        ValueError: ``image_size`` is no multiple of ``patch_size``.
    """
    if image_size % patch_size:
        raise ValueError(f"image.size: {image_size} is no multiple of {patch_size}, the side of a patch")


def _of_transformers(name: str) -> tuple[nn.Conv2d, Tensor, Tensor]:
    path = resolve_name(name)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, **loading(path))
            options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
            model, report = AutoModel.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, **options, **loading(path)
            )
    except Exception as error:
        # Other people's classes raise whatever comes.
        raise ValueError(f"image.embeddings: no vision transformer at {name!r}: {said(error)}") from None
    embeddings: Any = getattr(model, "embeddings", None)
    found = (
        getattr(getattr(embeddings, "patch_embeddings", None), "projection", None),
        getattr(embeddings, "cls_token", None),
        getattr(embeddings, "position_embeddings", None),
    )
    if missing := sorted(key for key in report["missing_keys"] if key.startswith("embeddings.")):
        raise ValueError(f"image.embeddings: {name!r} lacks the weights {missing[0]}")
    return _checked(name, *found)


def _of_timm(name: str) -> tuple[nn.Conv2d, Tensor, Tensor]:
    body: Any = load_image_tower(name).body
    found = (
        getattr(getattr(body, "patch_embed", None), "proj", None),
        getattr(body, "cls_token", None),
        getattr(body, "pos_embed", None),
    )
    return _checked(name, *found)


def _checked(name: str, projection: Any, class_token: Any, position: Any) -> tuple[nn.Conv2d, Tensor, Tensor]:
    fits = (
        isinstance(projection, nn.Conv2d)
        and projection.in_channels == 3
        and projection.bias is not None
        and projection.kernel_size == projection.stride
        and projection.kernel_size[0] == projection.kernel_size[1]
        and isinstance(class_token, Tensor)
        and isinstance(position, Tensor)
        and position.shape[1] == math.isqrt(position.shape[1] - 1) ** 2 + 1
    )
    if not fits:
        raise ValueError(
            f"image.embeddings: {name!r} has no embedding layer as a ViT has: square patches of RGB, one class token, "
            "and a learnt position each"
        )
    return projection, class_token.detach(), position.detach()


def _stretched(position_1PD: Tensor, *, side: int) -> Tensor:
    """Positions for ``side`` × ``side`` patches, bicubic; the class token's stays."""
    own = math.isqrt(position_1PD.shape[1] - 1)
    if own == side:
        return position_1PD
    token_11D, patch_1PD = position_1PD[:, :1], position_1PD[:, 1:]
    map_1DHW = patch_1PD.reshape(1, own, own, -1).permute(0, 3, 1, 2)
    wanted = F.interpolate(map_1DHW, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([token_11D, wanted.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def find_layers(encoder: TextEncoder) -> nn.Module:
    """The transformer layers of a text encoder, which take rows in the place of embedded tokens.

    Asked of the model, never of its name. A sentence's embedded tokens, through these layers alone and without a mask,
    must come out as the model's own rows: nothing may look back only, or follow the layers. And rows that change places
    must come out in their new places: layers that add positions of words would read patches as words.

    Raises:
        ValueError: It has no such layers; names it.
    """
    refusal = (
        f"encoder.name_or_path: {encoder.facts.name!r} cannot read images: patches need transformer layers that stand "
        "apart from the embedding of words and know no places, as BERT's and RoBERTa's"
    )
    layers = getattr(encoder.backbone, "encoder", None)
    if not isinstance(layers, nn.Module):
        raise ValueError(f"{refusal} (it has no module 'encoder')")
    was_training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()
            given_1PD, wanted_1PD = _embedded_sentence(encoder, layers)
            found_1PD, moved_1PD = (layers(rows)[0] for rows in (given_1PD, given_1PD.flip(1)))
    except Exception as error:
        # Layers that want a mask, places, or other inputs raise whatever comes.
        raise ValueError(f"{refusal} ({said(error)})") from None
    finally:
        encoder.train(was_training)
    if given_1PD.shape[-1] != encoder.width:
        raise ValueError(f"{refusal} (they read rows of {given_1PD.shape[-1]} numbers and give {encoder.width})")
    tolerance = _TOLERANCE * float(wanted_1PD.abs().max())
    if not torch.allclose(found_1PD, wanted_1PD, rtol=0, atol=tolerance):
        raise ValueError(f"{refusal} (its layers alone do not give its rows)")
    if not torch.allclose(found_1PD.flip(1), moved_1PD, rtol=0, atol=tolerance):
        raise ValueError(f"{refusal} (its layers add positions of words themselves)")
    return layers


def _embedded_sentence(encoder: TextEncoder, layers: nn.Module) -> tuple[Tensor, Tensor]:
    """(1, P, D) rows that a sentence gives to ``layers``, and those that the model gives."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(arguments[0] if arguments else next(iter(named.values())))

    tokens = probe_tokens(encoder.backbone)
    handle = layers.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        alone = TokenBatch(tokens.input_ids_BT[-1:], tokens.attention_mask_BT[-1:])
        wanted_1PD = encoder.token_rows(alone)
    finally:
        handle.remove()
    return seen[0], wanted_1PD


@dataclass(frozen=True, slots=True)
class UnpairedRows:
    """Rows of the sentences, and of the views after the image head, neither normalised."""

    text: SentenceRows
    view_VD: Tensor | None


class UnpairedModel(nn.Module):
    """SimCSE's model, and beside it the way of images through the text encoder's own layers.

    Args:
        text: The text side.
        embeddings: Makes rows of images, as wide as the text encoder; ``None`` where images are not read.

    Raises:
        ValueError: The text encoder's layers cannot read images, or the embeddings are not as wide as it is.

    Source: Jian, Gao and Vosoughi 2022, section 3; their released code (VisualCSE/src/models.py) for the image head,
    which starts as the text head does.
    """

    def __init__(self, text: SentenceModel, *, embeddings: PatchEmbeddings | None) -> None:
        super().__init__()
        self.text, self.embeddings, self.image_head = text, embeddings, None
        if embeddings is None:
            return
        width = text.encoder.width
        if embeddings.width != width:
            raise ValueError(
                f"image.embeddings: they are {embeddings.width} wide, but {text.encoder.facts.name!r} has a width of "
                f"{width}; give those of another ViT, or none to draw them"
            )
        # Held by name alone: the layers belong to the text side.
        self._layers = (find_layers(text.encoder),)
        self.image_head = TanhHead(width, width, init_std=text.encoder.init_std)

    def forward(self, batch: UnpairedBatch) -> UnpairedRows:
        """One forward of both kinds; the text's dropout is what it is without images."""
        rows = self.text(batch.text)
        if batch.images is None or self.embeddings is None or self.image_head is None:
            return UnpairedRows(rows, None)
        with drawn_by(batch.images.dropout_seed, batch.images.pixel_V3HW.device):
            hidden_VPD = self._layers[0](self.embeddings(batch.images.pixel_V3HW))[0]
            view_VD: Tensor = self.image_head(hidden_VPD[:, 0])
        return UnpairedRows(rows, view_VD)
