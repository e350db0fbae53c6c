"""Hugging Face models, their heads and tokenizers by name; the only place that builds transformers models of text."""

from __future__ import annotations

import inspect
import logging
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from mcse.errors import said
from mcse.hub import at_commit
from mcse.manifest import HEADS_FILE, IMAGE_TOWER_FILE, check_files, resolve_name
from mcse.models.backbone import ask_backbone, probe_tokens
from mcse.models.packing import (
    ATTENTION,
    FASTER_ON,
    FLASH_ATTENTION,
    check_installed,
    register_attention,
)
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import TextEncoder
from mcse.nn.dropout import set_rates, use_cheap_dropout
from mcse.nn.pooling import POOLINGS as POOLINGS

logger = logging.getLogger(__name__)

_INSIDE = "give the folder or hub id of the transformer inside it, without what stands before the colon"
_NOT_TRAINED = {
    "open_clip:": (
        "text encoders of open_clip can be evaluated and not trained: its tokenizer cleans texts as none of "
        "transformers' does, which reads checkpoints. A CLIPTextModel that transformers saved alone trains, with "
        "encoder.pooling last"
    ),
    "sentence-transformers:": _INSIDE,
    "model2vec:": "a table of word vectors has no transformer to train",
}
"""Names that evaluation takes."""

_BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "bias_mask", "masked_bias")
"""What older versions of transformers stored beside the weights, and newer ones compute."""


def loading(path: str) -> dict[str, Any]:
    """What every loader of transformers is told: no code that a model brings along, and of a hub model one commit.

    Where nothing is said of code, transformers asks on the terminal whether to run it.
    """
    return {"trust_remote_code": False, **at_commit(path)}


def load_text_encoder(
    name_or_path: str,
    *,
    pooling: str,
    attention: str = "sdpa",
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
    length_chunks: int = 1,
    packing: Literal[False, True, "auto"] = False,
) -> TextEncoder:
    """A hub id, folder or package path as a ``TextEncoder`` in float32, without an untrained pooler.

    Under ``attention`` ``sdpa`` it is our own where the model takes it and PyTorch's where it takes that; ``dropout``
    stands for every rate of the model.

    Raises:
        ValueError: Nothing loadable is there, weights are missing, a pickle of them holds more than tensors, it is not
            an encoder-only model of text, it is a checkpoint of ours whose files are not those that were saved,
            ``dropout`` would do nothing, or ``packing`` would change what it computes.
    """
    check_installed(attention)
    path, config = _open(name_or_path, dropout=dropout)
    return text_encoder_around(
        _load_backbone(path, name_or_path, config, eager=attention == "eager"),
        name_or_path,
        pooling=pooling,
        attention=attention,
        dropout=dropout,
        gradient_checkpointing=gradient_checkpointing,
        length_chunks=length_chunks,
        packing=packing,
    )


def _open(name_or_path: str, *, dropout: float | None) -> tuple[str, Any]:
    """Where a text encoder is, and its configuration with the rates of ``dropout``."""
    path = _transformer_path(name_or_path)
    check_files(Path(path), but=(HEADS_FILE, IMAGE_TOWER_FILE))
    config = _load_config(path, name_or_path)
    register_attention()
    if dropout is not None:
        # Some models build no dropout at all where the rate is 0.
        for part in (config, *(getattr(config, name) for name in getattr(config, "sub_configs", {}))):
            set_rates(part, dropout)
    return path, config


def text_encoder_around(
    backbone: Any,
    name_or_path: str,
    *,
    pooling: str,
    attention: str = "sdpa",
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
    length_chunks: int = 1,
    packing: Literal[False, True, "auto"] = False,
) -> TextEncoder:
    """A loaded model as a ``TextEncoder``, as ``load_text_encoder`` gives it; ``name_or_path`` is for messages."""
    register_attention()
    if dropout is not None:
        for module in backbone.modules():
            set_rates(module, dropout)
    use_cheap_dropout(backbone)
    with quiet_transformers():
        facts = ask_backbone(backbone, name_or_path)
    if dropout and not facts.drops_out:
        raise ValueError(f"encoder.dropout: {dropout} would do nothing, since {name_or_path!r} has no dropout at all")
    if gradient_checkpointing:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    encoder = TextEncoder(backbone, pooling=pooling, facts=facts, length_chunks=length_chunks)
    encoder.flashes = attention == FLASH_ATTENTION
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


