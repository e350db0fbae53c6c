"""Pooling: one row a sentence from a transformer's token rows.

B sentences, T tokens, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

POOLINGS = ("cls", "cls_with_head", "mean", "first_last_mean", "last2_mean", "max", "last")
"""``cls_with_head`` is ``cls`` followed by the trained head; the pooling itself is the same row. ``last`` is the last
token that is no padding, which of a causal model alone sees the whole sentence."""

FIRST_TOKEN_POOLINGS = ("cls", "cls_with_head")
"""Poolings that read one token's row."""

LAYER_POOLINGS = ("first_last_mean", "last2_mean")
"""Poolings that need hidden states of more than the last layer."""


def pool(hidden_LBTD: Sequence[Tensor], mask_BT: Tensor, *, pooling: str) -> Tensor:
    """(B, D) rows from hidden states.

    Args:
        hidden_LBTD: Hidden states by layer, embeddings first, the last layer last. Poolings of the last layer alone
            read only the last entry, which may then be the only one.
        mask_BT: 1 on real tokens.
        pooling: One of ``POOLINGS``.

    Raises:
        ValueError: ``pooling`` is not one of ``POOLINGS``.

    Source: SimCSE's poolers. ``first_last_mean`` takes the first transformer layer, not the embeddings (its issue 285).
    """
    last_BTD = hidden_LBTD[-1]
    if pooling in FIRST_TOKEN_POOLINGS:
        return last_BTD[:, 0]
    if pooling == "mean":
        return _masked_mean(last_BTD, mask_BT)
    if pooling == "first_last_mean":
        return _masked_mean((hidden_LBTD[1] + last_BTD) / 2, mask_BT)
    if pooling == "last2_mean":
        return _masked_mean((hidden_LBTD[-2] + last_BTD) / 2, mask_BT)
    if pooling == "max":
        return last_BTD.masked_fill(mask_BT[..., None] == 0, torch.finfo(last_BTD.dtype).min).amax(1)
    if pooling == "last":
        # Padding may stand on either side: the greatest place with a token.
        place_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
        # Gathered, and not indexed by the number of rows, which an exported graph would keep.
        place_B1D = place_BT.argmax(1)[:, None, None].expand(-1, 1, last_BTD.shape[-1])
        return last_BTD.gather(1, place_B1D)[:, 0]
    raise ValueError(f"encoder.pooling: unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")


def _masked_mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    weight_BT1 = mask_BT[..., None].to(hidden_BTD.dtype)
    # The clamp is sentence-transformers' own, so that an empty row gives zeros and not NaN.
    return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1e-9)
