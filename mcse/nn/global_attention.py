"""Attention of a decoder's state over an encoder's outputs.

B sentences, T source tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GlobalAttention(nn.Module):
    """h~ = tanh(W_2 [Hᵀ a ; h]) with a = softmax(H W_1 h) over real tokens alone.

    Args:
        width: D, of states and outputs.

    Source: Luong, Pham and Manning 2015, "general" scores. CoVe's released training code forgets the mask, so that
    padding takes a share of the attention; here it never does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width, bias=False)

    def forward(self, state_BD: Tensor, source_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) attentional states and (B, T) shares."""
        logit_BT = torch.einsum("btd,bd->bt", source_BTD, self.score(state_BD))
        share_BT = torch.softmax(logit_BT.masked_fill(mask_BT == 0, -math.inf), dim=-1)
        context_BD = torch.einsum("bt,btd->bd", share_BT, source_BTD)
        return torch.tanh(self.combine(torch.cat([context_BD, state_BD], dim=-1))), share_BT
