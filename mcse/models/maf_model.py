"""MAF's tagger: word rows of any Hugging Face encoder, an image's regions, how far the two match, and a CRF on top.

B tweets, T tokens, W words, D width, R regions, F region width, H joint width (= D), K tags, M matched pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.config import ImageRow, Matching
from mcse.models.text_encoder import TextEncoder
from mcse.nn.attention import CrossAttention
from mcse.nn.crf import LinearChainCRF
from mcse.nn.heads import ReluProjection
from mcse.nn.match_head import PairMatching, PublishedMatching
from mcse.nn.pooling import pool
from mcse.text.tags import TagSet
from mcse.types import TweetBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerShape:
    """What decides the weights of a tagger beside its encoder; stored in its checkpoint.

    Attributes:
        types: Entity types.
        regions: R; 0 for a tagger that reads no images.
        region_width: F.
        matching: ``corrected`` judges from the texts' and images' own rows, ``published`` as released (which cannot
            learn, see ``PublishedMatching``), ``none`` takes every image as it comes.
        alignment: Whether there are projections for the contrastive term; ``corrected`` matching has them in any case.
        heads: Of the cross-attention.
        dropout: On the encoder's word rows and in the cross-attention.
        positions: Tokens of the longest input, special ones included.
        pooling: Of the text's own row.
        match_threshold: An image of a lower match is left out altogether. A match that only scales cannot do that:
            where a share of training's own pairs do not belong together, a wrong image's match tends to that share.
        image_row: How the image's own row comes from its regions, see ``TaggerConfig``.
    """

    types: tuple[str, ...]
    regions: int
    region_width: int
    matching: Matching
    alignment: bool
    heads: int
    dropout: float
    positions: int
    pooling: str = "cls"
    match_threshold: float = 0.0
    image_row: ImageRow = "project_mean"


@dataclass(frozen=True, slots=True)
class TweetRows:
    """What the model makes of a batch.

    ``emission_BWK`` are the CRF's emissions, ``nll_B`` each tweet's negative log-likelihood. ``text_BH`` and
    ``image_BH`` are not normalised; rows of tweets without an image mean nothing. ``match_B`` is the probability that
    scaled the image's part, also where it was too low to count. ``match_logit_M`` and ``match_label_M`` are the
    pairs of the matching loss.
    """

    emission_BWK: Tensor
    nll_B: Tensor
    text_BH: Tensor | None = None
    image_BH: Tensor | None = None
    match_B: Tensor | None = None
    match_logit_M: Tensor | None = None
    match_label_M: Tensor | None = None


class TaggerModel(nn.Module):
    """Text [and image] to emissions. Without regions it is an encoder, one linear layer and a CRF.

    A tweet without an image gets match 0, so that its image part is zero: the text-only fall-back.

    Args:
        encoder: The text tower; its pooling gives the text's own row, [CLS] as published, for alignment and matching.
        shape: Everything else.
        tower: Turns pixels into regions inside the step, an ``ImageTower`` or a ``FrozenTower``; ``None`` reads stored
            regions.
        tag_on_swapped: Whether a swapped tweet is also tagged with its partner's image, as the released code does.
        image_dropout: Share of training's tweets that are tagged without their image. Where images tell nearly
            everything, the words learn next to nothing, and a tweet whose image is left out is tagged badly.

    Source: Xu, Huang, Sha and Wang 2022, "MAF: A General Matching and Alignment Framework for Multimodal Named Entity
    Recognition", WSDM. Departures: the CRF runs over words, not word pieces; no labels X, [CLS] and [SEP]; matching
    ``corrected``; images enter through a tower in evaluation mode.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        shape: TaggerShape,
        tower: nn.Module | None = None,
        tag_on_swapped: bool = False,
        image_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = encoder.width
        tags = TagSet(shape.types)
        self.encoder, self.shape, self.tower, self.tag_on_swapped = encoder, shape, tower, tag_on_swapped
        self.image = TweetImageSide(width, shape=shape, image_dropout=image_dropout) if shape.regions else None
        self.classifier = nn.Linear(width * (2 if self.image is not None else 1), len(tags))
        self.crf = LinearChainCRF(torch.from_numpy(tags.may_follow()), torch.from_numpy(tags.may_start()))
        for module in (self.image, self.classifier):
            if module is not None:
                module.apply(lambda layer: _initialise(layer, std=encoder.init_std))

    def forward(self, batch: TweetBatch) -> TweetRows:
        """Emissions and likelihoods; with images also what the alignment and matching losses need."""
        token_BTD = self.encoder.token_rows(batch.tokens)
        index_BWD = batch.first_BW[..., None].expand(-1, -1, token_BTD.shape[2])
        word_BWD = F.dropout(token_BTD, self.shape.dropout, self.training).gather(1, index_BWD)
        if self.image is None:
            emission_BWK = self.classifier(word_BWD)
            return TweetRows(emission_BWK, self.crf.nll(emission_BWK, batch.tag_BW, batch.word_mask_BW))
        text_BD = pool((token_BTD,), batch.tokens.attention_mask_BT, pooling=self.encoder.pooling)
        seen = self.image(text_BD, word_BWD, self._regions(batch), batch=batch, tag_on_swapped=self.tag_on_swapped)
        emission_BWK = self.classifier(torch.cat([word_BWD, seen.part_BWD], dim=2))
        return TweetRows(
            emission_BWK,
            self.crf.nll(emission_BWK, batch.tag_BW, batch.word_mask_BW),
            text_BH=seen.text_BH,
            image_BH=seen.image_BH,
            match_B=seen.match_B,
            match_logit_M=seen.match_logit_M,
            match_label_M=seen.match_label_M,
        )

    def _regions(self, batch: TweetBatch) -> Tensor:
        if batch.image_BF is None:
            raise ValueError("this tagger reads images: give images, None for a text that has none")
        # Two dimensions are regions already, such as the blank rows of texts without an image.
        is_stored = self.tower is None or batch.image_BF.ndim == 2
        image_BF = batch.image_BF if is_stored or self.tower is None else self.tower(batch.image_BF)
        if image_BF.shape[1] != self.shape.regions * self.shape.region_width:
            raise ValueError(
                f"image rows are {image_BF.shape[1]} wide, but this tagger reads {self.shape.regions} regions of "
                f"{self.shape.region_width}"
            )
        region_BRF: Tensor = image_BF.unflatten(1, (self.shape.regions, self.shape.region_width))
        return region_BRF


