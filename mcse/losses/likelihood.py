"""Likelihood losses over tokens.

M predicted tokens, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def token_nll(logit_MV: Tensor, label_M: Tensor, *, ignored: int) -> Tensor:
    """Negative log-likelihood of the labels.

    Returns:
        Scalar sum over the labels other than ``ignored``, in nats, in float32.
    """
    return F.cross_entropy(logit_MV.float(), label_M, ignore_index=ignored, reduction="sum")
