"""Matching loss: whether a text and an image belong together.

M judged pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def matching_loss(logit_M: Tensor, label_M: Tensor) -> Tensor:
    """Binary cross-entropy; a label is 1 for a pair as the data has it, 0 for one that was put together.

    Returns:
        Scalar sum over the pairs, in nats, in float32 or wider; 0, with a gradient, where there are none.

    Source: Xu et al. 2022 (MAF), eq. 8; Shahmohammadi et al. 2021, the matching task.
    """
    wide_M = at_least_float32(logit_M)
    return F.binary_cross_entropy_with_logits(wide_M, label_M.to(wide_M), reduction="sum")
