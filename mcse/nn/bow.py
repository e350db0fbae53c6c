"""Bag of words: a sentence is the sum of its words' embeddings.

B sentences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcse.nn.words import embed_words
from mcse.types import TokenBatch


class BowEncoder(nn.Module):
    """Sums word embeddings, so that the row of a phrase is made of those of its words.

    Args:
        vocab_size: V; id 0 is padding and id 1 an unknown word, whose rows start as zeros.
        width: D.
        dropout: Share of each word's embedding that is dropped while training.
        init_range: Embeddings are drawn uniformly from plus or minus this.

    Source: Kiros, Salakhutdinov and Zemel 2014, the linear encoder of section 2.5 (their code sums, too, an end mark).
    """

    def __init__(self, vocab_size: int, width: int, *, dropout: float = 0.0, init_range: float = 0.1) -> None:
        super().__init__()
        self.embedding = embed_words(vocab_size, width, init_range=init_range)
        self.dropout = nn.Dropout(dropout)

    @property
    def width(self) -> int:
        """D."""
        return self.embedding.embedding_dim

    def forward(self, tokens: TokenBatch) -> Tensor:
        """(B, D) sums over the real tokens."""
        row_BTD = self.dropout(self.embedding(tokens.input_ids_BT))
        return torch.einsum("btd,bt->bd", row_BTD, tokens.attention_mask_BT.to(row_BTD.dtype))