def _load_backbone(path: str, name_or_path: str, config: Any, *, eager: bool) -> Any:
    """The model with its own weights, all of them, and transformers' own attention."""
    options: dict[str, Any] = {"attn_implementation": "eager" if eager else None, "dtype": torch.float32}
    if takes_pooling_layer(config):
        options["add_pooling_layer"] = False
    try:
        with quiet_transformers():
            backbone, report = AutoModel.from_pretrained(
                path, config=config, output_loading_info=True, **options, **loading(path)
            )
    except SafetensorError as error:
        raise ValueError(f"encoder.name_or_path: damaged weights at {name_or_path!r}: {error}") from None
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"encoder.name_or_path: weights at {name_or_path!r} are not only tensors: {said(error)}"
        ) from None
    except OSError as error:
        raise ValueError(f"encoder.name_or_path: no weights at {name_or_path!r}: {error}") from None
    except Exception as error:
        # Other people's classes raise whatever comes where config.json says what cannot be.
        raise ValueError(f"encoder.name_or_path: no encoder can be built at {name_or_path!r}: {said(error)}") from None
    # transformers draws what it does not find at random and goes on.
    lacking = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    lacking += [str(key) for key in report["mismatched_keys"]]
    if any(key.startswith("decoder.") for key in lacking):
        raise _has_decoder(name_or_path, config)
    if lacking:
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} lacks {len(lacking)} weights that its config.json promises, "
            f"first {lacking[0]}"
        )
    if left_over := _left_over(backbone, report["unexpected_keys"]):
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} holds {len(left_over)} weights that its config.json has no place "
            f"for, first {left_over[0]}; is a number in it too small, such as num_hidden_layers?"
        )
    return backbone


def fresh_backbone(backbone: nn.Module) -> nn.Module:
    """A model of the same architecture with weights as transformers draws them before training."""
    config: Any = backbone.config
    with quiet_transformers():
        options: dict[str, Any] = {"add_pooling_layer": False} if takes_pooling_layer(config) else {}
        fresh: nn.Module = AutoModel.from_config(config, **options)
    return fresh


def _left_over(backbone: Any, keys: Iterable[str]) -> list[str]:
    """Weights of parts that the model has, which transformers leaves out silently where config.json says less.

    Other parts, such as heads and the pooler, are left out on purpose.
    """
    parts = {name for name, part in backbone.named_children() if next(part.parameters(), None) is not None}
    found = []
    for key in sorted(keys):
        first, *_, last = key.removeprefix(f"{backbone.base_model_prefix}.").split(".")
        if first in parts and last not in _BUFFERS:
            found.append(key)
    return found


@torch.no_grad()
def _find_first_position(encoder: TextEncoder) -> int | None:
    """The position id of first tokens, found by packing two sentences: no model says it, RoBERTa's is not 0.

    ``None`` if with none do packed sentences get the rows that they get alone; or if attention is not ours, or sees
    less than the whole sentence, which short ones do not tell.
    """
    if encoder.facts.attention != ATTENTION:
        return None
    tokens, pad = probe_tokens(encoder.backbone), encoder._config.pad_token_id or 0
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


def load_mlm_head(name_or_path: str) -> nn.Module:
    """The masked-language-model head of a checkpoint: (B, T, D) token rows to (B, T, V) logits.

    The head keeps its own copy of the tied output matrix, since the encoder beside it may train on.

    Raises:
        ValueError: The checkpoint has no such head.
    """
    model = _load_trained_lm(name_or_path, key="loss.mlm_weight")
    heads = [child for name, child in model.named_children() if name != model.base_model_prefix]
    if len(heads) != 1:
        raise ValueError(f"loss.mlm_weight: {name_or_path!r} has no single language-model head, but {heads}")
    head: nn.Module = heads[0]
    return head


def load_masked_lm(name_or_path: str, *, dropout: float | None = None) -> Any:
    """A masked language model to train on, in float32; a head that the checkpoint lacks starts untrained.

    Args:
        name_or_path: As for ``load_text_encoder``.
        dropout: As there.

    Raises:
        ValueError: As ``load_text_encoder``; or the architecture has no masked language model.
    """
    path, config = _open(name_or_path, dropout=dropout)
    model, lacking = _load_masked_lm(path, name_or_path, key="encoder.name_or_path", config=config)
    own = f"{model.base_model_prefix}."
    if inner := [key for key in lacking if key.startswith(own)]:
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} lacks {len(inner)} weights that its config.json promises, "
            f"first {inner[0]}"
        )
    if lacking:
        tied = model.get_output_embeddings()
        is_tied = tied is not None and tied.weight is model.get_input_embeddings().weight
        logger.warning(
            "encoder.name_or_path: %r stores no language-model head (no %s), so its head starts untrained%s",
            *(name_or_path, lacking[0], ", with an output matrix tied to the embeddings" if is_tied else ""),
        )
    return model


