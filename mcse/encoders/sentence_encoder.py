"""``SentenceEncoder``: sentences to embeddings, the class that people load checkpoints with.

N sentences or images, B of one batch, D embedding width, H joint width, F image feature width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, overload

import numpy as np
import torch
from torch import Tensor, nn

from mcse.encoders.exported import ExportedEncoder
from mcse.encoders.images import JointSpaceEncoder, ModelParts
from mcse.encoders.inputs import Precision
from mcse.encoders.located import located_anywhere
from mcse.encoders.sentence_transformers_folder import Module, list_modules, read_modules
from mcse.manifest import Located, Runtime
from mcse.models.checkpoint import (
    check_pooling,
    load_checkpoint,
    load_checkpoint_tower,
    load_stored_pooler,
    max_tokens,
)
from mcse.models.image_tower import ImageTower
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import POOLINGS, TextEncoder, check_first_token
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.types import TokenBatch, Tokenizer, to_device

if TYPE_CHECKING:
    from mcse.encoders.push import Pushed

logger = logging.getLogger(__name__)


class SentenceEncoder(JointSpaceEncoder[list[int]]):
    """A text encoder with its tokenizer; also captions and images in one space, where the checkpoint has the heads.

    Wrapping a model that trains is cheap: it shares the weights, and ``encode`` restores the modes it finds.

    Attributes:
        keeps_tokens: Whether the tokens of what was encoded last are kept, for a dev set that is encoded many times.

    Args:
        text_encoder: The text tower; its own pooling is overridden by ``pooling``.
        tokenizer: The tower's tokenizer; copied, because encoding changes its truncation.
        pooling: Which vector stands for a sentence.
        prompt: Put before every sentence.
        text_head: Applied to that vector under ``cls_with_head``, and only then.
        dense: Applied to it under every pooling (layers of a sentence-transformers folder).
        heads: ``grounding_head`` and ``image_head`` for the joint space, both or neither.
        joint_pooling: Which vector the grounding head was trained on; ``pooling`` by default.
        image_tower: Names what gave the image features that the image head was trained with.
        load_tower: Loads it, the first time that images are encoded.
        name: As for every encoder.
        max_length: As for every encoder.
        precision: As for every encoder.

    Raises:
        ValueError: The pooling is unknown or lacks its head, or ``max_length`` is more than the model takes.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        *,
        pooling: str,
        prompt: str = "",
        text_head: nn.Module | None = None,
        dense: nn.Module | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        joint_pooling: str | None = None,
        image_tower: str | None = None,
        load_tower: Callable[[], ImageTower] | None = None,
        name: str = "",
        max_length: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        if pooling == "cls_with_head" and text_head is None and dense is None:
            raise ValueError("pooling 'cls_with_head' needs a text head, and there is none")
        self._encoder, self._joint_encoder = (
            TextEncoder(text_encoder.backbone, pooling=chosen, facts=text_encoder.facts)
            for chosen in (pooling, joint_pooling or pooling)
        )
        self._head = dense if dense is not None else (text_head if pooling == "cls_with_head" else None)
        self._heads = dict(heads or {})
        self._tokenizer = copy.deepcopy(tokenizer)
        self.keeps_tokens = False
        self._kept_tokens: tuple[tuple[tuple[str, ...], int | None], list[list[int]]] | None = None
        check_first_token(self._encoder, self._tokenizer)
        self._load_tower, self.image_tower = load_tower, image_tower
        self.pooling, self.prompt = pooling, prompt
        longest = max_tokens(text_encoder, tokenizer)
        super().__init__(name=name, longest=longest, max_length=max_length, precision=precision)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        backend: Literal["torch"] = "torch",
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        backend: Literal["onnx", "openvino"],
    ) -> ExportedEncoder: ...

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        backend: Runtime = "torch",
    ) -> Self | ExportedEncoder:
        """Loads a model that somebody saved, as every encoder does.

        Args:
            name_or_path: As ``mcse.manifest.locate`` takes it.
            pooling: Overrides what the model says; needed for one that says nothing.
            device: CUDA where there is one, by default; an exported graph runs on the CPU.
            precision: As for the class.
            backend: ``onnx`` and ``openvino`` run a folder of ``mcse export``.

        Raises:
            ValueError: No such model is there, it is damaged or of another kind, it has no such pooling, or the library
                that runs it is not installed.
        """
        located = located_anywhere(name_or_path)
        if backend == "torch":
            return super().from_pretrained(located, pooling=pooling, device=device, precision=precision)
        if located.kind != "exported":
            raise ValueError(
                f"{located.name} is no exported graph; mcse export {located.name} --to {backend} --output FOLDER "
                "makes one"
            )
        located = replace(located, reading=replace(located.reading, backend=backend))
        return ExportedEncoder.from_pretrained(located, pooling=pooling, precision=precision)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        if pooling is not None:
            check_pooling(pooling)
        located.expect("sentence", "sentence_transformers", "transformers", "hub")
        if located.kind == "sentence":
            return cls._of_checkpoint(located, pooling=pooling, precision=precision)
        if (modules := list_modules(located.path)) is not None:
            return cls._of_modules(located, modules, pooling=pooling, precision=precision)
        name, path = located.name, located.path
        if pooling is None:
            unsaid = f"does not say how its embeddings are pooled; choose pooling from {', '.join(POOLINGS)}"
            if located.kind == "hub":
                raise ValueError(f"there is no folder {name!r} here; as a model of the hub it {unsaid}")
            raise ValueError(f"{name!r} {unsaid}")
        head = load_stored_pooler(path) if pooling == "cls_with_head" else None
        text, tokenizer = load_text_encoder(path, pooling=pooling), load_tokenizer(path)
        return cls(text, tokenizer, pooling=pooling, text_head=head, name=name, precision=precision)

    @classmethod
    def _of_checkpoint(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        loaded = load_checkpoint(located.folder)
        chosen = pooling or str(loaded.manifest.pooling)
        if chosen == "cls_with_head" and loaded.text_head is None:
            raise ValueError(f"pooling 'cls_with_head': {located.path} stores no text head")
        return cls(
            loaded.encoder,
            PieceTokenizer(loaded.tokenizer.inner),
            pooling=chosen,
            prompt=loaded.tokenizer.prompt,
            text_head=loaded.text_head,
            heads=loaded.heads,
            joint_pooling=loaded.manifest.pooling,
            image_tower=loaded.manifest.image_tower,
            load_tower=partial(load_checkpoint_tower, located.folder),
            name=located.name,
            precision=precision,
        )

    @classmethod
    def _of_modules(
        cls, located: Located, modules: Sequence[Module], *, pooling: str | None, precision: Precision
    ) -> Self:
        """A sentence-transformers folder or repository."""
        path, found = located.path, read_modules(located.path, modules)
        chosen = pooling or found.pooling
        # A head stands on the embeddings it was trained on: under another pooling than the folder's it is left out.
        kept = found.dense if chosen == found.pooling else None
        if chosen == "cls_with_head" and kept is None:
            raise ValueError(f"pooling 'cls_with_head': {path} stores no Dense layer on its [CLS] rows")
        text = load_text_encoder(found.transformer_path, pooling=chosen)
        tokenizer = load_tokenizer(found.transformer_path)
        if found.lowercases and tokenizer.inner.tokenize("A") != tokenizer.inner.tokenize("a"):
            told = "sentence_bert_config.json sets do_lower_case"
            raise ValueError(f"{path}: {told}, but its tokenizer tells cases apart")
        if found.max_length is not None:
            _limit(tokenizer, found.max_length, text, path)
        if kept is not None and (width := _first(kept).in_features) != text.width:
            raise ValueError(f"{path}: its Dense layer takes {width} values, but its embeddings have {text.width}")
        return cls(text, tokenizer, pooling=chosen, dense=kept, name=located.name, precision=precision)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        datasets: Sequence[str] = (),
        languages: Sequence[str] = (),
        private: bool = True,
        dry_run: bool = False,
    ) -> Pushed:
        """Sends the run or checkpoint that this encoder was loaded from to the hub, as ``mcse push`` does.

        Args:
            repo_id: ``OWNER/NAME``; made where it is not there.
            licence: As ``mcse.encoders.push.push`` takes it, as all else.
            datasets: What the model was trained on.
            languages: ISO codes.
            private: Whether others cannot see it.
            dry_run: Sends nothing; the files are those of what is returned.

        Raises:
            ValueError: As ``mcse.encoders.push.push``; or the encoder was not loaded from a checkpoint, or is not as it
                was loaded: it gives other embeddings.
            OSError: The hub refuses it or cannot be reached; says what is there.
        """
        from mcse.encoders.push import push

        if not self.name:
            raise ValueError("this encoder was not loaded from a checkpoint; its run saves one, which can be pushed")
        again = type(self).from_pretrained(self.name, precision=self.precision, device=self.device)
        probes = ["A man plays the guitar.", "two dogs"]
        if not np.allclose(again.encode(probes), self.encode(probes), atol=1e-5):
            raise ValueError(f"{self._title()} gives other embeddings than its files; save it, and push what was saved")
        return push(
            self.name,
            repo_id,
            licence=licence,
            datasets=datasets,
            languages=languages,
            private=private,
            dry_run=dry_run,
        )

    @property
    def dimension(self) -> int:
        """D, the width of the embeddings of ``encode``."""
        return self._encoder.width if self._head is None else _width(self._head)

    @property
    def has_image_heads(self) -> bool:
        """Whether ``encode_captions`` and ``encode_image_features`` can work."""
        return {"grounding_head", "image_head"} <= self._heads.keys()

    @property
    def image_width(self) -> int:
        """F, of the image features that the image head takes."""
        head = self._joint_head("image_head")
        return _first(head).in_features

    @property
    def joint_dimension(self) -> int:
        """H, the width of the space shared with images."""
        return _width(self._joint_head("image_head"))

    def _modules(self) -> list[nn.Module]:
        head = [] if self._head is None else [self._head]
        return [self._encoder, *head, *self._heads.values()]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        if not self.keeps_tokens:
            return self._tokenizer.ids(texts, max_length=max_length)
        given = (tuple(texts), max_length)
        if self._kept_tokens is None or self._kept_tokens[0] != given:
            self._kept_tokens = (given, self._tokenizer.ids(texts, max_length=max_length))
        return self._kept_tokens[1]

    def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
        return self._pooled(tokens, self._encoder, self._head)

    def _forward_captions(self, tokens: Sequence[list[int]]) -> Tensor:
        return self._pooled(tokens, self._joint_encoder, self._joint_head("grounding_head"))

    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        row_BH: Tensor = self._joint_head("image_head")(feature_BF)
        return row_BH

    @property
    def parts(self) -> ModelParts:
        """What makes embeddings, for those who write it down in another form."""
        rows = partial(_rows, encoder=self._encoder, head=self._head)
        parts = ModelParts(rows, self._encoder, self._head, self._tokenizer)
        if not self.has_image_heads:
            return parts
        captions = partial(_rows, encoder=self._joint_encoder, head=self._heads["grounding_head"])
        return replace(parts, captions=captions, images=self._forward_images)

    def _pooled(self, tokens: Sequence[list[int]], encoder: TextEncoder, head: nn.Module | None) -> Tensor:
        batch = TokenBatch.padded(tokens, pad_id=self._tokenizer.pad_id)
        return _rows(to_device(batch, self.device), encoder=encoder, head=head)

    def _joint_head(self, name: str) -> nn.Module:
        if not self.has_image_heads:
            raise ValueError(
                f"{self._title()} has no image heads (grounding_head, image_head), so it cannot compare sentences with "
                "images; a checkpoint of the recipe mcse has them"
            )
        return self._heads[name]


def _rows(batch: TokenBatch, *, encoder: TextEncoder, head: nn.Module | None) -> Tensor:
    """(B, D) embeddings of a batch, not normalised."""
    row_BD: Tensor = encoder(batch)
    return row_BD if head is None else head(row_BD)


def _limit(tokenizer: PieceTokenizer, max_length: int, text: TextEncoder, path: str) -> None:
    """Lets a folder's ``max_seq_length`` stand for its tokenizer's own maximum, as sentence-transformers does."""
    special = tokenizer.inner.num_special_tokens_to_add()
    if max_length <= special:
        raise ValueError(f"{path}: max_seq_length {max_length} leaves no room beside {special} special tokens")
    tokenizer.inner.model_max_length = max_length
    if (takes := max_tokens(text, tokenizer)) is not None and takes < max_length:
        logger.warning("%s: max_seq_length is %d, but the model takes %d tokens: cut there", path, max_length, takes)


def _first(head: nn.Module) -> nn.Linear:
    return next(module for module in head.modules() if isinstance(module, nn.Linear))


def _width(head: nn.Module) -> int:
    """Of the embeddings that a head of linear layers gives."""
    return [module.out_features for module in head.modules() if isinstance(module, nn.Linear)][-1]
