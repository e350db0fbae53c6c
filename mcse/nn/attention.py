"""Cross-attention from words to image regions.

B examples, W words, R regions, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """One BERT-style layer whose queries are words and whose keys and values are regions.

    The residual carries the words, so the result holds text and image both.

    Args:
        width: D of words and regions.
        heads: Must divide ``width``.
        dropout: On attention weights and on both sublayers.
        inner: Width of the feed-forward layer.

    Source: MAF's cross-modal interaction module (Xu et al. 2022, section 3.3).
    """

    def __init__(self, width: int, *, heads: int, dropout: float, inner: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"fusion.heads: {heads} do not divide the encoder's width {width}")
        inner = 4 * width if inner is None else inner
        self.heads = heads
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, inner)
        self.inner_out = nn.Linear(inner, width)
        self.inner_norm = nn.LayerNorm(width)

    def forward(self, word_BWD: Tensor, region_BRD: Tensor) -> Tensor:
        """(B, W, D); every region may be looked at, and words do not see each other."""
        query, key, value = (
            layer(rows).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.query, word_BWD), (self.key, region_BRD), (self.value, region_BRD))
        )
        rate = self.dropout if self.training else 0.0
        seen_BWD = F.scaled_dot_product_attention(query, key, value, dropout_p=rate).transpose(1, 2).flatten(2)
        word_BWD = self.attention_norm(word_BWD + self._dropped(self.attention_out(seen_BWD)))
        out_BWD: Tensor = self.inner_norm(word_BWD + self._dropped(self.inner_out(F.gelu(self.inner(word_BWD)))))
        return out_BWD

    def _dropped(self, rows: Tensor) -> Tensor:
        return F.dropout(rows, self.dropout, self.training)
