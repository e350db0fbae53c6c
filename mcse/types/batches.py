"""Typed batches: what a stream hands to a step.

B examples a process, T tokens, F image feature width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Batch = TypeVar("Batch")

IGNORED_LABEL = -100
"""Label of a token that the masked-language-model loss leaves out (PyTorch's ``ignore_index``)."""

_IMAGES = {"images": True}
"""Marks the field of a batch that holds what images are made of: features or pixels."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids padded on the right to the longest row, and the mask that is 1 on real tokens.

    ``length_B``, tokens a row, is counted when a batch is made on the host and stays there when the batch moves, so
    that what depends on lengths is planned without waiting for a GPU.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    length_B: NDArray[np.int64] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.attention_mask_BT.device.type == "cpu":
            object.__setattr__(self, "length_B", self.attention_mask_BT.sum(1).numpy())

    def __len__(self) -> int:
        return len(self.input_ids_BT)

    def lengths(self) -> NDArray[np.int64]:
        """(B,) tokens a row; of a batch that was made on a GPU they are fetched from there."""
        return self.attention_mask_BT.sum(1).cpu().numpy() if self.length_B is None else self.length_B

    @classmethod
    def padded(cls, rows: Sequence[Sequence[int] | NDArray[np.int64]], *, pad_id: int = 0) -> TokenBatch:
        """Rows of ids, filled on the right with ``pad_id`` to the longest."""
        id_BT = pad_rows(rows, fill=pad_id)
        length_B = torch.tensor([len(row) for row in rows])
        return cls(id_BT, (torch.arange(id_BT.shape[1])[None] < length_B[:, None]).long())


@dataclass(frozen=True, slots=True)
class MaskedTokens:
    """Sentences with some tokens replaced; ``label_BT`` holds the original ids there, else ``IGNORED_LABEL``.

    ``chosen_M``, the places of those tokens in all rows one after the other, is found when a batch is made on the host,
    and moves with it.
    """

    tokens: TokenBatch
    label_BT: Tensor
    chosen_M: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.label_BT.device.type == "cpu":
            object.__setattr__(self, "chosen_M", self._find_chosen())

    def chosen(self) -> Tensor:
        """``chosen_M``; of a batch that was made on a GPU they are looked for there."""
        return self._find_chosen() if self.chosen_M is None else self.chosen_M

    def _find_chosen(self) -> Tensor:
        return (self.label_BT != IGNORED_LABEL).flatten().nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class SentenceBatch:
    """Sentences without images.

    ``positive`` absent: the positive is the query under another dropout mask. ``negative``: each query's contradiction.
    ``masked``: masked copies of every sentence of the batch, for the optional language-model term. ``teacher_BF``: rows
    that teachers give the queries. The product of two of them is the weighted average of the teachers' cosines, since
    for each teacher of weight w (weights sum to 1) a row holds √w times its unit row, side by side.
    """

    query: TokenBatch
    positive: TokenBatch | None = None
    negative: TokenBatch | None = None
    masked: MaskedTokens | None = None
    teacher_BF: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Rows of one of a run's tables: V texts each, such as query, positive and hard negatives.

    ``tokens`` holds V·B rows: all first texts, then all second ones, and so on. ``text_id_BV`` is equal where texts are
    equal. ``value_B`` are scores or labels, ``group_B`` are equal in rows that belong together, ``guide_BVG`` are the
    unit embeddings of a guide, G wide.
    """

    text_id_BV: Tensor
    tokens: TokenBatch
    table: int
    value_B: Tensor | None = None
    group_B: Tensor | None = None
    guide_BVG: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Captions with their images: stored features ``image_BF``, or pixels (B, 3, height, width) for a live tower.

    ``image_id_B`` says which image a row holds, so that two captions of one image are not each other's negatives.
    ``positive``, ``masked`` and ``teacher_BF`` are as of ``SentenceBatch``. ``is_wrong_B`` is true where a control
    shows a caption with a wrong image, for logs alone; ``None`` where each has its own.
    """

    caption: TokenBatch
    image_BF: Tensor = field(metadata=_IMAGES)
    image_id_B: Tensor
    masked: MaskedTokens | None = None
    positive: TokenBatch | None = None
    teacher_BF: Tensor | None = None
    is_wrong_B: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TweetBatch:
    """Tagged tweets with or without images; W words of the longest.

    ``first_BW`` is the place among the tokens of each word's first piece, ``tag_BW`` its tag; both are 0 where
    ``word_mask_BW`` is false. ``image_BF`` are stored regions side by side (B, R·F), or pixels for a live tower; absent
    where images are not read at all. Rows without an image are zeros, and false in ``has_image_B``. ``partner_B``
    names the row whose image a row is shown to train the matching; its own where nothing is swapped. ``shown_M``, the
    rows with an image, and ``swapped_M``, those that another one's is shown to, are found when a batch is made on the
    host, and move with it.
    """

    tokens: TokenBatch
    first_BW: Tensor
    word_mask_BW: Tensor
    tag_BW: Tensor
    has_image_B: Tensor
    image_id_B: Tensor
    partner_B: Tensor
    image_BF: Tensor | None = field(default=None, metadata=_IMAGES)
    shown_M: Tensor | None = field(init=False, default=None)
    swapped_M: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.has_image_B.device.type == "cpu":
            for name, place_M in zip(("shown_M", "swapped_M"), self._find_places(), strict=True):
                object.__setattr__(self, name, place_M)

    def places(self) -> tuple[Tensor, Tensor]:
        """``shown_M`` and ``swapped_M``; of a batch that was made on a GPU they are looked for there."""
        if self.shown_M is None or self.swapped_M is None:
            return self._find_places()
        return self.shown_M, self.swapped_M

    def _find_places(self) -> tuple[Tensor, Tensor]:
        own_B = torch.arange(len(self.partner_B), device=self.partner_B.device)
        swapped_B = (self.partner_B != own_B) & self.has_image_B & self.has_image_B[self.partner_B]
        return self.has_image_B.nonzero()[:, 0], swapped_B.nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class MatchBatch:
    """Captions with their images, and pairs of a caption and an image that do not belong together."""

    true: PairBatch
    false: PairBatch


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Two random views of each image: ``pixel_V3HW`` holds all first views, then all second ones.

    ``label_B`` is equal where two images become similar. ``dropout_seed`` names the dropout of their pass, so that the
    text's is the same with and without images.
    """

    pixel_V3HW: Tensor
    label_B: Tensor
    dropout_seed: int


@dataclass(frozen=True, slots=True)
class UnpairedBatch:
    """Sentences, and images that have nothing to do with them; ``None`` where images are not read at all."""

    text: SentenceBatch
    images: ViewBatch | None


def pad_rows(rows: Sequence[Sequence[int] | NDArray[np.int64]], *, fill: int) -> Tensor:
    """(B, T) whole numbers, filled on the right to the longest row."""
    out = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)


