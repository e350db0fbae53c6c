"""A loss of visually grounded word vectors: how far may they move from where they were.

V words, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def cosine_retention(tuned_VD: Tensor, original_VD: Tensor, *, beta: float) -> Tensor:
    """How far each word's tuned vector is from having the cosine ``beta`` with its original one.

    Args:
        tuned_VD: Vectors as they are now.
        original_VD: As they were loaded.
        beta: The wanted cosine in [0, 1]; 1 keeps vectors where they were.

    Returns:
        Scalar Σ |beta - cos| over the words, in [0, 2 V].

    Raises:
        ValueError: ``beta`` lies outside [0, 1].

    Source: R(α, β) of Shahmohammadi et al. 2021; α / V is the caller's weight and count.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    cosine_V = F.cosine_similarity(at_least_float32(tuned_VD), at_least_float32(original_VD), dim=-1)
    return (beta - cosine_V).abs().sum()
