"""The text tower: any Hugging Face encoder and a pooling; the only place that builds transformers models.

B sentences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import pickle
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from mcse.manifest import HEADS_FILE, IMAGE_TOWER_FILE, check_files, resolve_name
from mcse.models.graphs import Graphs
from mcse.models.packing import (
    ATTENTION,
    FASTER_ON,
    LastLayer,
    Packed,
    attention_over,
    find_last_layer,
    pack,
    register_attention,
    unpack,
)
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.nn.dropout import use_cheap_dropout
from mcse.nn.pooling import FIRST_TOKEN_POOLINGS, LAYER_POOLINGS, pool
from mcse.nn.pooling import POOLINGS as POOLINGS
from mcse.types import TokenBatch
from mcse.types.batches import from_host

logger = logging.getLogger(__name__)

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Without it transformers asks on the terminal whether to run the code that a folder brings along."""


_PLANNED = ("place_B", "input_ids_N", "position_N", "bound_S")
"""What of a packed batch is new in every batch of its shape."""


class TextEncoder(nn.Module):
    """A Hugging Face encoder that turns a ``TokenBatch`` into (B, D) rows, before any head."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pooling: str,
        length_chunks: int = 1,
        first_position: int | None = None,
        packs_on: Collection[str] | None = None,
    ) -> None:
        """With ``first_position``, the position id of a sentence's first token, training batches are packed.

        ``packs_on`` names the kinds of device on which they are; ``None`` is every kind. Where ``uses_graphs`` is set,
        packed passes on CUDA are captured as graphs.
        """
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"encoder.pooling: unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
        self.backbone = backbone
        self.pooling = pooling
        self.length_chunks = length_chunks
        self.first_position = first_position
        self.packs_on = packs_on
        self.uses_graphs = False
        self._graphs: Graphs | None = None

    @cached_property
    def last_layer(self) -> LastLayer | None:
        """Looked for when a batch is packed: it leaves a hook, and most encoders around a model never pack."""
        return find_last_layer(self.backbone)

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
        output = self.backbone(input_ids=tokens.input_ids_BT, attention_mask=tokens.attention_mask_BT)
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    def forward(self, tokens: TokenBatch) -> Tensor:
        """(B, D) pooled rows, not normalised."""
        if not self.training:
            return self._rows(tokens)
        if self.first_position is not None and self._packs_on(tokens.input_ids_BT.device):
            return self.packed_rows(tokens, first_position=self.first_position)
        if self.length_chunks == 1:
            return self._rows(tokens)
        length_B = tokens.lengths()
        order_B = length_B.argsort(kind="stable")
        order, place = from_host([order_B, order_B.argsort()], tokens.input_ids_BT.device)
        parts, last = [], -1
        for index in order.chunk(self.length_chunks):
            last += len(index)
            width = int(length_B[order_B[last]])
            part = TokenBatch(tokens.input_ids_BT[index, :width], tokens.attention_mask_BT[index, :width])
            parts.append(self._rows(part))
        return torch.cat(parts)[place]

    def packed_rows(self, tokens: TokenBatch, *, first_position: int) -> Tensor:
        """(B, D) pooled rows of sentences that go through the model in one row of tokens."""
        packed = pack(tokens, rounded=self.uses_graphs)
        if not (self.uses_graphs and packed.input_ids_N.device.type == "cuda"):
            return self._rows_of(packed, first_position)
        if self._graphs is None:
            self._graphs = Graphs([p for p in self.backbone.parameters() if p.requires_grad])

        def rows_of(*tensors: Tensor) -> Tensor:
            given: dict[str, Any] = dict(zip(_PLANNED, tensors, strict=True))
            return self._rows_of(replace(packed, **given), first_position)

        tensors = [getattr(packed, name) for name in _PLANNED]
        return self._graphs.run(rows_of, tensors, key=packed.longest)

    def _rows_of(self, packed: Packed, first_position: int) -> Tensor:
        last = self.last_layer if self.pooling in FIRST_TOKEN_POOLINGS else None
        with attention_over(packed, last=last):
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

    def _packs_on(self, device: torch.device) -> bool:
        return self.packs_on is None or device.type in self.packs_on

    def _rows(self, tokens: TokenBatch) -> Tensor:
        output = self.backbone(
            input_ids=tokens.input_ids_BT,
            attention_mask=tokens.attention_mask_BT,
            output_hidden_states=self.pooling in LAYER_POOLINGS,
        )
        hidden = output.hidden_states if self.pooling in LAYER_POOLINGS else (output.last_hidden_state,)
        return pool(hidden, tokens.attention_mask_BT, pooling=self.pooling)


def load_text_encoder(
    name_or_path: str,
    *,
    pooling: str,
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    length_chunks: int = 1,
    packing: Literal[False, True, "auto"] = False,
) -> TextEncoder:
    """A hub id, folder or package path as a ``TextEncoder`` in float32, without a pooler that nobody trained.

    Raises:
        ValueError: Nothing loadable is there, weights are missing, a pickle of them holds more than tensors, it is not
            an encoder-only model, it is a checkpoint of ours whose files are not those that were saved, or
            ``packing`` would change what it computes.
    """
    path = resolve_name(name_or_path)
    check_files(Path(path), but=(HEADS_FILE, IMAGE_TOWER_FILE))
    config = _load_config(path, name_or_path)
    register_attention()
    options: dict[str, Any] = {
        "attn_implementation": ATTENTION if attention == "sdpa" else attention,
        "dtype": torch.float32,
        **NO_CODE,
    }
    if takes_pooling_layer(config):
        options["add_pooling_layer"] = False
    try:
        with quiet_transformers():
            backbone, report = AutoModel.from_pretrained(path, config=config, output_loading_info=True, **options)
    except SafetensorError as error:
        raise ValueError(f"encoder.name_or_path: damaged weights at {name_or_path!r}: {error}") from None
    except pickle.UnpicklingError as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(f"encoder.name_or_path: weights at {name_or_path!r} are not only tensors: {said}") from None
    except OSError as error:
        raise ValueError(f"encoder.name_or_path: no weights at {name_or_path!r}: {error}") from None
    # transformers draws what it does not find at random and goes on.
    lacking = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    lacking += [str(key) for key in report["mismatched_keys"]]
    if lacking:
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} lacks {len(lacking)} weights that its config.json promises, "
            f"first {lacking[0]}"
        )
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    use_cheap_dropout(backbone)
    encoder = TextEncoder(backbone, pooling=pooling, length_chunks=length_chunks)
    if packing:
        encoder.packs_on = FASTER_ON if packing == "auto" else None
        encoder.first_position = _find_first_position(encoder)
        if encoder.first_position is None and packing == "auto":
            logger.info("encoder.packing: %r gives packed sentences other rows, so batches are padded", name_or_path)
        elif encoder.first_position is None:
            raise ValueError(
                f"encoder.packing: {name_or_path!r} gives packed sentences other rows than sentences alone; leave it "
                "false"
            )
    return encoder


@torch.no_grad()
def _find_first_position(encoder: TextEncoder) -> int | None:
    """The position id of first tokens, found by packing three sentences: no model says it, RoBERTa's is not 0.

    ``None`` if with none do packed sentences get the rows that they get alone.
    """
    vocabulary, pad = int(encoder._config.vocab_size), encoder._config.pad_token_id or 0
    length_B = torch.tensor([5, 2, 9])
    mask_BT = (torch.arange(9) < length_B[:, None]).long()
    # Any ids but the padding id, which RoBERTa counts no position for.
    ids_BT = (torch.arange(27).reshape(3, 9) * 7 % (vocabulary - pad - 1) + pad + 1) * mask_BT + pad * (1 - mask_BT)
    tokens = TokenBatch(ids_BT, mask_BT)
    was_training = encoder.training
    encoder.eval()
    try:
        expected_BD = encoder(tokens)
        for first_position in (0, pad + 1):
            try:
                row_BD = encoder.packed_rows(tokens, first_position=first_position)
            except (TypeError, RuntimeError, IndexError, ValueError):
                continue
            if torch.allclose(row_BD, expected_BD, rtol=1e-4, atol=1e-4 * float(expected_BD.abs().max())):
                return first_position
    finally:
        encoder.train(was_training)
    return None


def load_mlm_head(name_or_path: str, *, attention: str = "sdpa") -> nn.Module:
    """The masked-language-model head of a checkpoint: (B, T, D) token rows to (B, T, V) logits.

    The head keeps its own copy of the tied output matrix, since the encoder beside it may train on.

    Raises:
        ValueError: The checkpoint has no such head.
    """
    path = resolve_name(name_or_path)
    try:
        with quiet_transformers():
            model, report = AutoModelForMaskedLM.from_pretrained(
                path, attn_implementation=attention, dtype=torch.float32, output_loading_info=True, **NO_CODE
            )
    except ValueError as error:
        raise ValueError(f"loss.mlm_weight: {name_or_path!r} is no masked language model: {error}") from None
    heads = [(name, child) for name, child in model.named_children() if name != model.base_model_prefix]
    if len(heads) != 1:
        raise ValueError(f"loss.mlm_weight: {name_or_path!r} has no single language-model head, but {heads}")
    name, head = heads[0]
    assert isinstance(head, nn.Module)
    missing = [key for key in report["missing_keys"] if key.startswith(name) and "decoder" not in key]
    if missing:
        raise ValueError(f"loss.mlm_weight: {name_or_path!r} stores no trained language-model head (no {missing[0]})")
    return head


def load_tokenizer(name_or_path: str) -> PieceTokenizer:
    """The tokenizer that belongs to a text encoder.

    Raises:
        ValueError: None is there.
    """
    path = resolve_name(name_or_path)
    try:
        return PieceTokenizer(AutoTokenizer.from_pretrained(path, **NO_CODE))
    except (OSError, ValueError) as error:
        raise ValueError(f"encoder.name_or_path: no tokenizer at {name_or_path!r}: {error}") from None


def _load_config(path: str, name_or_path: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(path, **NO_CODE)
    except (OSError, ValueError) as error:
        raise ValueError(f"encoder.name_or_path: no encoder at {name_or_path!r}: {error}") from None
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} ({config.model_type}) is not an encoder-only text model"
        )
    return config


def takes_pooling_layer(config: Any) -> bool:
    """Whether this architecture can be built without its pooler: asked of its signature, never of its name."""
    model_class = AutoModel._model_mapping[type(config)]
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


class quiet_transformers:  # noqa: N801 - reads as the statement it is
    """Loading without transformers' report of the keys that a headless encoder leaves out on purpose."""

    def __enter__(self) -> None:
        self.level = transformers.logging.get_verbosity()
        self.bar = transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers.logging.set_verbosity(self.level)
        if self.bar:
            transformers.logging.enable_progress_bar()
