"""Typed batches: what a stream hands to a step.

B examples a process, T tokens, F image feature width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
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
    """Sentences without images.

    ``positive`` absent: the positive is the query under another dropout mask. ``negative``: each query's contradiction.
    ``masked``: masked copies of every sentence of the batch, for the optional language-model term.
    """

    query: TokenBatch
    positive: TokenBatch | None = None
    negative: TokenBatch | None = None
    masked: MaskedTokens | None = None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Captions with their images: stored features ``image_BF``, or pixels (B, 3, height, width) for a live tower.

    ``image_id_B`` says which image a row holds, so that two captions of one image are not each other's negatives.
    """

    caption: TokenBatch
    image_BF: Tensor
    image_id_B: Tensor
    masked: MaskedTokens | None = None


@dataclass(frozen=True, slots=True)
class TweetBatch:
    """Tagged tweets with or without images; W words of the longest.

    ``first_BW`` is the place among the tokens of each word's first piece, ``tag_BW`` its tag; both are 0 where
    ``word_mask_BW`` is false. ``image_BF`` are stored regions side by side (B, R·F), or pixels for a live tower; absent
    where images are not read at all. Rows without an image are zeros, and false in ``has_image_B``. ``partner_B``
    names the row whose image a row is shown to train the matching; its own where nothing is swapped.
    """

    tokens: TokenBatch
    first_BW: Tensor
    word_mask_BW: Tensor
    tag_BW: Tensor
    has_image_B: Tensor
    image_id_B: Tensor
    partner_B: Tensor
    image_BF: Tensor | None = None


@dataclass(frozen=True, slots=True)
class MatchBatch:
    """Captions with their images, and pairs of a caption and an image that do not belong together."""

    true: PairBatch
    false: PairBatch


def split_batch(batch: Batch, size: int) -> list[Batch]:
    """Batches of up to ``size`` examples, in order, each no wider than its longest sentence.

    The first tensor says how many examples there are. Tensors of several times as many rows hold views, one after the
    other; every part gets its rows of each view.
    """
    total = len(next(_tensors(batch)))
    return [_part(batch, start, min(start + size, total), total=total) for start in range(0, total, size)]


def _part(value: Any, start: int, stop: int, *, total: int) -> Any:
    if isinstance(value, Tensor):
        return value.reshape(-1, total, *value.shape[1:])[:, start:stop].flatten(0, 1)
    if isinstance(value, MaskedTokens):
        tokens = _part(value.tokens, start, stop, total=total)
        label_BT = _part(value.label_BT, start, stop, total=total)
        return MaskedTokens(tokens=tokens, label_BT=label_BT[:, : tokens.input_ids_BT.shape[1]])
    if isinstance(value, TokenBatch):
        ids_BT, mask_BT = (
            _part(tensor, start, stop, total=total) for tensor in (value.input_ids_BT, value.attention_mask_BT)
        )
        width = int(mask_BT.sum(1).max())
        return TokenBatch(input_ids_BT=ids_BT[:, :width], attention_mask_BT=mask_BT[:, :width])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: _part(getattr(value, name), start, stop, total=total) for name in names}
        return dataclasses.replace(value, **parts)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with every tensor on ``device``; nested dataclasses are followed, other values kept."""
    moved: Any = batch
    if isinstance(batch, Tensor):
        moved = batch.to(device, non_blocking=True)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {field.name: to_device(getattr(batch, field.name), device) for field in dataclasses.fields(batch)}
        moved = dataclasses.replace(batch, **fields)
    return cast(Batch, moved)
