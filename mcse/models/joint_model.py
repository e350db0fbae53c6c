"""One space for sentences and images: a caption encoder of any kind and a linear map of image features.

B pairs, D text width, F image feature width, H joint width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.config import BowConfig, CaptionEncoderConfig, JointConfig, TransformerConfig
from mcse.models.sentence_model import nothing_of
from mcse.models.text_encoder import TextEncoder
from mcse.models.text_loading import load_text_encoder
from mcse.nn.bow import BowEncoder
from mcse.nn.recurrent import RecurrentEncoder
from mcse.types import PairBatch, TokenBatch

CaptionEncoder: TypeAlias = RecurrentEncoder | BowEncoder | TextEncoder
"""What turns a ``TokenBatch`` into (B, D) rows and has a ``width``."""


@dataclass(frozen=True, slots=True)
class JointRows:
    """Captions and their images in the joint space, not normalised."""

    caption_BH: Tensor
    image_BH: Tensor


class JointModel(nn.Module):
    """Sentences and images as rows of one width; cosines between them are similarities.

    Args:
        text: The caption encoder. Its rows are H wide, or ``text_head`` makes them so.
        text_head: A linear map without bias, where widths differ.
        image_head: A linear map of the features; ``None`` takes them as they are.
        unit_features: Whether features are divided by their length first.
        feature_dropout: Share of them that is dropped while training.
        tower: Turns pixels into features inside the step; ``None`` reads stored features.
    """

    def __init__(
        self,
        text: CaptionEncoder,
        *,
        text_head: nn.Linear | None,
        image_head: nn.Linear | None,
        unit_features: bool = True,
        feature_dropout: float = 0.0,
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.text, self.text_head, self.image_head = text, text_head, image_head
        self.unit_features, self.tower = unit_features, tower
        self.feature_dropout = nn.Dropout(feature_dropout)

    @property
    def dim(self) -> int:
        """H."""
        return self.text.width if self.text_head is None else self.text_head.out_features

    @property
    def image_width(self) -> int:
        """F, of the features that it takes."""
        return self.dim if self.image_head is None else self.image_head.in_features

    def heads(self) -> dict[str, nn.Module]:
        """Those that there are, by name."""
        named = {"text_head": self.text_head, "image_head": self.image_head}
        return {name: head for name, head in named.items() if head is not None}

    def captions(self, tokens: TokenBatch) -> Tensor:
        """(B, H) rows, not normalised."""
        row_BD: Tensor = self.text(tokens)
        return row_BD if self.text_head is None else self.text_head(row_BD)

    def images(self, feature_BF: Tensor) -> Tensor:
        """(B, H) rows of stored features, not normalised."""
        feature_BF = F.normalize(feature_BF, dim=-1) if self.unit_features else feature_BF
        feature_BF = self.feature_dropout(feature_BF)
        return feature_BF if self.image_head is None else self.image_head(feature_BF)

    def forward(self, batch: PairBatch) -> JointRows:
        """Rows of both sides."""
        image_BF = batch.image_BF
        if self.tower is not None:
            # Some towers have parameters that their features do not pass through.
            image_BF = self.tower(image_BF) + nothing_of(self.tower)
        return JointRows(caption_BH=self.captions(batch.caption), image_BH=self.images(image_BF))


def build_caption_encoder(config: CaptionEncoderConfig, *, vocab_size: int, dim: int) -> CaptionEncoder:
    """A caption encoder with fresh weights, or the transformer of ``config.name_or_path`` with its own.

    Raises:
        ValueError: There is no such transformer.
    """
    if isinstance(config, TransformerConfig):
        return load_text_encoder(config.name_or_path, pooling=config.pooling)
    if isinstance(config, BowConfig):
        return BowEncoder(vocab_size, config.word_dim, dropout=config.dropout, init_range=config.init_range or 0.1)
    return RecurrentEncoder(
        vocab_size,
        config.word_dim,
        dim,
        cell=config.kind,
        layers=config.layers,
        dropout=config.dropout,
        init_range=config.init_range,
    )


def build_joint_model(
    text: CaptionEncoder, config: JointConfig, *, image_width: int, tower: nn.Module | None = None
) -> JointModel:
    """A caption encoder with fresh heads, drawn as Xavier's uniform, biases zero.

    Raises:
        ValueError: Features that are not mapped are not as wide as the space.
    """
    if config.image_map == "none" and image_width != config.dim:
        raise ValueError(
            f"joint.dim: {config.dim} must be {image_width}, the width of the image features, "
            "under joint.image_map none"
        )
    text_head = None if text.width == config.dim else nn.Linear(text.width, config.dim, bias=False)
    image_head = None
    if config.image_map != "none":
        image_head = nn.Linear(image_width, config.dim, bias=config.image_map == "linear")
    for head in (text_head, image_head):
        if head is not None:
            nn.init.xavier_uniform_(head.weight)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return JointModel(
        text,
        text_head=text_head,
        image_head=image_head,
        unit_features=config.unit_features,
        feature_dropout=config.feature_dropout,
        tower=tower,
    )
