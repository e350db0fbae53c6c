"""Softmax over a sample of the vocabulary, for training where the whole one would cost too much.

M predicted words, S sampled words, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_uniform_probability(id_: Tensor, *, size: int) -> Tensor:
    """P(k) = log((k + 2) / (k + 1)) / log(V + 1), for ids from the most frequent word, 0, to the rarest, V - 1."""
    k = id_.double()
    return torch.log1p(1 / (k + 1)) / math.log(size + 1)


def log_expected_count(id_: Tensor, *, size: int, draws: int) -> Tensor:
    """log(1 - (1 - P(k))^draws): how often a word is among the different ones that so many draws gave, expected."""
    missed = torch.log1p(-log_uniform_probability(id_, size=size)) * draws
    return torch.log(-torch.expm1(missed))


def sampled_softmax_nll(
    true_logit_M: Tensor, negative_logit_MS: Tensor, *, label_M: Tensor, negative_S: Tensor, size: int, draws: int
) -> Tensor:
    """Negative log-likelihood of each label among itself and the sampled words.

    A word is sampled the oftener the more frequent it is, so its logit is lowered by the log of its expected count; a
    sampled word that is the label itself is left out.

    Args:
        true_logit_M: Of the labels.
        negative_logit_MS: Of the sampled words.
        label_M: Ids, by falling frequency.
        negative_S: Ids of the sampled words, all different.
        size: V.
        draws: How many draws with repetition gave them.

    Returns:
        Scalar sum, in nats, in float32 or wider.

    Source: Jean et al. 2015; log-uniform candidates as in the code that trained ELMo.
    """
    kind = true_logit_M.dtype if true_logit_M.dtype == torch.float64 else torch.float32
    true_M1 = true_logit_M.to(kind) - log_expected_count(label_M, size=size, draws=draws).to(kind)
    negative_MS = negative_logit_MS.to(kind) - log_expected_count(negative_S, size=size, draws=draws).to(kind)
    negative_MS = negative_MS.masked_fill(label_M[:, None] == negative_S[None], -math.inf)
    logit_M1S = torch.cat([true_M1[:, None], negative_MS], dim=1)
    return F.cross_entropy(logit_M1S, torch.zeros_like(label_M), reduction="sum")
