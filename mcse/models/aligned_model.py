"""A grounded model with heads of their own for whether a sentence and an image match.

B examples a process, D text width, F image feature width, H joint width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from mcse.models.sentence_model import GroundedModel, GroundedRows, nothing_of
from mcse.nn.heads import ReluProjection
from mcse.types import PairBatch, SentenceBatch


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """What a grounded model gives, and on paired batches sentences and images in the space in which they match."""

    grounded: GroundedRows
    text_match_BH: Tensor | None = None
    image_match_BH: Tensor | None = None


class AlignedModel(nn.Module):
    """DALR: ``GroundedModel``, and a projection of sentences and one of images that a matching loss compares.

    Args:
        grounded: Sentences, images and the heads of their contrast.
        image_dim: F, width of the image features.
        match_dim: H, width of the space in which pairs match; ``None`` for no such space.

    Source: He et al. 2025 (DALR), whose projections also have batch norm, which these lack.
    """

    def __init__(self, grounded: GroundedModel, *, image_dim: int, match_dim: int | None) -> None:
        super().__init__()
        self.grounded = grounded
        self.text_match = self.image_match = None
        if match_dim is not None:
            self.text_match = ReluProjection(grounded.text.encoder.width, match_dim)
            self.image_match = ReluProjection(image_dim, match_dim)

    def forward(self, batch: SentenceBatch | PairBatch) -> AlignedRows:
        """Rows for the loss terms that this kind of batch has."""
        grounded: GroundedRows = self.grounded(batch)
        if self.text_match is None or self.image_match is None:
            return AlignedRows(grounded)
        if isinstance(batch, SentenceBatch):
            text = grounded.text
            touched = replace(text, query_BD=text.query_BD + nothing_of(self.text_match, self.image_match))
            return AlignedRows(replace(grounded, text=touched))
        return AlignedRows(
            grounded,
            text_match_BH=self.text_match(grounded.text.query_BD),
            image_match_BH=self.image_match(grounded.feature_BF),
        )
