"""The text side of an open_clip model: sentences to rows of the space that it shares with images.

B sentences, T token positions, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mcse.models.open_clip_model import Tokenize, build_open_clip, load_open_clip_tokenizer

_PREFIX = "open_clip:"


class OpenClipText(nn.Module):
    """Ids to one row a sentence, projected into the joint space.

    A tower that looks only backwards and takes the row where the text ends is run without the positions behind the
    longest text of a batch: they cannot reach that row, and most of CLIP's 77 are empty.

    Args:
        model: The whole model; its image side is let go.
        spec: Rebuilds it.
        tokenize: Sentences to ids.
    """

    def __init__(self, model: Any, *, spec: str, tokenize: Tokenize) -> None:
        super().__init__()
        del model.visual
        self._side = _TextSide(model)
        self._tokenize = tokenize
        self._can_shorten = _looks_only_backwards(getattr(model, "text", model))
        self.spec = spec
        id_1T = self.tokenize(["a"])
        self.context = id_1T.shape[1]
        with torch.no_grad():
            self.width = int(self(id_1T).shape[1])

    def tokenize(self, sentences: Sequence[str], *, length: int | None = None) -> Tensor:
        """(B, T) ids on the CPU, all sentences filled or cut to T: ``length``, or the context length."""
        return self._tokenize(list(sentences), length)

    def forward(self, id_BT: Tensor) -> Tensor:
        """(B, D) rows of ids of ``tokenize``, not normalised; positions that no text fills may be left out."""
        longest = int(used_positions(id_BT).max())
        row_BD: Tensor
        if not self._can_shorten or longest == self.context:
            row_BD = self._side(F.pad(id_BT, (0, self.context - id_BT.shape[1])))
            return row_BD
        tower = "model.text." if hasattr(self._side.model, "text") else "model."
        states = {**dict(self._side.named_parameters()), **dict(self._side.named_buffers())}
        shortened = {
            f"{tower}positional_embedding": states[f"{tower}positional_embedding"][:longest],
            f"{tower}attn_mask": states[f"{tower}attn_mask"][:longest, :longest],
        }
        row_BD = functional_call(self._side, shortened, (id_BT[:, :longest],))
        return row_BD


def load_open_clip_text(spec: str, *, seed: int = 0) -> OpenClipText:
    """The text tower of the model that ``spec`` names, on the CPU, in evaluation mode.

    Args:
        spec: ``open_clip:MODEL/PRETRAINED``, ``open_clip:hf-hub:ID`` or ``open_clip:local-dir:FOLDER``, as for image
            towers; PRETRAINED is a tag of open_clip, the path of a checkpoint, or ``none`` for random weights.
        seed: Draws random weights; image tower and text tower of one seed are of one model.

    Raises:
        ValueError: ``spec`` is none, or its weights or tokenizer are not available.
    """
    title = f"text tower {spec!r}"
    name = spec.removeprefix(_PREFIX)
    if name == spec or not name:
        raise ValueError(f"{title}: expected open_clip:MODEL/PRETRAINED, such as open_clip:ViT-B-32/openai")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, _ = build_open_clip(name, title=title)
    tokenize = load_open_clip_tokenizer(name, title=title)
    return OpenClipText(model.eval(), spec=spec, tokenize=tokenize).eval()


def used_positions(id_BT: Tensor) -> Tensor:
    """(B,) positions up to the last that is not 0, the id that CLIP fills with."""
    place_T = torch.arange(1, id_BT.shape[1] + 1, device=id_BT.device)
    return ((id_BT != 0) * place_T).amax(dim=1)


class _TextSide(nn.Module):
    """Every kind of open_clip model encodes text by this method; a module's ``forward`` can be called functionally."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, id_BT: Tensor) -> Tensor:
        row_BD: Tensor = self.model.encode_text(id_BT, normalize=False)
        return row_BD


def _looks_only_backwards(tower: Any) -> bool:
    """Whether what follows the end of a text cannot change its row.

    The attention must be causal, the row be that of the end token, and no token of the tower's own follow (CoCa's).
    """
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    is_causal = isinstance(getattr(tower, "attn_mask", None), Tensor)
    return is_causal and pooling in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None
