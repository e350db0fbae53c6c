"""The precision of losses."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64: bf16 is too coarse for a sum, and for cosines over 0.05."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
