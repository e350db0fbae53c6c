"""Sentences one after the other in a single row of tokens: nothing is computed on padding.

All layers but attention look at tokens alone, so they take the packed row as it is. Attention is told where sentences
begin: on a GPU its own kernels are, elsewhere sentences of equal length are taken together, which stand side by side
because the row is sorted by length.

B sentences, S of them with fillers, C in a run of equal length, N tokens of all of them, M of a run, T tokens of a
sentence, A heads, E width of a head, D width.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask
from transformers.utils import is_flash_attn_2_available

from mcse.nn.dropout import dropout, kept
from mcse.types import TokenBatch
from mcse.types.batches import from_host

ATTENTION = "mcse"
"""The name that ``attend`` has among transformers' attention functions."""

FLASH_ATTENTION = "flash_attention_2"
"""The name that flash-attn's kernel has among them."""

FASTER_ON = ("cpu",)
"""Kinds of device on which ``encoder.packing: auto`` packs."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as one row of tokens, shortest sentence first.

    Attributes:
        place_B: Where in the row's order each sentence of the batch stands.
        input_ids_N: Token ids.
        position_N: Place of each token in its sentence, from 0.
        bound_S: Where each sentence, in packed order, begins, and where the last one ends: S + 1 numbers, of which the
            first B belong to the batch and others to fillers.
        runs: Sentences of equal length that stand together: how many, and how long.
        longest: Tokens that no sentence has more of.
    """

    place_B: Tensor
    input_ids_N: Tensor
    position_N: Tensor
    bound_S: Tensor
    runs: tuple[tuple[int, int], ...]
    longest: int

    @property
    def start_B(self) -> Tensor:  # noqa: N802 - an attribute like the others
        """Where each sentence of the batch, in packed order, begins."""
        return self.bound_S[: len(self.place_B)]


