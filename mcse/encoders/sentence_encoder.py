"""``SentenceEncoder``: sentences to rows, the class that people load checkpoints with and that evaluation judges.

N sentences or images, M others, B of one batch, T tokens, D row width, H joint width, F image feature width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from mcse import distributed
from mcse.encoders.images import ImageInput, checked_features, image_features
from mcse.encoders.inputs import Precision, as_texts, autocast, check_precision, evaluating
from mcse.encoders.sources import load_parts
from mcse.manifest import Located, locate
from mcse.models.checkpoint import max_tokens
from mcse.models.image_tower import ImageTower
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.models.text_encoder import TextEncoder
from mcse.types import FloatArray, TokenBatch

# Tokenised and sorted at a time: enough for full batches of equal length, little enough to keep memory flat.
_CHUNK = 32768


class SentenceEncoder:
    """A text encoder with its tokenizer; also captions and images in one space, where the checkpoint has the heads.

    Wrapping a model that trains is cheap: it shares the weights, and ``encode`` restores the modes it finds.

    Args:
        text_encoder: The text tower; its own pooling is overridden by ``pooling``.
        tokenizer: The tower's tokenizer; copied, because encoding changes its truncation.
        pooling: Which row stands for a sentence.
        text_head: Applied to the pooled row under ``cls_with_head``, and only then.
        dense: Applied to the pooled row under every pooling (layers of a sentence-transformers folder).
        heads: ``grounding_head`` and ``image_head`` for the joint space, both or neither.
        joint_pooling: Which row the grounding head was trained on; ``pooling`` by default.
        image_tower: Names what gave the image features that the image head was trained with.
        load_tower: Loads it, the first time that images are encoded.
        name: What to call the encoder in messages and reports.
        max_length: Longest input in tokens; the model's own maximum by default, which it cannot exceed.
        precision: ``bfloat16`` runs matrix products in it; rows come out as float32 all the same.

    Raises:
        ValueError: The pooling is unknown or lacks its head, or ``max_length`` is more than the model takes.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        tokenizer: PieceTokenizer,
        *,
        pooling: str,
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
        self._encoder = TextEncoder(text_encoder.backbone, pooling=pooling)
        self._joint_encoder = TextEncoder(text_encoder.backbone, pooling=joint_pooling or pooling)
        self._head = dense if dense is not None else (text_head if pooling == "cls_with_head" else None)
        self._heads = dict(heads or {})
        self._tokenizer = copy.deepcopy(tokenizer)
        self._longest = max_tokens(text_encoder, tokenizer)
        self._load_tower = load_tower
        self._tower: ImageTower | None = None
        self.image_tower = image_tower
        self.pooling = pooling
        self.name = name
        self.precision = check_precision(precision)
        self.max_length = self._limit(max_length)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> SentenceEncoder:
        """Loads a run folder (its ``best/``), a checkpoint, a sentence-transformers folder, or any encoder.

        Args:
            name_or_path: A folder, a hub id, or ``package:NAME/FOLDER`` inside an installed package.
            pooling: Overrides what the folder says; needed for an encoder that says nothing.
            device: CUDA where there is one, by default.
            precision: As for the class.

        Raises:
            ValueError: Nothing loadable is there, its pooling is not known, or it lacks what ``pooling`` needs.
        """
        located = locate(name_or_path)
        parts = load_parts(located, pooling=pooling)
        encoder = cls(
            parts.text_encoder,
            parts.tokenizer,
            pooling=parts.pooling,
            text_head=parts.text_head,
            dense=parts.dense,
            heads=parts.heads,
            joint_pooling=parts.joint_pooling,
            image_tower=parts.image_tower,
            load_tower=parts.load_tower,
            name=located.name,
            max_length=parts.max_length,
            precision=precision,
        )
        return encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._encoder.parameters()).device

    @property
    def dimension(self) -> int:
        """D, the width of the rows of ``encode``."""
        return self._encoder.width if self._head is None else _width(self._head)

    @property
    def has_image_heads(self) -> bool:
        """Whether ``encode_captions`` and ``encode_image_features`` can work."""
        return {"grounding_head", "image_head"} <= self._heads.keys()

    def to(self, device: str | torch.device) -> SentenceEncoder:
        """Moves the weights; returns itself."""
        for module in self._modules():
            module.to(device)
        return self

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: Literal[False] = False,
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
    ) -> FloatArray: ...

    @overload
    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: Literal[True],
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
    ) -> Tensor: ...

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        convert_to_tensor: bool = False,
        show_progress: bool = False,
        max_length: int | None = None,
        precision: Precision | None = None,
    ) -> FloatArray | Tensor:
        """Rows of sentences, in their order. Rows that are not finite are returned as they are.

        Args:
            sentences: Several, or one.
            batch_size: Sentences a forward pass; they are sorted by length first.
            normalize: Whether rows have unit norm.
            convert_to_tensor: Gives a tensor on the encoder's device instead of an array.
            show_progress: Shows a bar, on the main process.
            max_length: Cuts sentences after so many tokens; ``self.max_length`` by default.
            precision: ``self.precision`` by default.

        Returns:
            (N, D) float32, or (D,) for a single string.

        Raises:
            ValueError: An item is not a string, ``batch_size`` is below 1, or ``max_length`` beyond the model.
        """
        rows_ND = self._rows(
            as_texts(sentences, batch_size=batch_size),
            self._encoder,
            head=self._head,
            batch_size=batch_size,
            max_length=self.max_length if max_length is None else self._limit(max_length),
            precision=self.precision if precision is None else check_precision(precision),
            show_progress=show_progress,
        )
        rows_ND = F.normalize(rows_ND, dim=-1) if normalize else rows_ND
        rows = rows_ND[0] if isinstance(sentences, str) else rows_ND
        return rows if convert_to_tensor else _as_array(rows)

    def similarity(
        self, first: str | Sequence[str] | FloatArray, second: str | Sequence[str] | FloatArray, *, batch_size: int = 64
    ) -> FloatArray:
        """(N, M) cosines between sentences, or rows of ``encode``."""
        first_ND, second_MD = (self._unit_rows(given, batch_size=batch_size) for given in (first, second))
        if first_ND.shape[1] != second_MD.shape[1]:
            raise ValueError(f"rows are {first_ND.shape[1]} and {second_MD.shape[1]} wide; cosines need equal widths")
        return first_ND @ second_MD.T

    def encode_captions(self, sentences: str | Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, H) float32 unit rows of sentences in the space shared with images.

        Raises:
            ValueError: The encoder has no image heads, or an item is not a string.
        """
        row_NH = self._rows(
            as_texts(sentences, batch_size=batch_size),
            self._joint_encoder,
            head=self._joint_head("grounding_head"),
            batch_size=batch_size,
            max_length=self.max_length,
            precision=self.precision,
            show_progress=False,
        )
        return _as_array(F.normalize(row_NH, dim=-1))

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, H) float32 unit rows of images in the space shared with sentences.

        Args:
            features: (N, F) features of ``image_tower``, such as ``image_features`` gives.
            batch_size: Images at a time.

        Raises:
            ValueError: The encoder has no image heads, or the features are not finite rows of the width it was trained
                with.
        """
        head = self._joint_head("image_head")
        wanted = next(module.in_features for module in head.modules() if isinstance(module, nn.Linear))
        tower = self.image_tower
        blocks = checked_features(features, width=wanted, batch_size=batch_size, title=self._title(), tower=tower)
        joint_NH = np.empty((len(features), _width(head)), dtype=np.float32)
        with evaluating([head]), torch.inference_mode():
            for start, block_BF in blocks:
                row_BH = F.normalize(head(torch.from_numpy(block_BF).to(self.device)).float(), dim=-1)
                joint_NH[start : start + len(block_BF)] = row_BH.cpu().numpy()
        return joint_NH

    def image_features(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, F) float32 features of images (PIL images, or paths) by ``image_tower``.

        It is loaded with the first images: one that was trained from the checkpoint folder, a frozen one from where
        ``mcse extract-features`` takes it.

        Raises:
            ValueError: No tower is known, its weights are not to be had or have changed, or an image cannot be read.
        """
        tower = self._loaded_tower()
        chosen = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        with evaluating([tower]):
            return image_features(
                tower, chosen, batch_size=batch_size, autocast=autocast(self.device, precision=self.precision)
            )

    def encode_images(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, H) float32 unit rows of images (PIL images, or paths) in the space shared with sentences.

        Raises:
            ValueError: As for ``image_features``, or the encoder has no image heads.
        """
        self._joint_head("image_head")  # before anything is loaded
        return self.encode_image_features(self.image_features(images, batch_size=batch_size))

    def image_similarity(self, sentences: str | Sequence[str], features: FloatArray) -> FloatArray:
        """(N, M) cosines between N sentences and M images, given by their features."""
        return self.encode_captions(sentences) @ self.encode_image_features(features).T

    def _rows(
        self,
        texts: Sequence[str],
        encoder: TextEncoder,
        *,
        head: nn.Module | None,
        batch_size: int,
        max_length: int | None,
        precision: Precision,
        show_progress: bool,
    ) -> Tensor:
        """(N, D) float32 rows on the encoder's device, not normalised."""
        width = encoder.width if head is None else _width(head)
        row_ND = torch.empty(len(texts), width, device=self.device)
        bar = tqdm(total=len(texts), unit="sentence", disable=not (show_progress and distributed.is_main()))
        modules = [encoder, *([] if head is None else [head])]
        with bar, evaluating(modules), torch.inference_mode(), autocast(self.device, precision=precision):
            for start in range(0, len(texts), _CHUNK):
                ids = self._tokenizer.ids(texts[start : start + _CHUNK], max_length=max_length)
                # The longest first, so that what does not fit into memory says so at once.
                order = np.argsort([-len(row) for row in ids], kind="stable").tolist()
                for first in range(0, len(order), batch_size):
                    chosen = order[first : first + batch_size]
                    pooled_BD = encoder(self._batch([ids[i] for i in chosen]))
                    rows = pooled_BD if head is None else head(pooled_BD)
                    row_ND[torch.tensor(chosen, device=self.device) + start] = rows.float()
                    bar.update(len(chosen))
        return row_ND

    def _batch(self, ids: Sequence[Sequence[int]]) -> TokenBatch:
        """Rows padded on the right to the longest."""
        longest = max(len(row) for row in ids)
        id_BT = np.full((len(ids), longest), self._tokenizer.pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(ids), longest), dtype=np.int64)
        for i, row in enumerate(ids):
            id_BT[i, : len(row)] = row
            mask_BT[i, : len(row)] = 1
        return TokenBatch(torch.from_numpy(id_BT).to(self.device), torch.from_numpy(mask_BT).to(self.device))

    def _limit(self, max_length: int | None) -> int | None:
        if max_length is None:
            return self._longest
        if max_length < 1 or (self._longest is not None and max_length > self._longest):
            raise ValueError(f"max_length must be 1 to {self._longest} tokens, the model's maximum; got {max_length}")
        return max_length

    def _joint_head(self, name: str) -> nn.Module:
        if not self.has_image_heads:
            raise ValueError(
                f"{self._title()} has no image heads (grounding_head, image_head), so it cannot compare sentences with "
                "images; a checkpoint of the recipe mcse has them"
            )
        return self._heads[name]

    def _loaded_tower(self) -> ImageTower:
        if self._tower is None:
            if self._load_tower is None:
                raise ValueError(f"{self._title()} knows no image tower, so it takes image features, not images")
            self._tower = self._load_tower().to(self.device)
        return self._tower

    def _unit_rows(self, given: str | Sequence[str] | FloatArray, *, batch_size: int) -> FloatArray:
        if isinstance(given, np.ndarray):
            rows_ND = torch.from_numpy(np.atleast_2d(given).astype(np.float32, copy=False))
            return _as_array(F.normalize(rows_ND, dim=-1))
        return self.encode([given] if isinstance(given, str) else given, batch_size=batch_size)

    def _modules(self) -> list[nn.Module]:
        given = (self._encoder, self._head, *self._heads.values(), self._tower)
        return [module for module in given if module is not None]

    def _title(self) -> str:
        return repr(self.name) if self.name else "this encoder"


def _as_array(rows: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = rows.cpu().numpy()
    return array


def _width(head: nn.Module) -> int:
    """Of the rows that a head of linear layers gives."""
    return [module.out_features for module in head.modules() if isinstance(module, nn.Linear)][-1]
