"""What a Hugging Face model can do, asked of the model itself when it is loaded: no name says it.

Two short sentences go through it, beside each other and alone, a few times: milliseconds, or the time of one ordinary
batch of a large model.

B sentences, T tokens, D width, V rows of a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mcse.errors import said
from mcse.models.packing import ATTENTION, watching
from mcse.nn.dropout import rates_changed
from mcse.types import TokenBatch

logger = logging.getLogger(__name__)

_LENGTHS = (3, 6)
"""Tokens of the two sentences. The first is as short as any is: a word between two special tokens."""

_TOLERANCE = 1e-4
"""Of a difference of rows, as a share of the largest number in them: above what another order of adding up makes."""


@dataclass(frozen=True, slots=True)
class BackboneFacts:
    """What was found.

    Attributes:
        name: What the model was loaded as, for messages.
        attention: What computes attention: ``mcse`` is ``packing.attend``, all others are transformers' own.
        masks_padding: Whether a sentence gets the rows beside a longer one that it gets alone, in evaluation and in
            training. If not, only sentences of equal length go through the model together.
        longest: Tokens that it has positions for; ``None`` where nothing limits them.
        looks_ahead: Whether a first token's row depends on later tokens; a causal model's does not.
        drops_out: Whether a sentence gets other rows in every training pass.
        cannot_train: Why it can be evaluated and not trained, in the model's words; empty where it can.
    """

    name: str
    attention: str
    masks_padding: bool = True
    longest: int | None = None
    looks_ahead: bool = True
    drops_out: bool = True
    cannot_train: str = ""

    def described(self) -> dict[str, str | int | float]:
        """For the start of a run and its ``run.json``."""
        padding = "masked" if self.masks_padding else "none: sentences of equal length go through the model together"
        return {"attention": self.attention, "padding": padding}


def ask_backbone(backbone: Any, name: str) -> BackboneFacts:
    """What a model can do; its attention is left as the facts say, all else as it was.

    It must have been loaded with the attention that is asked for; only where that is not ``eager``, another is tried.
    No random number is drawn that the caller would miss.

    Raises:
        ValueError: It is no encoder of text, or a sentence's rows depend on the rest of its batch.
    """
    was_training = backbone.training
    # Some layers keep statistics of what they are trained on.
    kept = [(buffer, buffer.clone()) for buffer in backbone.buffers()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            return _ask(backbone, name)
        finally:
            backbone.train(was_training)
            for buffer, value in kept:
                buffer.copy_(value)


def probe_tokens(backbone: Any) -> TokenBatch:
    """Two sentences of ordinary words, all different but the first, without special tokens."""
    special = _special_ids(backbone.config)
    try:
        rows = int(backbone.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        rows = int(getattr(backbone.config, "vocab_size", None) or 1000)
    ordinary = [token for token in range(min(rows, 1000)) if token not in special] or [0]
    # Two rows further each, so that nothing that counts one by one is taken for a sentence, or the other way round.
    drawn = [ordinary[(7 + 2 * place) % len(ordinary)] for place in range(sum(_LENGTHS))]
    short, long = drawn[: _LENGTHS[0]], drawn[_LENGTHS[0] :]
    return TokenBatch.padded([short, short[:1] + long[1:]], pad_id=getattr(backbone.config, "pad_token_id", None) or 0)


def _special_ids(config: Any) -> set[int]:
    named = [value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))]
    listed = [value if isinstance(value, list) else [value] for value in named]
    return {value for values in listed for value in values if isinstance(value, int)}


def _ask(backbone: Any, name: str) -> BackboneFacts:
    backbone.eval()
    tokens, loaded, kind = probe_tokens(backbone), str(backbone.config._attn_implementation), backbone.config.model_type
    positions = getattr(backbone.config, "max_position_embeddings", None)
    limit = positions if isinstance(positions, int) and positions > 0 else None
    watch = _PositionWatch(_LENGTHS[1], rows=limit or 0)
    # What is no encoder of text may fail in any way.
    try:
        with watch:
            alone = _alone(backbone, tokens)
    except Exception as error:
        raise ValueError(
            f"encoder.name_or_path: {name!r} ({kind}) cannot encode a sentence of {_LENGTHS[0]} tokens by itself: "
            f"{_fault(error)}"
        ) from None
    if not all(bool(row_TD.isfinite().all()) for row_TD in alone):
        raise ValueError(
            f"encoder.name_or_path: {name!r} ({kind}) gives rows that are not finite; its weights are damaged"
        )
    cannot_train, drops_out = _try_training(backbone, tokens)
    ours = [ATTENTION] if loaded != "eager" and backbone.is_backend_compatible() else []
    for attention in dict.fromkeys([*ours, loaded, "eager"]):
        # What cannot be looked at in training is not trusted in evaluation: Reformer pads inside.
        if not cannot_train and _switch(backbone, attention):
            # Attention that is not to be trusted is none to compare with.
            expected = _exact_rows(backbone, tokens, alone if attention in (*ours, loaded) else None)
            if expected is not None:
                masks_padding, alone = True, expected
                break
    else:
        _switch(backbone, loaded)
        attention, masks_padding = loaded, False
        if problem := _find_dependence(backbone, _part(tokens, slice(None), _LENGTHS[0])):
            raise ValueError(
                f"encoder.name_or_path: {name!r} ({kind}) {problem}, so that its embedding depends on its batch; "
                "choose another model"
            )
    if not masks_padding:
        logger.warning(
            "%r (%s) lets padding change a sentence's embedding, so only sentences of equal length go through it "
            "together, in more passes",
            *(name, kind),
        )
    elif attention == "eager" != loaded:
        logger.warning("%r (%s) masks padding under eager attention alone, so that is used", name, kind)
    return BackboneFacts(
        name=name,
        attention=attention,
        masks_padding=masks_padding,
        longest=watch.limit or limit,
        looks_ahead=not _near(alone[0][:1], alone[1][:1], tolerance=_TOLERANCE / 10),
        drops_out=drops_out,
        cannot_train=cannot_train,
    )


def _rows(backbone: Any, tokens: TokenBatch) -> list[Tensor]:
    """(T, D) of each sentence, without padding."""
    hidden_BTD = backbone(input_ids=tokens.input_ids_BT, attention_mask=tokens.attention_mask_BT).last_hidden_state
    if hidden_BTD.shape[:2] != tokens.input_ids_BT.shape:
        raise ValueError(f"tokens of shape {tuple(tokens.input_ids_BT.shape)} give rows {tuple(hidden_BTD.shape)}")
    return [row_TD[:length] for row_TD, length in zip(hidden_BTD, tokens.lengths(), strict=True)]


def _alone(backbone: Any, tokens: TokenBatch) -> list[Tensor]:
    """The same, each sentence in a batch of its own."""
    parts = [_part(tokens, slice(row, row + 1), int(length)) for row, length in enumerate(tokens.lengths())]
    return [row_TD for part in parts for row_TD in _rows(backbone, part)]


def _part(tokens: TokenBatch, rows: slice, width: int) -> TokenBatch:
    return TokenBatch(tokens.input_ids_BT[rows, :width], tokens.attention_mask_BT[rows, :width])


def _exact_rows(backbone: Any, tokens: TokenBatch, expected: list[Tensor] | None) -> list[Tensor] | None:
    """The rows that sentences get beside each other as they do alone; ``None`` if they do not.

    What is expected of them alone is asked where it is not given. In training, that is without dropout, which would
    hide it. Our own attention must also be asked for nothing that short sentences do not show.
    """
    short = _part(tokens, slice(1), _LENGTHS[0])
    try:
        with watching() as watch:
            expected = expected or _alone(backbone, tokens)
            is_exact = _agree(_rows(backbone, tokens), expected)
        if backbone.config._attn_implementation == ATTENTION:
            is_exact &= watch.has_asked and watch.is_plain
        if is_exact:
            with rates_changed(backbone.train(), lambda _: 0.0):
                beside, alone = _rows(backbone, tokens)[:1], _rows(backbone, short)
                # What a model draws beside dropout, as routers of experts do, is no padding's fault.
                is_exact = _agree(beside, alone) or not _agree(_rows(backbone, short), alone)
    except Exception:
        # Whatever an attention is not made for: another one is tried, or none.
        return None
    finally:
        backbone.eval()
    return expected if is_exact else None


def _find_dependence(backbone: Any, equal: TokenBatch) -> str:
    """What goes wrong with sentences of equal length beside each other; empty where nothing does."""
    try:
        is_exact = _agree(_rows(backbone, equal), _alone(backbone, equal))
    except Exception as error:
        return f"fails on a sentence beside another one of equal length, and not on it alone ({_fault(error)})"
    return "" if is_exact else "gives a sentence other rows beside another one of equal length than alone"


def _switch(backbone: Any, attention: str) -> bool:
    """Whether the model now computes attention so."""
    if backbone.config._attn_implementation != attention:
        try:
            backbone.set_attn_implementation(attention)
        except (ImportError, ValueError):
            return False
    return bool(backbone.config._attn_implementation == attention)


def _try_training(backbone: Any, tokens: TokenBatch) -> tuple[str, bool]:
    """What a model says that can be evaluated and not trained, and whether a sentence gets other rows in every pass.

    Rates that are not 0 are raised, since few numbers are drawn here.
    """
    short = _part(tokens, slice(1), _LENGTHS[0])
    twice = TokenBatch(short.input_ids_BT.repeat(2, 1), short.attention_mask_BT.repeat(2, 1))
    try:
        with rates_changed(backbone.train(), lambda rate: 0.5 if rate > 0 else 0.0):
            first_TD, second_TD = _rows(backbone, twice)
    except Exception as error:
        return _fault(error), False
    finally:
        backbone.eval()
    # Rows of one batch may be added up in other orders.
    return "", not _near(first_TD, second_TD)


def _agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(_near(one, other) for one, other in zip(found, expected, strict=True))


def _near(found_TD: Tensor, expected_TD: Tensor, *, tolerance: float = _TOLERANCE) -> bool:
    """Rows that are not finite are near to none."""
    return bool((found_TD - expected_TD).abs().max() <= tolerance * expected_TD.abs().max())


def _fault(error: Exception) -> str:
    """With its class, since other people's classes raise whatever comes."""
    return f"{type(error).__name__}: {said(error)}"