def pack(tokens: TokenBatch, *, rounded: bool = False) -> Packed:
    """Takes the padding out. Padding must stand on the right.

    Planned on the host, from lengths that it knows; the plan travels to the tokens' device as one tensor. With
    ``rounded`` the row is filled up by a few sentences that are ignored, so that batches have few different shapes.
    """
    length_B = tokens.lengths()
    order_B = length_B.argsort(kind="stable")
    sorted_B = length_B[order_B]
    longest = int(sorted_B[-1])
    size_S = np.concatenate([sorted_B, _fillers(int(sorted_B.sum()), longest)]) if rounded else sorted_B
    bound_S = np.concatenate([[0], size_S.cumsum()])
    position_N = np.arange(bound_S[-1]) - bound_S[:-1].repeat(size_S)
    # Fillers are made of the batch's first token.
    row_S = np.zeros(len(size_S), dtype=np.int64)
    row_S[: len(order_B)] = order_B
    is_real_S = np.arange(len(size_S)) < len(order_B)
    token_N = (row_S * tokens.input_ids_BT.shape[1]).repeat(size_S) + position_N * is_real_S.repeat(size_S)
    plan = from_host([order_B.argsort(), bound_S, position_N, token_N], tokens.input_ids_BT.device)
    return Packed(
        place_B=plan[0],
        input_ids_N=tokens.input_ids_BT.flatten()[plan[3]],
        position_N=plan[2],
        bound_S=plan[1],
        runs=tuple((len(list(run)), length) for length, run in itertools.groupby(size_S.tolist()) if length),
        longest=-(-longest // 8) * 8 if rounded else longest,
    )


def _fillers(total: int, longest: int) -> NDArray[np.int64]:
    """Lengths of sentences that round ``total`` up by at most a sixteenth; equally many of them for near totals."""
    step = max(64, (1 << total.bit_length()) // 32)
    length = longest // 8 * 8 or longest
    filler = np.zeros(-(-step // length), dtype=np.int64)
    whole, rest = divmod(-total % step, length)
    filler[:whole] = length
    if rest:
        filler[whole] = rest
    return filler


def unpack(row_ND: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """(B, T, D) rows in the batch's own order, T as long as ``packed.longest``, and (B, T), 1 on what is no padding.

    What stands on padding is some token's row.
    """
    offset_T = torch.arange(packed.longest, device=row_ND.device)
    index_BT = packed.start_B[:, None] + offset_T
    length_B = packed.bound_S.diff()[: len(packed.place_B)]
    mask_BT = (offset_T < length_B[:, None]).long()
    return row_ND[index_BT.clamp(max=len(row_ND) - 1)[packed.place_B]], mask_BT[packed.place_B]


@dataclass(frozen=True, slots=True)
class _Scope:
    packed: Packed
    last: LastLayer | None
    flashes: bool


_scope: ContextVar[_Scope | None] = ContextVar("_scope", default=None)


@contextmanager
def attention_over(packed: Packed, *, last: LastLayer | None = None, flashes: bool = False) -> Iterator[None]:
    """Lets ``attend`` know where sentences begin and end; models do not hand that through.

    With ``last`` the model's last layer gives rows of first tokens alone: (1, B, D), in packed order. With ``flashes``
    the kernel on a GPU is flash-attn's.
    """
    token = _scope.set(_Scope(packed, last, flashes))
    try:
        yield
    finally:
        _scope.reset(token)


class LastLayer:
    """The last layer of a model whose first tokens' rows are all that is wanted.

    Other tokens are looked at there, but their outputs are not used, so that the projection and the feed-forward
    part behind attention need not be computed for them: exactly the same rows, for most of a layer less work.
    """

    def __init__(self, projection: nn.Module) -> None:
        projection.register_forward_pre_hook(self._keep_first)

    def _keep_first(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Of what attention gives, and of what is added to it."""
        scope = _scope.get()
        if scope is None or scope.last is not self:
            return None
        return tuple(row_1ND.index_select(1, scope.packed.start_B) for row_1ND in arguments)


def find_last_layer(backbone: nn.Module) -> LastLayer | None:
    """The last layer of a model that is built as BERT is; None of any other."""
    try:
        encoder: Any = backbone.get_submodule("encoder")
        return LastLayer(encoder.layer[-1].attention.output)
    except (AttributeError, IndexError, TypeError):
        return None


def register_attention() -> None:
    """Makes ``attend`` known to transformers under the name ``ATTENTION``; a second time changes nothing."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, _mask)


@dataclass(slots=True)
class Watch:
    """Whether a model asked ``attend`` only for what it was written for, and whether it asked at all.

    That is: every token looks at every token of its sentence and at nothing else, by a mask that was made here for
    that, or by none; with as many heads of keys as of queries, and with nothing added to scores.
    """

    masks: list[Tensor | None] = field(default_factory=list)
    has_asked: bool = False
    is_plain: bool = True

    def see_mask(self, mask: Tensor | None, settings: dict[str, Any]) -> None:
        """A mask that was made, and from what."""
        self.masks.append(mask)
        self.is_plain &= settings.get("mask_function") is bidirectional_mask_function and not settings.get("use_vmap")

    def see_attention(
        self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, others: dict[str, Any]
    ) -> None:
        """A call of ``attend``."""
        self.has_asked = True
        # Without a word about it transformers' function takes a layer for causal where no mask is given.
        looks_back_only = others.get("is_causal", getattr(module, "is_causal", True))
        self.is_plain &= (
            not looks_back_only
            and any(mask is made for made in self.masks)
            and query.shape[1] == key.shape[1]
            and all(value is None or name in _HARMLESS for name, value in others.items())
        )


_FLASHING: Any = SimpleNamespace(config=SimpleNamespace(_attn_implementation=FLASH_ATTENTION))
"""In the place of a layer: all that transformers' function reads of one is what it is called."""

_HARMLESS = {"is_causal", "position_ids", "use_cache", "deterministic", "output_attentions", "output_hidden_states"}
"""What layers hand on that changes nothing about attention, or is looked at elsewhere."""

_watch: ContextVar[Watch | None] = ContextVar("_watch", default=None)


@contextmanager
def watching() -> Iterator[Watch]:
    """Looks at what a model asks ``attend`` for."""
    token = _watch.set(watch := Watch())
    try:
        yield watch
    finally:
        _watch.reset(token)


def _mask(*given: Any, **settings: Any) -> Tensor | None:
    """The library's own, which may ask whether there is padding at all: not on a GPU, where the host would wait."""
    mask = settings.get("attention_mask")
    if mask is not None and mask.device.type != "cpu":
        settings["allow_is_bidirectional_skip"] = False
    made = cast(Tensor | None, sdpa_mask(*given, **settings))
    if watch := _watch.get():
        watch.see_mask(made, settings)
    return made


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers: packed where a batch is, else PyTorch's own, with cheap dropout on a CPU.

    Args:
        module: The attention layer; says nothing that is needed here.
        query: (B, A, T, E), or (1, A, N, E) packed; ``key`` and ``value`` likewise.
        key: See ``query``.
        value: See ``query``.
        attention_mask: (B, 1, T, T), true where a token may look, or None.
        dropout: Rate on the probabilities; 0 outside training.
        scaling: Of the scores; None: one over the root of E.
        others: What a model hands on for other functions.

    Returns:
        (B, T, A, E), and no probabilities.
    """
    if watch := _watch.get():
        watch.see_attention(module, query, key, attention_mask, others)
    if scope := _scope.get():
        on_gpu = _attend_by_flash_attn if scope.flashes else _attend_by_bounds
        packed = on_gpu if query.device.type == "cuda" else _attend_by_length
        return packed(query, key, value, scope.packed, rate=dropout, scaling=scaling), None
    if (
        dropout == 0
        or query.device.type != "cpu"
        or torch.compiler.is_compiling()
        or _is_special(attention_mask, others)
    ):
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return output, None
    return _attend_padded(query, key, value, attention_mask, rate=dropout, scaling=scaling), None


def _is_special(mask: Tensor | None, others: dict[str, Any]) -> bool:
    """Whether a model asks for more than a mask of what may be seen."""
    if mask is not None and mask.dtype != torch.bool:
        return True
    return bool(others.get("is_causal")) or others.get("position_bias") is not None


def _attend_padded(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, rate: float, scaling: float | None
) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    score_BATT = (query * scale) @ key.transpose(2, 3)
    if mask is not None:
        score_BATT = score_BATT.masked_fill(~mask, torch.finfo(score_BATT.dtype).min)
    weight_BATT = dropout(score_BATT.softmax(-1), rate)
    return (weight_BATT @ value).transpose(1, 2).contiguous()


def _attend_by_length(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, *, rate: float, scaling: float | None
) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, width = query.shape[1], query.shape[3]
    tokens = [count * length for count, length in packed.runs]
    # Split and not sliced: the gradient of a slice is as large as the whole row.
    by_run = zip(*(torch.split(x[0].transpose(0, 1), tokens) for x in (query * scale, key, value)), strict=True)
    sizes = [count * heads * length * length for count, length in packed.runs]
    # One draw for all sentences: many small ones would cost more than their bits.
    drawn = kept((sum(sizes),), rate, device=query.device).to(query.dtype) if rate else None
    masks = [None] * len(sizes) if drawn is None else torch.split(drawn, sizes)
    parts = []
    for (count, length), rows_MAE, mask in zip(packed.runs, by_run, masks, strict=True):
        query_CTAE, key_CTAE, value_CTAE = (x_MAE.reshape(count, length, heads, width) for x_MAE in rows_MAE)
        weight_CATT = (query_CTAE.transpose(1, 2) @ key_CTAE.permute(0, 2, 3, 1)).softmax(-1)
        if mask is not None:
            weight_CATT = weight_CATT * mask.view_as(weight_CATT)
        parts.append((weight_CATT @ value_CTAE.transpose(1, 2)).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None]


def _attend_by_bounds(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, *, rate: float, scaling: float | None
) -> Tensor:
    """PyTorch's kernels for sentences of unequal length: flash attention in half precision, else the efficient one."""
    query_NAE, key_NAE, value_NAE = (x[0].transpose(0, 1) for x in (query, key, value))
    bounds, longest = packed.bound_S.int(), packed.longest
    width = query.shape[-1]
    scale = width**-0.5 if scaling is None else scaling
    if query.dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256 and _has_flash_attention():
        output_NAE: Tensor = torch.ops.aten._flash_attention_forward(
            query_NAE, key_NAE, value_NAE, bounds, bounds, longest, longest, rate, False, False, scale=scale
        )[0]
        return output_NAE[None]
    rows = (x_NAE[None] for x_NAE in (query_NAE, key_NAE, value_NAE))
    no_mask, keeps_sums = 0, True
    output_1NAE: Tensor = torch.ops.aten._efficient_attention_forward(
        *rows, None, bounds, bounds, longest, longest, rate, no_mask, keeps_sums, scale=scale
    )[0]
    return output_1NAE


def check_installed(attention: str) -> None:
    """Refuses flash-attn's kernel where it is not; transformers would look for one on the hub.

    Raises:
        ValueError: The package is absent, or there is no GPU.
    """
    if attention == FLASH_ATTENTION and not is_flash_attn_2_available():
        raise ValueError(
            "encoder.attention: flash_attention_2 needs a CUDA device and the package flash-attn (pip install "
            "flash-attn); leave it sdpa for PyTorch's own kernel"
        )


def _attend_by_flash_attn(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, *, rate: float, scaling: float | None
) -> Tensor:
    """The package's kernel for sentences of unequal length, by transformers' interface.

    Raises:
        ValueError: In float32, which it does not take.
    """
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError("encoder.attention: flash_attention_2 takes half precision alone; set train.precision: bf16")
    bounds, longest = packed.bound_S.int(), packed.longest
    output_1NAE: Tensor = AttentionInterface()[FLASH_ATTENTION](
        _FLASHING,
        *(query, key, value, None),
        dropout=rate,
        scaling=scaling,
        is_causal=False,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
    )[0]
    return output_1NAE


@functools.cache
def _has_flash_attention() -> bool:
    """PyTorch's flash attention needs an Ampere GPU, or a later one."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