def load_generator(name_or_path: str, tokenizer: PieceTokenizer, *, max_length: int) -> nn.Module:
    """A whole masked language model that fills in words of ``tokenizer``, on the CPU in float32.

    Args:
        name_or_path: A hub id or folder, of any architecture for which transformers has masked language models.
        tokenizer: Of the encoder that reads the words.
        max_length: Tokens of the longest sentence.

    Raises:
        ValueError: It is no masked language model whose head was trained, its ids stand for other pieces than
            ``tokenizer``'s, or it takes fewer tokens.
    """
    key = "generator.name_or_path"
    model: nn.Module = _load_trained_lm(name_or_path, key=key)
    use_cheap_dropout(model)
    register_attention()
    try:
        known = load_tokenizer(name_or_path).inner.get_vocab()
        with quiet_transformers():
            facts = ask_backbone(model.base_model, name_or_path)
    except ValueError as error:
        raise ValueError(f"{key}: {str(error).removeprefix('encoder.name_or_path: ')}") from None
    wanted = tokenizer.inner.get_vocab()
    if known != wanted:
        other = min(piece for piece in known.keys() | wanted.keys() if known.get(piece) != wanted.get(piece))
        raise ValueError(
            f"{key}: {name_or_path!r} has another vocabulary than encoder.name_or_path: {other!r} has the id "
            f"{known.get(other)} there and {wanted.get(other)} here; distilbert-base-uncased goes with "
            "bert-base-uncased, distilroberta-base with roberta-base"
        )
    if facts.longest is not None and facts.longest < max_length:
        raise ValueError(f"{key}: {name_or_path!r} takes {facts.longest} tokens, and data.max_length is {max_length}")
    return model


def _load_trained_lm(name_or_path: str, *, key: str) -> Any:
    """A masked language model with its own weights, all of them; messages begin with ``key``."""
    model, lacking = _load_masked_lm(resolve_name(name_or_path), name_or_path, key=key)
    if lacking:
        raise ValueError(f"{key}: {name_or_path!r} stores no trained language-model head (no {lacking[0]})")
    return model


def _load_masked_lm(path: str, name_or_path: str, *, key: str, config: Any = None) -> tuple[Any, list[str]]:
    """A masked language model, and which of its weights the checkpoint lacks, which transformers draws at random."""
    options: dict[str, Any] = {"dtype": torch.float32} | ({} if config is None else {"config": config})
    try:
        with quiet_transformers():
            model, report = AutoModelForMaskedLM.from_pretrained(
                path, output_loading_info=True, **options, **loading(path)
            )
    except Exception as error:
        raise ValueError(f"{key}: {name_or_path!r} is no masked language model: {said(error)}") from None
    # An output matrix that is tied is stored once.
    lacking = sorted(name for name in report["missing_keys"] if "decoder" not in name)
    return model, [*lacking, *map(str, report["mismatched_keys"])]


def load_tokenizer(name_or_path: str, *, prompt: str = "") -> PieceTokenizer:
    """The tokenizer that belongs to a text encoder; it puts ``prompt`` before every text.

    Raises:
        ValueError: None is there, it cannot be read, or it does not belong to the encoder (``PieceTokenizer.check``).
    """
    path = resolve_name(name_or_path)
    # Other people's classes raise whatever comes where a file or a library that they need is missing.
    try:
        tokenizer = PieceTokenizer(AutoTokenizer.from_pretrained(path, **loading(path)))
        tokenizer.check(rows=_embedding_rows(path))
        tokenizer.prompt = prompt
    except Exception as error:
        raise ValueError(
            f"encoder.name_or_path: no tokenizer at {name_or_path!r}: {said(error)}; its files (tokenizer.json, or "
            "vocab.txt and such) belong beside config.json"
        ) from None
    return tokenizer


def _embedding_rows(path: str) -> int | None:
    """V, as the model's configuration says; ``None`` where there is none, as beside a tokenizer alone, or no table."""
    try:
        rows = getattr(AutoConfig.from_pretrained(path, **loading(path)), "vocab_size", None)
    except Exception:
        return None  # whoever loads the model says what is wrong with it
    return rows if isinstance(rows, int) else None


def _transformer_path(name_or_path: str) -> str:
    """As ``resolve_name``, of what may be trained.

    Raises:
        ValueError: It is a name that evaluation alone takes; says what can be trained instead.
    """
    for prefix, instead in _NOT_TRAINED.items():
        if name_or_path.startswith(prefix):
            raise ValueError(f"encoder.name_or_path: {name_or_path!r}: {instead}")
    return resolve_name(name_or_path)


def _load_config(path: str, name_or_path: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(path, **loading(path))
    except Exception as error:
        raise ValueError(f"encoder.name_or_path: no encoder at {name_or_path!r}: {said(error)}") from None
    if getattr(config, "is_encoder_decoder", False):
        raise _has_decoder(name_or_path, config)
    if not hasattr(config, "hidden_size"):
        raise ValueError(
            f"encoder.name_or_path: {name_or_path!r} ({config.model_type}) is not an encoder-only text model"
        )
    return config


def _has_decoder(name_or_path: str, config: Any) -> ValueError:
    return ValueError(
        f"encoder.name_or_path: {name_or_path!r} ({config.model_type}) is not an encoder-only text model: AutoModel of "
        "transformers, which reads checkpoints, gives it a decoder, too. Its encoder alone can be evaluated, as "
        f"sentence-transformers:{name_or_path}"
    )


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