def split_batch(batch: Batch, size: int, *, narrows: bool = True) -> list[Batch]:
    """Batches of up to ``size`` examples, in order, each no wider than its longest sentence where it ``narrows``.

    The first tensor says how many examples there are. Tensors of several times as many rows hold views, one after the
    other; every part gets its rows of each view.
    """
    total = len(next(tensors_of(batch)))
    parts = (range(start, min(start + size, total)) for start in range(0, total, size))
    return [_part(batch, rows, total=total, narrows=narrows) for rows in parts]


def _part(value: Any, rows: range, *, total: int, narrows: bool) -> Any:
    def part(value: Any) -> Any:
        return _part(value, rows, total=total, narrows=narrows)

    if isinstance(value, Tensor):
        return value.reshape(-1, total, *value.shape[1:])[:, rows.start : rows.stop].flatten(0, 1)
    if isinstance(value, MaskedTokens):
        tokens = part(value.tokens)
        return MaskedTokens(tokens=tokens, label_BT=part(value.label_BT)[:, : tokens.input_ids_BT.shape[1]])
    if isinstance(value, TokenBatch):
        ids_BT, mask_BT = part(value.input_ids_BT), part(value.attention_mask_BT)
        width = int(mask_BT.sum(1).max()) if narrows else None
        return TokenBatch(input_ids_BT=ids_BT[:, :width], attention_mask_BT=mask_BT[:, :width])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: part(getattr(value, name)) for name in names})
    return value


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors of a batch, in the order of its fields; nested dataclasses are followed."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))


def concatenate(batches: Sequence[TokenBatch]) -> TokenBatch:
    """Batches of tokens as one, padded to the widest; padding ids are masked, so their value does not matter."""
    width = max(batch.input_ids_BT.shape[1] for batch in batches)
    grown = [(batch, (0, width - batch.input_ids_BT.shape[1])) for batch in batches]
    joined = TokenBatch(
        input_ids_BT=torch.cat([F.pad(batch.input_ids_BT, by) for batch, by in grown]),
        attention_mask_BT=torch.cat([F.pad(batch.attention_mask_BT, by) for batch, by in grown]),
    )
    known = [batch.length_B for batch in batches if batch.length_B is not None]
    if len(known) == len(batches):
        object.__setattr__(joined, "length_B", np.concatenate(known))
    return joined


def to_device(batch: Batch, device: torch.device, *, images: bool = True) -> Batch:
    """The same batch with every tensor on ``device``; nested dataclasses are followed, other values kept.

    A copy of a pinned tensor to a GPU is not waited for. Without ``images``, what images are made of stays where it is.
    """
    return _map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True), images=images)


def from_host(arrays: Sequence[NDArray[np.int64]], device: torch.device) -> tuple[Tensor, ...]:
    """One-dimensional arrays as tensors on ``device``, sent together; nothing waits for a GPU."""
    sizes = [len(array) for array in arrays]
    joined = torch.from_numpy(np.concatenate(arrays).astype(np.int64, copy=False))
    if device.type == "cuda":
        joined = joined.pin_memory()
    return torch.split_with_sizes(joined.to(device, non_blocking=True), sizes)


def pin(batch: Batch) -> Batch:
    """The same batch in page-locked memory, from which a GPU copies while the host goes on."""
    return _map_tensors(batch, Tensor.pin_memory)


def _map_tensors(value: Batch, function: Callable[[Tensor], Tensor], *, images: bool = True) -> Batch:
    mapped: Any = value
    if isinstance(value, Tensor):
        mapped = function(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        moved = [field.name for field in fields if images or "images" not in field.metadata]
        found = {name: _map_tensors(getattr(value, name), function, images=images) for name in moved}
        derived = {field.name for field in fields if not field.init}
        mapped = dataclasses.replace(value, **{name: part for name, part in found.items() if name not in derived})
        for name in derived:
            object.__setattr__(mapped, name, found[name])
    return cast(Batch, mapped)
