"""Typed batches: what a stream hands to a step.

B examples a process, T tokens, F image feature width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Batch = TypeVar("Batch")

IGNORED_LABEL = -100
"""Label of a token that the masked-language-model loss leaves out (PyTorch's ``ignore_index``)."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids padded on the right to the longest row, and the mask that is 1 on real tokens."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor

    def __len__(self) -> int:
        return len(self.input_ids_BT)


@dataclass(frozen=True, slots=True)
class MaskedTokens:
    """Sentences with some tokens replaced; ``label_BT`` holds the original ids there, else ``IGNORED_LABEL``."""

    tokens: TokenBatch
    label_BT: Tensor


@dataclass(frozen=True, slots=True)
class SentenceBatch:
    """Sentences without pictures.

    ``positive`` absent: the positive is the query under another dropout mask. ``negative``: each query's contradiction.
    ``masked``: masked copies of every sentence of the batch, for the optional language-model term.
    """

    query: TokenBatch
    positive: TokenBatch | None = None
    negative: TokenBatch | None = None
    masked: MaskedTokens | None = None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Captions with their pictures: stored features ``image_BF``, or pixels (B, 3, height, width) for a live tower.

    ``image_id_B`` says which picture a row holds, so that two captions of one picture are not each other's negatives.
    """

    caption: TokenBatch
    image_BF: Tensor
    image_id_B: Tensor
    masked: MaskedTokens | None = None


@dataclass(frozen=True, slots=True)
class MatchBatch:
    """Captions with their pictures, and pairs of a caption and a picture that do not belong together."""

    true: PairBatch
    false: PairBatch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with every tensor on ``device``; nested dataclasses are followed, other values kept."""
    moved: Any = batch
    if isinstance(batch, Tensor):
        moved = batch.to(device, non_blocking=True)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {field.name: to_device(getattr(batch, field.name), device) for field in dataclasses.fields(batch)}
        moved = dataclasses.replace(batch, **fields)
    return cast(Batch, moved)
