"""Losses for pairs with scores: the order of scores (CoSENT, AnglE), their value, and bounds on soft negatives.

P pairs, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mcse.losses.precision import at_least_float32


def cosent(similarity_P: Tensor, score_P: Tensor, *, scale: float = 20.0) -> Tensor:
    """How often a pair with a lower score is the more similar one: log(1 + Σ exp(scale · (s_p − s_q))), y_p < y_q.

    Use it where scores can be compared, but their value means nothing; with labels of 0 and 1, too.

    Args:
        similarity_P: Of the pairs of all processes, such as cosines.
        score_P: What people say; equal scores are not compared.
        scale: Multiplies differences of similarities; dimensionless, > 0 (published: 20).

    Returns:
        Scalar, one for all pairs together, in nats, in float32 or wider; 0, with a gradient of 0, where all scores are
        equal.

    Raises:
        ValueError: ``scale`` is not positive, or there are not as many scores as similarities.

    Source: Su 2022, CoSENT; Huang et al. 2024.
    """
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if similarity_P.shape != score_P.shape:
        raise ValueError(f"{len(similarity_P)} similarities but {len(score_P)} scores")
    scaled_P = scale * at_least_float32(similarity_P)
    is_wrong_PP = score_P[:, None] < score_P[None, :]
    difference_PP = (scaled_P[:, None] - scaled_P[None, :]).masked_fill(~is_wrong_PP, -torch.inf)
    return torch.logsumexp(torch.cat([difference_PP.flatten(), scaled_P.new_zeros(1)]), dim=0)


def angle_similarity(left_PD: Tensor, right_PD: Tensor) -> Tensor:
    """How similar the angles of pairs are: rows as complex numbers, their first half real and their second imaginary.

    The quotient of the two, as a whole row of length 1, is summed; its absolute value is the similarity. A row of odd
    width is taken with a 0 behind it. It is meant not to saturate where cosines do, near 1 and −1.

    Returns:
        (P,) similarities, in float32 or wider.

    Source: Li and Li 2024 (AnglE), eq. 6 to 8, and their released code, where the length is that of the row.
    """
    left, right = (F.pad(at_least_float32(row_PD), (0, row_PD.shape[1] % 2)) for row_PD in (left_PD, right_PD))
    (a, b), (c, d) = left.chunk(2, dim=1), right.chunk(2, dim=1)
    real, imaginary = a * c + b * d, b * c - a * d
    # The quotient is divided by the square of the right row's length, and then by the ratio of the two lengths.
    length_P = torch.linalg.vector_norm(left, dim=1) * torch.linalg.vector_norm(right, dim=1)
    quotient_P: Tensor = (real + imaginary).sum(1) / length_P.clamp_min(torch.finfo(left.dtype).tiny)
    return quotient_P.abs()


def cosine_regression(cosine_P: Tensor, target_P: Tensor) -> Tensor:
    """Squared distance of cosines from what they should be.

    Returns:
        Scalar sum over the pairs, in float32 or wider.

    Source: Reimers and Gurevych 2019, section 3 (regression objective).
    """
    return (at_least_float32(cosine_P) - target_P).square().sum()


def bounded_margin(positive_P: Tensor, negative_P: Tensor, *, lower: float, upper: float) -> Tensor:
    """Keeps a soft negative, such as a negation, less similar than the positive, by between ``lower`` and ``upper``.

    With Δ = cos(query, negative) − cos(query, positive) a pair costs max(0, Δ + lower) + max(0, −Δ − upper).

    Args:
        positive_P: Cosines of queries and positives.
        negative_P: Cosines of queries and soft negatives.
        lower: The least distance, in units of the cosine (published: 0.1).
        upper: The greatest (published: 0.3).

    Returns:
        Scalar sum over the pairs, in float32 or wider.

    Raises:
        ValueError: ``lower`` is not below ``upper``.

    Source: Wang et al. 2022 (SNCSE), eq. 6, the bidirectional margin loss.
    """
    if not lower < upper:
        raise ValueError(f"lower must be below upper, got {lower} and {upper}")
    difference_P = at_least_float32(negative_P) - at_least_float32(positive_P)
    return (F.relu(difference_P + lower) + F.relu(-difference_P - upper)).sum()
