"""Likelihood losses over tokens.

M predicted tokens, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def nll_of_each(logit_MV: Tensor, label_M: Tensor) -> Tensor:
    """(M,) negative log-likelihood of each label, in nats, in float32 or wider."""
    return F.cross_entropy(at_least_float32(logit_MV), label_M, reduction="none")


def token_nll(logit_MV: Tensor, label_M: Tensor, *, ignored: int) -> Tensor:
    """Negative log-likelihood of the labels.

    Returns:
        Scalar sum over the labels other than ``ignored``, in nats, in float32 or wider.
    """
    return F.cross_entropy(at_least_float32(logit_MV), label_M, ignore_index=ignored, reduction="sum")
