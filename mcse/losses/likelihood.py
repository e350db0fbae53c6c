"""Likelihood losses over tokens.

M predicted tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_nll(logit_MV: Tensor, label_M: Tensor, *, ignored: int) -> Tensor:
    """Negative log-likelihood of the labels.

    Returns:
        Scalar sum over the labels other than ``ignored``, in nats, in float32 or wider.
    """
    logit_MV = logit_MV if logit_MV.dtype == torch.float64 else logit_MV.float()
    return F.cross_entropy(logit_MV, label_M, ignore_index=ignored, reduction="sum")
