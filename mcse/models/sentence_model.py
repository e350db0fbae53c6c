"""Trainable models of SimCSE and MCSE: a text tower with its heads, and beside it an image side.

B examples a process, V views of a sentence, T tokens, D text width, F image feature width, H joint width, M masked
tokens, W vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mcse.models.text_encoder import TextEncoder
from mcse.nn.heads import BilinearHead, TanhHead
from mcse.types import MaskedTokens, PairBatch, SentenceBatch
from mcse.types.batches import concatenate


@dataclass(frozen=True, slots=True)
class SentenceRows:
    """What the text side makes of a batch; rows are not normalised.

    ``pooled`` are the encoder's rows of the query's views before any head, ``query``, ``positive`` and ``negative``
    those after the text head. ``mlm_logit_MW`` and ``mlm_label_M`` are given where the batch carries masked copies,
    ``clean_BD``, the query without dropout after the text head, where the model makes it.
    """

    pooled_query_BD: Tensor
    pooled_positive_BD: Tensor
    query_BD: Tensor
    positive_BD: Tensor
    negative_BD: Tensor | None
    mlm_logit_MW: Tensor | None
    mlm_label_M: Tensor | None
    clean_BD: Tensor | None = None


class SentenceModel(nn.Module):
    """SimCSE: a text encoder and the head that only the training loss sees.

    Args:
        encoder: The text tower.
        head: Applied to pooled rows for the loss; ``None`` compares the pooled rows themselves.
        mlm_head: Token rows to vocabulary logits, for the optional masked-language-model term.
        clean_view: Whether queries also pass without dropout, with their gradient.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        head: TanhHead | None,
        mlm_head: nn.Module | None = None,
        clean_view: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.mlm_head = encoder, head, mlm_head
        self.clean_view = clean_view

    def forward(self, batch: SentenceBatch) -> SentenceRows:
        """One forward over all views at once: a missing positive is the query again, under another dropout mask."""
        views = [batch.query, batch.query if batch.positive is None else batch.positive]
        views += [] if batch.negative is None else [batch.negative]
        pooled_BVD = self.encoder(concatenate(views)).unflatten(0, (len(views), -1)).unbind(0)
        headed = [self._headed(pooled_BD) for pooled_BD in pooled_BVD]
        logit_MW, label_M = self._mlm(batch.masked)
        return SentenceRows(
            pooled_query_BD=pooled_BVD[0],
            pooled_positive_BD=pooled_BVD[1],
            query_BD=headed[0],
            positive_BD=headed[1],
            negative_BD=headed[2] if batch.negative is not None else None,
            mlm_logit_MW=logit_MW,
            mlm_label_M=label_M,
            clean_BD=self._clean(batch) if self.clean_view else None,
        )

    def _headed(self, pooled_BD: Tensor) -> Tensor:
        return pooled_BD if self.head is None else self.head(pooled_BD)

    def _clean(self, batch: SentenceBatch) -> Tensor:
        """The queries without dropout; attention drops out by the mode of its own module, so that modes are changed."""
        was_training = [(module, module.training) for module in self.encoder.modules()]
        self.encoder.eval()
        try:
            return self._headed(self.encoder(batch.query))
        finally:
            for module, mode in was_training:
                module.training = mode

    def _mlm(self, masked: MaskedTokens | None) -> tuple[Tensor | None, Tensor | None]:
        if masked is None or self.mlm_head is None:
            return None, None
        token_BTD = self.encoder.token_rows(masked.tokens)
        # Only the masked positions pass through the vocabulary-wide matrix.
        chosen_M = masked.chosen()
        return self.mlm_head(token_BTD.flatten(0, 1)[chosen_M]), masked.label_BT.flatten()[chosen_M]


@dataclass(frozen=True, slots=True)
class GroundedRows:
    """Text rows, and on paired batches both views of the captions and the images in the joint space.

    ``feature_BF`` are the images before their head, ``caption_BH`` a teacher's rows of the captions in the joint space,
    where the model has a head for them. Products of ``text_match_BK`` and ``image_match_BK`` are logits that a caption
    and an image belong together, where the model judges that.
    """

    text: SentenceRows
    grounded_query_BH: Tensor | None
    grounded_positive_BH: Tensor | None
    image_BH: Tensor | None
    feature_BF: Tensor | None = None
    caption_BH: Tensor | None = None
    text_match_BK: Tensor | None = None
    image_match_BK: Tensor | None = None


class GroundedModel(nn.Module):
    """MCSE: ``SentenceModel`` with a grounding head on the pooled rows and an image head on features.

    Args:
        text: The text side.
        image_dim: F, width of the image features.
        joint_dim: H, width of the joint space (published: 256).
        tower: Turns pixels into features inside the step: an ``ImageTower`` to train, or a ``FrozenTower``; ``None``
            reads stored features.
        teacher_dim: Width of a teacher's rows of captions, which then have a head of their own.
        judges: Whether a head judges which captions and images belong together. It reads rows of the joint space and
            sends no gradient back into it.
    """

    def __init__(
        self,
        text: SentenceModel,
        *,
        image_dim: int,
        joint_dim: int = 256,
        tower: nn.Module | None = None,
        teacher_dim: int | None = None,
        judges: bool = False,
    ) -> None:
        super().__init__()
        self.text = text
        self.grounding_head = TanhHead(text.encoder.width, joint_dim)
        self.image_head = TanhHead(image_dim, joint_dim)
        self.caption_head = None if teacher_dim is None else TanhHead(teacher_dim, joint_dim)
        self.match_head = BilinearHead(joint_dim) if judges else None
        self.tower = tower

    def forward(self, batch: SentenceBatch | PairBatch) -> GroundedRows:
        """Rows for the loss terms that this kind of batch has."""
        if isinstance(batch, SentenceBatch):
            return GroundedRows(self._touch_heads(self.text(batch)), None, None, None)
        rows = self.text(SentenceBatch(query=batch.caption, positive=batch.positive, masked=batch.masked))
        taught_BF = None if batch.teacher_BF is None else batch.teacher_BF.to(batch.image_BF.dtype)
        image_BF = batch.image_BF
        if self.tower is not None:
            # Some towers have parameters that their features do not pass through.
            image_BF = self.tower(image_BF) + nothing_of(self.tower)
        grounded_BH, image_BH = self.grounding_head(rows.pooled_query_BD), self.image_head(image_BF)
        judged: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.match_head is not None:
            judged = self.match_head(grounded_BH.detach(), image_BH.detach())
        return GroundedRows(
            text=rows,
            grounded_query_BH=grounded_BH,
            grounded_positive_BH=self.grounding_head(rows.pooled_positive_BD),
            image_BH=image_BH,
            feature_BF=image_BF,
            caption_BH=None if self.caption_head is None else self.caption_head(taught_BF),
            text_match_BK=judged[0],
            image_match_BK=judged[1],
        )

    def _touch_heads(self, rows: SentenceRows) -> SentenceRows:
        """The same rows, with the image side in the graph at weight zero.

        A text-only step would otherwise leave parameters without a gradient, which DDP refuses unless it searches the
        graph on every step, and which would make AdamW skip them; the original's zeroed gradients let their momentum
        run on, and so do these.
        """
        nothing = nothing_of(*(part for name, part in self.named_children() if name != "text"))
        return replace(rows, query_BD=rows.query_BD + nothing)


def nothing_of(*modules: nn.Module) -> Tensor | float:
    """0, on which every parameter that trains depends."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.stack([p.flatten()[0].float() for p in parameters]).sum() * 0.0 if parameters else 0.0
