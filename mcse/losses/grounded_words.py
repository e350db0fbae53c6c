"""Losses of visually grounded word vectors: does a picture belong to a caption, and how far may vectors move.

P pairs, V words, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def match_nll(logit_P: Tensor, label_P: Tensor) -> Tensor:
    """Binary cross-entropy of "these belong together" (label 1) against "they do not" (0).

    Returns:
        Scalar sum over the pairs, in nats, in float32 or wider.
    """
    logit_P = logit_P if logit_P.dtype == torch.float64 else logit_P.float()
    return F.binary_cross_entropy_with_logits(logit_P, label_P.to(logit_P.dtype), reduction="sum")


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
    cosine_V = F.cosine_similarity(_wide(tuned_VD), _wide(original_VD), dim=-1)
    return (beta - cosine_V).abs().sum()


def _wide(row_VD: Tensor) -> Tensor:
    return row_VD if row_VD.dtype == torch.float64 else row_VD.float()
