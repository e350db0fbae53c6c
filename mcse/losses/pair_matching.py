"""Matching loss: whether a text and an image belong together.

M matched pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def matching_loss(logit_M: Tensor, label_M: Tensor, *, is_judged_M: Tensor | None = None) -> Tensor:
    """Binary cross-entropy; a label is 1 for a pair as the data has it, 0 for one that was put together.

    ``is_judged_M`` is false at pairs that do not count.

    Returns:
        Scalar sum over the pairs, in nats, in float32 or wider; 0, with a gradient, where there are none.

    Source: Xu et al. 2022 (MAF), eq. 8; Shahmohammadi et al. 2021, the matching task.
    """
    wide_M = at_least_float32(logit_M)
    if is_judged_M is None:
        return F.binary_cross_entropy_with_logits(wide_M, label_M.to(wide_M), reduction="sum")
    loss_M = F.binary_cross_entropy_with_logits(wide_M, label_M.to(wide_M), reduction="none")
    return loss_M.masked_fill(~is_judged_M, 0.0).sum()
