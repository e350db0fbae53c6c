"""The text tower: any Hugging Face encoder and a pooling.

B sentences, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcse.models.backbone import BackboneFacts
from mcse.models.graphs import Graphs
from mcse.models.packing import (
    LastLayer,
    Packed,
    attention_over,
    find_last_layer,
    pack,
    unpack,
)
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.static_widths import round_up
from mcse.nn.pooling import FIRST_TOKEN_POOLINGS, LAYER_POOLINGS, pool
from mcse.nn.pooling import POOLINGS as POOLINGS
from mcse.types import TokenBatch, Tokenizer
from mcse.types.batches import from_host

_PLANNED = ("place_B", "input_ids_N", "position_N", "bound_S")
"""What of a packed batch is new in every batch of its shape."""


class TextEncoder(nn.Module):
    """A Hugging Face encoder that turns a ``TokenBatch`` into (B, D) rows, before any head."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pooling: str,
        facts: BackboneFacts | None = None,
        length_chunks: int = 1,
        first_position: int | None = None,
        packs_on: Collection[str] | None = None,
    ) -> None:
        """``facts`` are what ``ask_backbone`` found; an encoder around another one's model takes over its facts.

        With ``first_position``, the position id of a sentence's first token, training batches are packed.

        ``packs_on`` names the kinds of device on which they are; ``None`` is every kind. Training batches that are not
        are padded to one of ``widths``, where there are any. Where ``uses_graphs`` is set, training passes on CUDA are
        captured as graphs; where ``flashes`` is, packed ones take flash-attn's kernel.
        """
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"encoder.pooling: unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
        self.backbone = backbone
        self.pooling = pooling
        self.facts = facts or BackboneFacts(name="", attention=str(self._config._attn_implementation))
        self.length_chunks = length_chunks
        self.first_position = first_position
        self.packs_on = packs_on
        self.widths: tuple[int, ...] = ()
        self.uses_graphs = False
        self.flashes = False
        # Not a module of its own: names in checkpoints stay.
        self._compiled: Callable[..., Any] | None = None
        self._graphs: Graphs | None = None

    @cached_property
    def last_layer(self) -> LastLayer | None:
        """Looked for when a batch is packed: it leaves a hook, and most encoders around a model never pack."""
        return find_last_layer(self.backbone)

    def compile_passes(self) -> None:
        """From now on training passes are compiled, one graph for each of ``widths``."""
        import torch._dynamo  # seconds, for those who compile

        # A graph for each width, with and without gradient, and of a last chunk that is smaller.
        needed = 4 * max(len(self.widths), 1)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, needed)
        self._compiled = torch.compile(self.backbone.forward, dynamic=False)

    @property
    def _config(self) -> Any:
        return self.backbone.config

    @property
    def width(self) -> int:
        """D, read from the loaded model."""
        return int(self._config.hidden_size)

    @property
    def init_std(self) -> float:
        """Standard deviation of the backbone's own initialisation (BERT: 0.02), which SimCSE's head follows."""
        return float(getattr(self._config, "initializer_range", 0.02))

    def token_rows(self, tokens: TokenBatch) -> Tensor:
        """(B, T, D) rows of the last layer."""
        width = tokens.input_ids_BT.shape[1]

        def rows_of(part: TokenBatch) -> Tensor:
            row_BTD: Tensor = self._hidden(self._widened(part))[-1][:, :width]
            return F.pad(row_BTD, (0, 0, 0, width - row_BTD.shape[1]))

        return rows_of(tokens) if self.facts.masks_padding else self._in_parts(tokens, rows_of, sizes=_runs(tokens))

    def rows_at(self, tokens: TokenBatch, place_M: Tensor) -> Tensor:
        """(M, D) rows of the last layer at places of a batch whose rows are taken one after the other, B · T of them.

        They are packed where training batches are, and never captured as graphs.
        """
        first_position = self._packs(tokens)
        if first_position is None:
            return self.token_rows(tokens).flatten(0, 1).index_select(0, place_M)
        packed, width = pack(tokens), tokens.input_ids_BT.shape[1]
        start_B = packed.start_B.index_select(0, packed.place_B)
        index_M = start_B.index_select(0, place_M // width) + place_M % width
        with attention_over(packed, flashes=self.flashes):
            output = self.backbone(
                input_ids=packed.input_ids_N[None], position_ids=packed.position_N[None] + first_position
            )
        row_ND: Tensor = output.last_hidden_state[0]
        return row_ND.index_select(0, index_M)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """(B, D) pooled rows, not normalised."""
        if not self.facts.masks_padding:
            return self._in_parts(tokens, self._rows, sizes=_runs(tokens))
        if (first_position := self._packs(tokens)) is not None:
            return self.packed_rows(tokens, first_position=first_position)
        if self.training and self.length_chunks > 1:
            return self._in_parts(tokens, self._rows, sizes=-(-len(tokens) // self.length_chunks))
        return self._rows(tokens)

    def _in_parts(
        self, tokens: TokenBatch, rows_of: Callable[[TokenBatch], Tensor], *, sizes: int | Sequence[int]
    ) -> Tensor:
        """What ``rows_of`` gives for a batch, in parts of similar length: of ``sizes``, from the shortest on."""
        length_B = tokens.lengths()
        order_B = length_B.argsort(kind="stable")
        order, place = from_host([order_B, order_B.argsort()], tokens.input_ids_BT.device)
        parts, last = [], -1
        for index in order.split(sizes):
            last += len(index)
            width = int(length_B[order_B[last]])
            part = TokenBatch(tokens.input_ids_BT[index, :width], tokens.attention_mask_BT[index, :width])
            parts.append(rows_of(part))
        return torch.cat(parts)[place]

    def packed_rows(self, tokens: TokenBatch, *, first_position: int) -> Tensor:
        """(B, D) pooled rows of sentences that go through the model in one row of tokens."""
        packed = pack(tokens, rounded=self.uses_graphs)
        if not self._captures_on(packed.input_ids_N.device):
            return self._rows_of(packed, first_position)

        def rows_of(*tensors: Tensor) -> Tensor:
            given: dict[str, Any] = dict(zip(_PLANNED, tensors, strict=True))
            return self._rows_of(replace(packed, **given), first_position)

        tensors = [getattr(packed, name) for name in _PLANNED]
        return self._captured(rows_of, tensors, key=packed.longest)

    def _rows_of(self, packed: Packed, first_position: int) -> Tensor:
        last = self.last_layer if self.pooling in FIRST_TOKEN_POOLINGS else None
        with attention_over(packed, last=last, flashes=self.flashes):
            output = self.backbone(
                input_ids=packed.input_ids_N[None],
                position_ids=packed.position_N[None] + first_position,
                output_hidden_states=self.pooling in LAYER_POOLINGS,
            )
        if self.pooling in FIRST_TOKEN_POOLINGS:
            row_ND: Tensor = output.last_hidden_state[0]
            first_BD = row_ND if last is not None else row_ND[packed.start_B]
            return first_BD.index_select(0, packed.place_B)
        layers = output.hidden_states if self.pooling in LAYER_POOLINGS else (output.last_hidden_state,)
        hidden, (mask_BT, *_) = zip(*(unpack(layer[0], packed) for layer in layers), strict=True)
        return pool(hidden, mask_BT, pooling=self.pooling)

    def _packs(self, tokens: TokenBatch) -> int | None:
        """The position id of first tokens, if this batch is packed."""
        packs = self.training and (self.packs_on is None or tokens.input_ids_BT.device.type in self.packs_on)
        return self.first_position if packs else None

    def _rows(self, tokens: TokenBatch) -> Tensor:
        tokens = self._widened(tokens)
        if not (self.training and self._captures_on(tokens.input_ids_BT.device)):
            return self._pooled(tokens.input_ids_BT, tokens.attention_mask_BT)
        return self._captured(self._pooled, [tokens.input_ids_BT, tokens.attention_mask_BT], key=None)

    def _pooled(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return pool(self._hidden(TokenBatch(input_ids_BT, attention_mask_BT)), attention_mask_BT, pooling=self.pooling)

    def _widened(self, tokens: TokenBatch) -> TokenBatch:
        """The same training batch in one of the few ``widths``; padding is masked."""
        if not (self.training and self.widths):
            return tokens
        width = tokens.input_ids_BT.shape[1]
        added = (0, round_up(width, self.widths, longest=self.facts.longest) - width)
        return TokenBatch(F.pad(tokens.input_ids_BT, added), F.pad(tokens.attention_mask_BT, added))

    def _captures_on(self, device: torch.device) -> bool:
        return self.uses_graphs and device.type == "cuda"

    def _captured(self, function: Callable[..., Tensor], tensors: Sequence[Tensor], *, key: Hashable) -> Tensor:
        if self._graphs is None:
            self._graphs = Graphs([p for p in self.backbone.parameters() if p.requires_grad])
        return self._graphs.run(function, tensors, key=key)

    def _hidden(self, tokens: TokenBatch) -> Sequence[Tensor]:
        """(B, T, D) of every layer where the pooling needs them, or of the last one alone."""
        passes = self._compiled if self.training and self._compiled is not None else self.backbone
        output = passes(
            input_ids=tokens.input_ids_BT,
            attention_mask=tokens.attention_mask_BT,
            output_hidden_states=self.pooling in LAYER_POOLINGS,
        )
        hidden: Sequence[Tensor] = (
            output.hidden_states if self.pooling in LAYER_POOLINGS else (output.last_hidden_state,)
        )
        return hidden


def _runs(tokens: TokenBatch) -> list[int]:
    """How many sentences there are of each length, from the shortest on."""
    counts: list[int] = np.unique(tokens.lengths(), return_counts=True)[1].tolist()
    return counts


def check_first_token(encoder: TextEncoder, tokenizer: Tokenizer) -> None:
    """Refuses a pooling of first tokens that are a sentence's own, or that see nothing of it.

    Raises:
        ValueError: Sentences that only begin the same would have equal embeddings, or all sentences would.
    """
    if encoder.pooling not in FIRST_TOKEN_POOLINGS or not isinstance(tokenizer, PieceTokenizer):
        return
    if tokenizer.first_token is None:
        why = "its tokenizer puts no token such as [CLS] before a sentence"
    elif not encoder.facts.looks_ahead:
        why = "its first token sees nothing of what follows (it is a causal model)"
    else:
        return
    raise ValueError(
        f"encoder.pooling: {encoder.pooling!r} reads the first token, but of {encoder.facts.name!r} {why}; choose mean "
        "or last"
    )
