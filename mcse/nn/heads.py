"""Projection heads: the small layers between an encoder's rows and a loss.

B rows, D input width, H output width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
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


class BatchNormHead(nn.Module):
    """Linear, batch norm, ReLU, linear, batch norm; linear layers without bias, the last norm without weights.

    Mean and variance are those of the rows that ``gather`` brings together, so that several processes normalise as one
    would with all their rows. No running statistics are kept: the head is for the loss alone, and is never evaluated.

    Args:
        width: D, of the rows that come in and go out; 2·D between the layers.
        gather: This process's rows → the rows of all processes with their graph, and the place where its own begin
            (``mcse.distributed.gather_rows``).
        init_std: Standard deviation of the normal weights (BERT: 0.02).

    Source: DiffCSE's ``ProjectionMLP`` (Chuang et al. 2022), whose batch norm is of one process.
    """

    def __init__(self, width: int, *, gather: Callable[[Tensor], tuple[Tensor, int]], init_std: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width, bias=False)
        self.scale = nn.Parameter(torch.ones(2 * width))
        self.shift = nn.Parameter(torch.zeros(2 * width))
        self.outer = nn.Linear(2 * width, width, bias=False)
        self._gather = gather
        for linear in (self.inner, self.outer):
            nn.init.normal_(linear.weight, std=init_std)

    def forward(self, row_BD: Tensor) -> Tensor:
        """(B, D) rows of mean 0 and variance 1 in each place, over the rows of all processes; B is 2 or more."""
        inner_BH = torch.relu(self._normal(self.inner(row_BD), self.scale, self.shift))
        return self._normal(self.outer(inner_BH))

    def _normal(self, row_BH: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        if row_BH.dtype in (torch.bfloat16, torch.float16):  # too coarse for sums over a batch
            row_BH = row_BH.float()
        row_NH, offset = self._gather(row_BH)
        normal_NH = F.batch_norm(row_NH, None, None, scale, shift, training=True)
        return normal_NH[offset : offset + len(row_BH)]


class BilinearHead(nn.Module):
    """Rows of a text and of an image whose product is the logit that they belong together.

    With t̂ and v̂ their rows at length √H: t̂ᵀ W v̂ / √H + c. All weights start at 0, so that every pair starts at a
    probability of one half, and a model with this head starts as one without it.

    Source: the matching of Xu et al. 2022 (MAF, eqs. 8 and 9). Their head sees both rows at once; a row of each side
    can be paired with rows of any process.

    Args:
        width: H, of both rows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, text_BH: Tensor, image_BH: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H + 1) rows of the texts, and of the images, of which the latter have no gradient in the weights."""
        scale = math.sqrt(text_BH.shape[1])
        t_BH, v_BH = (F.normalize(row_BH, dim=1) * scale for row_BH in (text_BH, image_BH))
        text_BK = torch.cat([t_BH @ self.weight / scale, self.bias.expand(len(t_BH), 1).to(t_BH)], dim=1)
        return text_BK, torch.cat([v_BH, torch.ones_like(v_BH[:, :1])], dim=1)


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