class _PositionWatch(TorchDispatchMode):
    """Finds the table in which positions are looked up, and how many of them it holds.

    It is the one that is asked for rows one after the other, as many as there are tokens, of at least as many ``rows``
    as the configuration says. Its first is not always row 0: RoBERTa's positions start behind the padding id, OPT's at
    2. Neither names nor configurations say so.
    """

    def __init__(self, length: int, *, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length, self.rows, self.limit = length, rows, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (found := _LOOK_UPS.get(func.overloadpacket)) is not None:
            self._see(*found(args))
        return func(*args, **(kwargs or {}))

    def _see(self, table: Tensor, index: Any) -> None:
        if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64) or len(table) < self.rows:
            return
        # Of one sentence; distances of tokens have two dimensions. Some models fill a sentence up behind its end.
        row_T = index.flatten()[: self.length]
        if index.numel() == index.shape[-1:].numel() >= self.length and bool((row_T.diff() == 1).all()):
            limit = len(table) - int(row_T[0])
            self.limit = min(self.limit or limit, limit)


_LOOK_UPS: dict[Any, Callable[[tuple[Any, ...]], tuple[Tensor, Any]]] = {
    torch.ops.aten.embedding: lambda args: (args[0], args[1]),
    torch.ops.aten.index_select: lambda args: (args[0], args[2] if args[1] == 0 else None),
    torch.ops.aten.index: lambda args: (args[0], args[1][0] if len(args[1]) == 1 else None),
}
"""How PyTorch looks rows up, and where table and places stand among what it is given."""
