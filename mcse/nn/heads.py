"""Projection heads: the small layers between an encoder's rows and a loss.

B rows, D input width, H output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TanhHead(nn.Module):
    """One linear layer and a tanh.

    Args:
        in_dim: Width of the rows that come in.
        out_dim: Width of the rows that go out.
        init_std: Standard deviation of the normal weights, biases zero (BERT: 0.02); ``None`` keeps PyTorch's uniform
            initialisation, as MCSE's grounding and image heads do.

    Source: SimCSE's MLP layer (Gao et al. 2021, section 6.3) and MCSE's projection heads (Zhang et al. 2022, eq. 2).
    """

    def __init__(self, in_dim: int, out_dim: int, *, init_std: float | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        if init_std is not None:
            nn.init.normal_(self.linear.weight, std=init_std)
            nn.init.zeros_(self.linear.bias)

    def forward(self, row_BD: Tensor) -> Tensor:
        """(B, H) rows in (-1, 1)."""
        return torch.tanh(self.linear(row_BD))


class ReluProjection(nn.Module):
    """Two linear layers with a ReLU between them.

    Args:
        in_dim: Width of the rows that come in.
        out_dim: Width of the rows that go out, and between the layers.

    Source: MAF's projections of a text and of an image into their joint space (Xu et al. 2022, section 3.2).
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(in_dim, out_dim)
        self.outer = nn.Linear(out_dim, out_dim)

    def forward(self, row_BD: Tensor) -> Tensor:
        """(B, H) rows, not normalised."""
        projected_BH: Tensor = self.outer(torch.relu(self.inner(row_BD)))
        return projected_BH
