"""Heads that predict whether a text and an image belong together: the published one, and one that can learn it.

B examples, W words, D width, H joint width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedMatching(nn.Module):
    """One linear layer over the words [T; C] of a whole tweet, laid side by side.

    This head cannot learn what it is trained for. Training swaps C, already computed, between examples i and j, so the
    logit is a(T_i) + b(C_j), and the sum of the logits over the swapped examples is the same before and after the
    swap. Positives and negatives therefore have one mean logit, and by Jensen's inequality the cross-entropy at a share
    q of swapped examples is at least the entropy of q: 0.562 nats at the published 16 of 64, which a constant
    probability 0.75 reaches. A nonlinear head on the same swap does learn, but from the text: C holds its words by the
    residual, so a swapped C carries another sentence.

    Args:
        width: D.
        positions: Most words of a tweet; the head has a weight for each place, and places without a word count 0.

    Source: Xu et al. 2022 (MAF), section 3.4, as released: its two softmax classes are this one logit.
    """

    def __init__(self, width: int, *, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.linear = nn.Linear(2 * width * positions, 1)

    def forward(
        self, word_BWD: Tensor, seen_BWD: Tensor, mask_BW: Tensor, *, partner_B: Tensor | None = None
    ) -> Tensor:
        """(B,) logits that text and image belong together.

        Args:
            word_BWD: T.
            seen_BWD: C of the same tweets, as attention gave it.
            mask_BW: 1 on words.
            partner_B: Whose C each tweet is matched with, its own by default. C keeps the places of its own words:
                masked by the receiver's, the lengths of two tweets would tell a swap.
        """
        word_BWD, seen_BWD = word_BWD * mask_BW[..., None], seen_BWD * mask_BW[..., None]
        both_BWD = torch.cat([word_BWD, seen_BWD if partner_B is None else seen_BWD[partner_B]], dim=2)
        if both_BWD.shape[1] > self.positions:
            raise ValueError(f"{both_BWD.shape[1]} words, but the matching head has {self.positions} places")
        padded = F.pad(both_BWD, (0, 0, 0, self.positions - both_BWD.shape[1]))
        logit_B: Tensor = self.linear(padded.flatten(1))[:, 0]
        return logit_B


class PairMatching(nn.Module):
    """An MLP on [t; v; t⊙v; |t−v|] of a text's and an image's own rows.

    The negatives are other tweets' images as they come, before any attention, so nothing but the image tells a
    negative. The products let it learn what no sum of a function of the text and one of the image can.

    Args:
        width: H of both rows; they are normalised, to entries of about 1.
        hidden: Of the MLP.
    """

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * width, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, text_BH: Tensor, image_BH: Tensor) -> Tensor:
        """(B,) logits that text and image belong together."""
        scale = math.sqrt(text_BH.shape[1])
        t, v = (F.normalize(row, dim=1) * scale for row in (text_BH, image_BH))
        logit_B: Tensor = self.out(F.relu(self.hidden(torch.cat([t, v, t * v, (t - v).abs()], dim=1))))[:, 0]
        return logit_B
