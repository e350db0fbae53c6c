"""A word's vector from its characters: convolutions of several widths, the maximum over places, highways, a projection.

W words, C characters a word, E character width, F filters of all widths, D output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Highway(nn.Module):
    """Layers that each mix their input with a rectified linear map of it: g · relu(V x + c) + (1 - g) · x.

    Args:
        width: F.
        layers: How many follow one another; weights start at N(0, 1/√F).

    Source: Srivastava et al. 2015; g = σ(W x + b) with b = -2 at the start, so that the input passes at first.
    """

    def __init__(self, width: int, *, layers: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(_linear(width, bias=-2.0) for _ in range(layers))
        self.maps = nn.ModuleList(_linear(width, bias=0.0) for _ in range(layers))

    def forward(self, row_WF: Tensor) -> Tensor:
        """(W, F)."""
        for gate, mapped in zip(self.gates, self.maps, strict=True):
            g_WF = torch.sigmoid(gate(row_WF))
            row_WF = g_WF * torch.relu(mapped(row_WF)) + (1 - g_WF) * row_WF
        return row_WF


def _linear(width: int, *, bias: float) -> nn.Linear:
    linear = nn.Linear(width, width)
    nn.init.normal_(linear.weight, std=width**-0.5)
    nn.init.constant_(linear.bias, bias)
    return linear


def _convolution(in_dim: int, out_dim: int, *, width: int) -> nn.Conv1d:
    convolution = nn.Conv1d(in_dim, out_dim, width)
    nn.init.uniform_(convolution.weight, -0.05, 0.05)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


class CharCNN(nn.Module):
    """ELMo's token encoder.

    The maximum runs over all C places, padding too: padding has an id and a vector of its own, and a word's vector must
    not depend on the words beside it. Places that hold nothing but padding for every filter are all alike, so all but
    the first of them are left out, which changes no maximum.

    Args:
        characters: Ids; 0 is the mask, whose vector is zero and stays so.
        character_dim: E.
        filters: Width and number of the filters of each convolution.
        highway_layers: Highways after the maximum.
        out_dim: D.
        pad_id: The id that fills a word up to C.
        activation: Between maximum and highways.

    Source: Peters et al. 2018, section 3.2; initial values as in the released training code.
    """

    def __init__(
        self,
        *,
        characters: int,
        character_dim: int,
        filters: Sequence[tuple[int, int]],
        highway_layers: int,
        out_dim: int,
        pad_id: int,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ("relu", "tanh"):
            raise ValueError(f"activation: must be relu or tanh, got {activation!r}")
        self.pad_id, self.activation = pad_id, activation
        self.embedding = nn.Embedding(characters, character_dim, padding_idx=0)
        self.convolutions = nn.ModuleList(_convolution(character_dim, count, width=width) for width, count in filters)
        self.widest = max(width for width, _ in filters)
        features = sum(count for _, count in filters)
        self.highway = Highway(features, layers=highway_layers)
        self.projection = nn.Linear(features, out_dim)
        nn.init.uniform_(self.embedding.weight, -1.0, 1.0)
        with torch.no_grad():
            self.embedding.weight[0] = 0.0
        nn.init.normal_(self.projection.weight, std=features**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, character_WC: Tensor, *, longest: int | None = None) -> Tensor:
        """(W, D) vectors; of a word that is all mask, the vector of no characters.

        No word has more than ``longest`` characters; where that is not given they are counted.
        """
        embedded_WEC = self.embedding(self._without_idle_places(character_WC, longest)).transpose(1, 2)
        activate = torch.relu if self.activation == "relu" else torch.tanh
        maxima = [activate(convolution(embedded_WEC).amax(dim=2)) for convolution in self.convolutions]
        row_WD: Tensor = self.projection(self.highway(torch.cat(maxima, dim=1)))
        return row_WD

    def _without_idle_places(self, character_WC: Tensor, longest: int | None) -> Tensor:
        width = character_WC.shape[1]
        if width < self.widest:
            raise ValueError(f"words are padded to {width} characters, but the widest filter takes {self.widest}")
        if longest is None:
            held_C = (character_WC != self.pad_id).any(dim=0).nonzero()
            longest = int(held_C[-1]) + 1 if len(held_C) else 0
        return character_WC[:, : min(width, longest + self.widest)]


def grouped_words(character_BTC: Tensor) -> tuple[Tensor, Tensor]:
    """The W different words among (B, T) ones, and the row (B, T) of each: a word is then encoded once a batch."""
    character_WC, row_BT = torch.unique(character_BTC.flatten(0, 1), dim=0, return_inverse=True)
    return character_WC, row_BT.view(character_BTC.shape[:2])


def look_up(row_WD: Tensor, row_BT: Tensor) -> Tensor:
    """(B, T, D) rows by number, with a backward pass that adds up what a word's places say."""
    return F.embedding(row_BT, row_WD)


__all__ = ["CharCNN", "Highway", "grouped_words", "look_up"]
