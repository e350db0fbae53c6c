"""A linear-chain conditional random field: likelihood, best path, and the probability of a constraint.

B sentences, W words, K tags.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearChainCRF(nn.Module):
    """Scores of tag sequences: emissions, and weights of starts, transitions and ends.

    Forbidden starts and transitions have no probability, in training as in decoding, so gold must be valid. Sums run
    in float32 or wider.

    Args:
        may_follow_KK: Whether the column's tag may follow the row's.
        may_start_K: Whether a sentence may start with the tag.

    Source: Lafferty, McCallum and Pereira 2001; weights start uniform in ±0.1, as MAF's CRF does.
    """

    may_follow_KK: Tensor
    may_start_K: Tensor

    def __init__(self, may_follow_KK: Tensor, may_start_K: Tensor) -> None:
        super().__init__()
        num_tags = len(may_start_K)
        if may_follow_KK.shape != (num_tags, num_tags):
            raise ValueError(f"{num_tags} tags may start, but transitions have shape {tuple(may_follow_KK.shape)}")
        self.register_buffer("may_follow_KK", may_follow_KK.bool(), persistent=False)
        self.register_buffer("may_start_K", may_start_K.bool(), persistent=False)
        self.transition_KK = nn.Parameter(torch.empty(num_tags, num_tags).uniform_(-0.1, 0.1))
        self.start_K = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))
        self.end_K = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))

    def nll(self, emission_BWK: Tensor, tag_BW: Tensor, mask_BW: Tensor) -> Tensor:
        """(B,) negative log-likelihood of the tags, in nats.

        Args:
            emission_BWK: Scores of tags by word.
            tag_BW: Tag ids; any where masked.
            mask_BW: True on words; the first of every sentence must be one, and padding is on the right.
        """
        emission_BWK = _wide(emission_BWK)
        return self.log_partition(emission_BWK, mask_BW) - self._path_score(emission_BWK, tag_BW, mask_BW)

    def log_partition(self, emission_BWK: Tensor, mask_BW: Tensor) -> Tensor:
        """(B,) log of the sum over all valid tag sequences; -inf emissions leave a tag out."""
        emission_BWK = _wide(emission_BWK)
        start_K, transition_KK = self._weights(emission_BWK)
        alpha_BK = start_K + emission_BWK[:, 0]
        for word in range(1, emission_BWK.shape[1]):
            next_BK = torch.logsumexp(alpha_BK[:, :, None] + transition_KK, dim=1) + emission_BWK[:, word]
            alpha_BK = torch.where(mask_BW[:, word, None], next_BK, alpha_BK)
        return torch.logsumexp(alpha_BK + self.end_K, dim=1)

    @torch.no_grad()
    def decode(self, emission_BWK: Tensor, mask_BW: Tensor) -> Tensor:
        """(B, W) the tags of the most probable valid sequence (Viterbi); 0 where masked."""
        emission_BWK = _wide(emission_BWK)
        start_K, transition_KK = self._weights(emission_BWK)
        best_BK = start_K + emission_BWK[:, 0]
        came_from = []
        for word in range(1, emission_BWK.shape[1]):
            score_BK, before_BK = (best_BK[:, :, None] + transition_KK).max(dim=1)
            mask_B1 = mask_BW[:, word, None]
            best_BK = torch.where(mask_B1, score_BK + emission_BWK[:, word], best_BK)
            # Behind the last word every tag comes from itself, so that the way back starts at the last word.
            own_BK = torch.arange(best_BK.shape[1], device=best_BK.device).expand_as(before_BK)
            came_from.append(torch.where(mask_B1, before_BK, own_BK))
        tag_B = (best_BK + self.end_K).argmax(dim=1)
        path = [tag_B]
        for before_BK in reversed(came_from):
            tag_B = before_BK.gather(1, tag_B[:, None])[:, 0]
            path.append(tag_B)
        return torch.stack(path[::-1], dim=1) * mask_BW

    @torch.no_grad()
    def probability(self, emission_BWK: Tensor, mask_BW: Tensor, allowed_BWK: Tensor) -> Tensor:
        """(B,) in [0, 1]: that every word's tag is one of those allowed to it."""
        emission_BWK = _wide(emission_BWK)
        kept_BWK = emission_BWK.masked_fill(~allowed_BWK, -torch.inf)
        return (self.log_partition(kept_BWK, mask_BW) - self.log_partition(emission_BWK, mask_BW)).exp().clamp(max=1)

    def _path_score(self, emission_BWK: Tensor, tag_BW: Tensor, mask_BW: Tensor) -> Tensor:
        start_K, transition_KK = self._weights(emission_BWK)
        tag_BW = tag_BW.masked_fill(~mask_BW, 0)
        own_BW = emission_BWK.gather(2, tag_BW[..., None])[..., 0].masked_fill(~mask_BW, 0.0)
        moved_BV = transition_KK[tag_BW[:, :-1], tag_BW[:, 1:]].masked_fill(~mask_BW[:, 1:], 0.0)
        last_B = tag_BW.gather(1, mask_BW.sum(1, keepdim=True) - 1)[:, 0]
        return start_K[tag_BW[:, 0]] + own_BW.sum(1) + moved_BV.sum(1) + self.end_K[last_B]

    def _weights(self, emission_BWK: Tensor) -> tuple[Tensor, Tensor]:
        """Starts and transitions in the emissions' type, what is forbidden at -inf."""
        start_K = self.start_K.to(emission_BWK).masked_fill(~self.may_start_K, -torch.inf)
        return start_K, self.transition_KK.to(emission_BWK).masked_fill(~self.may_follow_KK, -torch.inf)


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()
