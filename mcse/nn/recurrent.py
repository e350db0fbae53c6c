"""Recurrent sentence encoders: LSTM or GRU over padded batches, the state after the last real token.

B sentences, T tokens, E word width, D state width, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mcse.nn.ragged import pack_rows
from mcse.nn.words import embed_words
from mcse.types import TokenBatch

Cell = Literal["lstm", "gru"]


class RecurrentEncoder(nn.Module):
    """Word embeddings and an LSTM or a GRU, read from left to right; a sentence is the last state of the last layer.

    Sequences are packed: padding is not computed, which saves a third of the time on a CPU.

    Args:
        vocab_size: V; id 0 is padding and id 1 an unknown word, whose rows start as zeros.
        word_width: E.
        width: D.
        cell: ``lstm`` or ``gru``, as PyTorch defines them: a GRU's reset gate is applied after the matrix product.
        layers: How many lie on each other.
        dropout: Share of each word's embedding that is dropped while training.
        init_range: ``None`` draws words from ±0.1, input weights from ±0.1 and recurrent weights orthogonally, biases
            zero; a number draws every weight and bias uniformly from plus or minus it.

    Source: Kiros et al. 2014 (an LSTM; every weight from ±0.08 by our notes); their released code has the GRU and the
    initialisation of ``None``, which we take over but for PyTorch's second bias.
    """

    def __init__(
        self,
        vocab_size: int,
        word_width: int,
        width: int,
        *,
        cell: Cell,
        layers: int = 1,
        dropout: float = 0.0,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embed_words(vocab_size, word_width, init_range=init_range or 0.1)
        self.dropout = nn.Dropout(dropout)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.layers: nn.LSTM | nn.GRU = kind(word_width, width, num_layers=layers, batch_first=True)
        _draw_weights(self.layers, init_range)

    @property
    def width(self) -> int:
        """D."""
        return self.layers.hidden_size

    def forward(self, tokens: TokenBatch) -> Tensor:
        """(B, D) states after each sentence's last real token; padding stands on the right and changes nothing."""
        row_BTE = self.dropout(self.embedding(tokens.input_ids_BT))
        if torch._C._get_tracing_state() is not None:
            # A graph for other libraries takes lengths from the mask; reading rightwards, padding comes too late to
            # change the state before it.
            state_BTD, _ = self.layers(row_BTE)
            last_B11 = tokens.attention_mask_BT.sum(1)[:, None, None] - 1
            traced_BD: Tensor = state_BTD.gather(1, last_B11.expand(-1, 1, self.width))[:, 0]
            return traced_BD
        _, state = self.layers(pack_rows(row_BTE, tokens.lengths()))
        last_LBD: Tensor = state[0] if isinstance(state, tuple) else state
        return last_LBD[-1]


def _draw_weights(layers: nn.LSTM | nn.GRU, init_range: float | None) -> None:
    for name, parameter in layers.named_parameters():
        if init_range is not None:
            nn.init.uniform_(parameter, -init_range, init_range)
        elif name.startswith("weight_hh"):
            for gate_DD in parameter.chunk(len(parameter) // layers.hidden_size):
                nn.init.orthogonal_(gate_DD)
        elif name.startswith("weight_ih"):
            nn.init.uniform_(parameter, -0.1, 0.1)
        else:
            nn.init.zeros_(parameter)
