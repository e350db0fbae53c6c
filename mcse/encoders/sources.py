"""What a ``SentenceEncoder`` is made of, for each kind of model that it loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mcse.encoders.sentence_transformers_folder import fetch_json, read_modules
from mcse.manifest import Located, locate
from mcse.models.checkpoint import (
    check_pooling,
    load_checkpoint,
    load_checkpoint_tower,
    load_stored_pooler,
    max_tokens,
)
from mcse.models.image_tower import ImageTower
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import POOLINGS, TextEncoder, load_text_encoder, load_tokenizer


@dataclass(frozen=True, slots=True)
class EncoderParts:
    """What a ``SentenceEncoder`` is made of.

    ``text_head`` belongs to the rows under the pooling ``cls_with_head``, ``dense`` under every pooling. ``heads`` make
    the joint space with images, which stands on rows of ``joint_pooling``; ``image_tower`` names what gave the images'
    features, and ``load_tower`` loads it. ``max_length``: tokens, if the folder says.
    """

    text_encoder: TextEncoder
    tokenizer: PieceTokenizer
    pooling: str
    text_head: nn.Module | None = None
    dense: nn.Module | None = None
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    joint_pooling: str | None = None
    image_tower: str | None = None
    load_tower: Callable[[], ImageTower] | None = None
    max_length: int | None = None


def load_parts(name_or_path: str | Path | Located, *, pooling: str | None) -> EncoderParts:
    """The parts of an encoder, on the CPU.

    Args:
        name_or_path: As ``locate`` takes it, of a sentence encoder of any make.
        pooling: Overrides what the folder says; needed where it says nothing.

    Raises:
        ValueError: Nothing loadable is there, it does not say its pooling, or it lacks the head that ``pooling`` needs.
    """
    if pooling is not None:
        check_pooling(pooling)
    located = locate(name_or_path).expect("sentence", "sentence_transformers", "transformers", "hub")
    if located.kind == "sentence":
        return _ours(located.folder, pooling=pooling)
    path = located.path
    if (modules := fetch_json(path, "modules.json")) is not None:
        return _sentence_transformers(path, modules, pooling=pooling)
    if pooling is None:
        unsaid = f"does not say how its rows are pooled; choose pooling from {', '.join(POOLINGS)}"
        if located.kind == "hub":
            raise ValueError(f"there is no folder {located.name!r} here; as a model of the hub it {unsaid}")
        raise ValueError(f"{located.name!r} {unsaid}")
    text_head = load_stored_pooler(path) if pooling == "cls_with_head" else None
    return EncoderParts(load_text_encoder(path, pooling=pooling), load_tokenizer(path), pooling, text_head=text_head)


def _ours(folder: Path, *, pooling: str | None) -> EncoderParts:
    loaded = load_checkpoint(folder)
    chosen = pooling or str(loaded.manifest.pooling)
    if chosen == "cls_with_head" and loaded.text_head is None:
        raise ValueError(f"pooling 'cls_with_head': {folder} stores no text head")
    return EncoderParts(
        loaded.encoder,
        loaded.tokenizer,
        chosen,
        text_head=loaded.text_head,
        heads=loaded.heads,
        joint_pooling=loaded.manifest.pooling,
        image_tower=loaded.manifest.image_tower,
        load_tower=partial(load_checkpoint_tower, folder),
    )


def _sentence_transformers(path: str, modules: Any, *, pooling: str | None) -> EncoderParts:
    found = read_modules(path, modules)
    chosen = pooling or found.pooling
    # A head stands on the rows it was trained on: under another pooling than the folder's it is left out.
    kept = found.dense if chosen == found.pooling else None
    if chosen == "cls_with_head" and kept is None:
        raise ValueError(f"pooling 'cls_with_head': {path} stores no Dense layer on its [CLS] rows")
    text_encoder = load_text_encoder(found.transformer_path, pooling=chosen)
    tokenizer = load_tokenizer(found.transformer_path)
    if found.lowercases and tokenizer.inner.tokenize("A") != tokenizer.inner.tokenize("a"):
        raise ValueError(f"{path}: sentence_bert_config.json sets do_lower_case, but its tokenizer tells cases apart")
    lengths = [length for length in (found.max_length, max_tokens(text_encoder, tokenizer)) if length is not None]
    return EncoderParts(text_encoder, tokenizer, chosen, dense=kept, max_length=min(lengths, default=None))
