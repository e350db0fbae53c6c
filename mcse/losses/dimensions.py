"""Contrast between dimensions in place of sentences.

N rows of all processes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32

_EPSILON = 1e-5
"""Added to variances, as ``BatchNorm1d`` does."""


def dimension_contrast(view_ND: Tensor, other_ND: Tensor, *, temperature: float) -> Tensor:
    """Each dimension of one view must find itself among those of the other, by their correlation over the batch.

    Both views are standardised per dimension; C = Zᵀ Z' / N; the mean over d of −C_dd/τ + log Σ_d' exp(C_dd'/τ).

    Args:
        view_ND: Rows of the whole batch, of all processes: statistics of a part of it are others.
        other_ND: The same sentences under other dropout.
        temperature: Divides correlations (SimCSE++: 5 beside negatives without dropout, 10 by itself).

    Returns:
        A scalar in nats, one for the whole batch.

    Source: Xu et al. 2023 (SimCSE++).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    view_ND, other_ND = _standardised(view_ND), _standardised(other_ND)
    with torch.autocast(view_ND.device.type, enabled=False):
        correlation_DD = view_ND.T @ other_ND / len(view_ND)
    target_D = torch.arange(len(correlation_DD), device=correlation_DD.device)
    return F.cross_entropy(correlation_DD / temperature, target_D)


def _standardised(row_ND: Tensor) -> Tensor:
    row_ND = at_least_float32(row_ND)
    centred_ND = row_ND - row_ND.mean(0)
    return centred_ND / (centred_ND.square().mean(0) + _EPSILON).sqrt()
