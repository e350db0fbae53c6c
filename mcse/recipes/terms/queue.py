"""A queue of rows from a slowly following copy of the encoder, which are negatives of every query.

B rows of this process, N rows of all processes, Q rows in the queue, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcse.distributed import gather_rows
from mcse.losses.contrastive import unit_rows
from mcse.models.sentence_model import SentenceModel
from mcse.recipes.terms.config import Queue
from mcse.recipes.terms.views import Views
from mcse.types import PairBatch, TokenBatch
from mcse.types.batches import split_batch

_ROWS_AT_ONCE = 512
"""Sentences that the copy encodes at a time: without a gradient nothing is gained by more."""


class KeyQueue:
    """What resumes of it: the copy's weights and the rows that are kept.

    Before each batch the copy moves towards the encoder; its rows of the batch, without dropout and through the head
    that is trained, are kept after the loss has been taken, and the oldest are let go.

    Source: Wu et al. 2022 (ESimCSE).
    """

    def __init__(self, model: SentenceModel, config: Queue) -> None:
        self._model, self._config = model, config
        self._copy = copy.deepcopy(model.encoder).eval().requires_grad_(False)
        self._kept_QD = torch.zeros(0, 0)

    def take(self, views: Views) -> Tensor | None:
        """(Q, D) unit rows of batches before this one, none of the first; this batch's are kept for the next."""
        batch = views.batch
        tokens = batch.caption if isinstance(batch, PairBatch) else batch.query
        live = list(self._model.encoder.parameters())
        with torch.no_grad():
            self._copy.to(device=live[0].device, dtype=live[0].dtype)
            for kept, weight in zip(self._weights(), live, strict=True):
                kept.lerp_(weight, 1 - self._config.momentum)
            row_ND = gather_rows(self._encode(tokens))[0]
            before_QD = self._kept_QD.to(row_ND) if len(self._kept_QD) else row_ND[:0]
            self._kept_QD = torch.cat([before_QD, row_ND])[-self._config.size :]
        return before_QD if len(before_QD) else None

    def _weights(self) -> Sequence[Tensor]:
        return list(self._copy.parameters())

    def _encode(self, tokens: TokenBatch) -> Tensor:
        head = self._model.head
        parts = []
        for part in split_batch(tokens, _ROWS_AT_ONCE, narrows=False):
            pooled_BD = self._copy(part)
            parts.append(unit_rows(pooled_BD if head is None else head(pooled_BD)))
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        """The copy's weights in the order of its parameters, and the rows."""
        weights = {f"weight_{number}": weight for number, weight in enumerate(self._weights())}
        return {**weights, "rows": self._kept_QD}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` returned."""
        with torch.no_grad():
            for number, weight in enumerate(self._weights()):
                weight.copy_(state[f"weight_{number}"])
        self._kept_QD = state["rows"]
