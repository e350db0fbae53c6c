"""A learnt mixture of a model's layers: γ · Σ_j softmax(w)_j · layer_j.

L layers, B sentences, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ScalarMix(nn.Module):
    """One weight a layer and one scale, the only numbers of a frozen ELMo that a task trains.

    Args:
        layers: L.
        layer_norm: Whether each layer is first brought to mean 0 and variance 1 over all real tokens and dimensions of
            the batch; rows then depend on the batch.
        layer: Fixes the mixture to this one layer; only γ is then trained.

    Source: Peters et al. 2018, equation 1 and section 3.3; w = 0 and γ = 1 at the start.
    """

    def __init__(self, layers: int, *, layer_norm: bool = False, layer: int | None = None) -> None:
        super().__init__()
        if layer is not None and not 0 <= layer < layers:
            raise ValueError(f"layer: there are layers 0 to {layers - 1}, not {layer}")
        self.layer_norm, self.layer = layer_norm, layer
        self.weight_L = nn.Parameter(torch.zeros(layers), requires_grad=layer is None)
        self.gamma = nn.Parameter(torch.ones(()))

    @property
    def shares(self) -> Tensor:
        """(L,) shares of the layers, which sum to 1."""
        if self.layer is not None:
            return torch.nn.functional.one_hot(torch.tensor(self.layer), len(self.weight_L)).to(self.weight_L)
        return torch.softmax(self.weight_L, dim=0)

    def forward(self, layer_BTD: Sequence[Tensor], mask_BT: Tensor) -> Tensor:
        """(B, T, D), from L layers and the mask that is 1 on real tokens; the mask matters to ``layer_norm`` alone."""
        if len(layer_BTD) != len(self.weight_L):
            raise ValueError(f"a mixture of {len(self.weight_L)} layers was given {len(layer_BTD)}")
        if self.layer_norm:
            layer_BTD = [_normalised(layer, mask_BT) for layer in layer_BTD]
        mixed = torch.stack([share * layer for share, layer in zip(self.shares, layer_BTD, strict=True)]).sum(dim=0)
        return self.gamma * mixed

    def penalty(self) -> Tensor:
        """Σ w², for the L2 term that pulls the mixture to the plain mean of the layers."""
        return self.weight_L.square().sum()


def _normalised(layer_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    mask_BT1 = mask_BT.unsqueeze(-1).to(layer_BTD)
    count = mask_BT1.sum() * layer_BTD.shape[-1]
    mean = (layer_BTD * mask_BT1).sum() / count
    variance = ((layer_BTD - mean) * mask_BT1).square().sum() / count
    return (layer_BTD - mean) / (variance + 1e-12).sqrt()
