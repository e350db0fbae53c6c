"""Word embeddings that word-level encoders begin with.

V vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import nn

_EMPTY_ROWS = 2
"""Padding and the unknown word, which are ids 0 and 1 of every vocabulary (``mcse.text.vocab``)."""


def embed_words(vocab_size: int, width: int, *, init_range: float) -> nn.Embedding:
    """(V, D) embeddings drawn uniformly from plus or minus ``init_range``; padding and the unknown word are zeros.

    A vocabulary that holds every word of the training text never meets the unknown word there: a random row would be
    noise whenever a query has one, zeros say nothing.
    """
    embedding = nn.Embedding(vocab_size, width)
    with torch.no_grad():
        embedding.weight.uniform_(-init_range, init_range)
        embedding.weight[:_EMPTY_ROWS] = 0
    return embedding
