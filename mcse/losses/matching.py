"""Matching pairs become similar, others stay below a margin.

B pairs of this process, H width.
"""

from __future__ import annotations

from torch import Tensor

from mcse.losses.precision import at_least_float32


def cosine_embedding(
    left_BH: Tensor, right_BH: Tensor, wrong_BH: Tensor, is_wrong_B: Tensor, *, margin: float
) -> Tensor:
    """Σ (1 − cos of a pair) + Σ max(0, cos of a wrong pair − margin).

    Args:
        left_BH: Unit rows.
        right_BH: Unit rows that match them.
        wrong_BH: Unit rows that do not.
        is_wrong_B: False where ``wrong_BH`` matches after all, such as another copy of the same image.
        margin: Cosine up to which a wrong pair costs nothing (DALR: 0.2).

    Returns:
        Scalar sum over the B pairs, in float32 or wider.

    Source: PyTorch's ``CosineEmbeddingLoss``, with pairs and wrong pairs in one call.
    """
    left_BH = at_least_float32(left_BH)
    right_B = (left_BH * at_least_float32(right_BH)).sum(1)
    wrong_B = (left_BH * at_least_float32(wrong_BH)).sum(1)
    return (1 - right_B).sum() + ((wrong_B - margin).clamp(min=0) * is_wrong_B).sum()