@dataclass(frozen=True, slots=True)
class _Seen:
    part_BWD: Tensor
    match_B: Tensor
    text_BH: Tensor | None
    image_BH: Tensor | None
    match_logit_M: Tensor | None
    match_label_M: Tensor | None


class TweetImageSide(nn.Module):
    """Alignment, interaction, matching and gated fusion: everything of MAF that an image passes through.

    Regions are first centred by ``mean_F`` and divided by ``scale_F``, which are 0 and 1 until ``standardise`` sets
    them: features whose constant part is large (pixels, or what stands behind a ReLU) give nearly one direction for
    all images, from which cosines learn slowly.
    """

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, width: int, *, shape: TaggerShape, image_dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.image_dropout = shape, image_dropout
        self.register_buffer("mean_F", torch.zeros(shape.region_width))
        self.register_buffer("scale_F", torch.ones(shape.region_width))
        self.region = nn.Linear(shape.region_width, width)
        self.interaction = CrossAttention(width, heads=shape.heads, dropout=shape.dropout)
        self.text_gate, self.image_gate = nn.Linear(width, width), nn.Linear(width, width)
        projects = shape.alignment or shape.matching == "corrected"
        self.text_projection = ReluProjection(width, width) if projects else None
        self.image_projection = ReluProjection(shape.region_width, width) if projects else None
        self.pair_matching = PairMatching(width, hidden=width) if shape.matching == "corrected" else None
        self.flat_matching = (
            PublishedMatching(width, positions=shape.positions) if shape.matching == "published" else None
        )

    def standardise(self, region_NF: Tensor) -> None:
        """Takes mean and standard deviation from sample regions; a feature that never varies is only centred."""
        std_F = region_NF.double().std(0)
        self.mean_F.copy_(region_NF.double().mean(0))
        self.scale_F.copy_(torch.where(std_F > 1e-6, std_F, torch.ones_like(std_F)))

    def forward(
        self, text_BD: Tensor, word_BWD: Tensor, region_BRF: Tensor, *, batch: TweetBatch, tag_on_swapped: bool
    ) -> _Seen:
        """The image's part of every word's row, and the rows and logits of the two losses.

        ``corrected`` exchanges the images themselves, ``published`` what the attention made of them.
        """
        has_B, partner_B = batch.has_image_B, batch.partner_B
        shown_M, swapped_M = batch.places()
        region_BRF = (region_BRF - self.mean_F) / self.scale_F
        text_BH = self.text_projection(text_BD) if self.text_projection is not None else None
        image_BH = self._image_row(region_BRF)
        region_BRD = self.region(region_BRF)
        shown_BRD = region_BRD
        if self.pair_matching is not None and tag_on_swapped:
            shown_BRD = region_BRD[partner_B]
        seen_BWD = self.interaction(word_BWD, shown_BRD)
        logit_M, label_M = None, None
        match_B = has_B.to(seen_BWD)
        if self.pair_matching is not None:
            assert text_BH is not None
            assert image_BH is not None
            true_B = self.pair_matching(text_BH, image_BH)
            other_B = self.pair_matching(text_BH, image_BH[partner_B])
            logit_M = torch.cat([true_B[shown_M], other_B[swapped_M]])
            label_M = torch.cat([torch.ones_like(true_B[shown_M]), torch.zeros_like(other_B[swapped_M])])
            match_B = match_B * torch.sigmoid(other_B if tag_on_swapped else true_B)
        elif self.flat_matching is not None:
            judged_B = self.flat_matching(word_BWD, seen_BWD, batch.word_mask_BW, partner_B=partner_B)
            logit_M = judged_B[shown_M]
            label_M = torch.ones_like(judged_B).index_fill(0, swapped_M, 0.0)[shown_M]
            if tag_on_swapped:
                seen_BWD, logit_B = seen_BWD[partner_B], judged_B
            else:
                logit_B = self.flat_matching(word_BWD, seen_BWD, batch.word_mask_BW)
            match_B = match_B * torch.sigmoid(logit_B)
        kept_B = match_B * (match_B >= self.shape.match_threshold)
        if self.training and self.image_dropout:
            kept_B = kept_B * (torch.rand_like(kept_B) >= self.image_dropout)
        part_BWD = kept_B[:, None, None] * seen_BWD
        gate_BWD = torch.sigmoid(self.text_gate(word_BWD) + self.image_gate(part_BWD))
        return _Seen(gate_BWD * part_BWD, match_B, text_BH, image_BH, logit_M, label_M)

    def _image_row(self, region_BRF: Tensor) -> Tensor | None:
        if self.image_projection is None:
            return None
        if self.shape.image_row == "mean_projected":
            projected_BRH: Tensor = self.image_projection(region_BRF)
            return projected_BRH.mean(1)
        image_BH: Tensor = self.image_projection(region_BRF.mean(1))
        return image_BH


def _initialise(module: nn.Module, *, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
