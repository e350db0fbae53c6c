"""``JointEncoder``: sentences and images to rows of one space, for checkpoints of the recipe vse.

N sentences or images, M others, B of one batch, F image feature width, H joint width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mcse.encoders.images import ImageInput, checked_features, image_features
from mcse.encoders.inputs import Precision, as_texts, autocast, check_only_pooling, check_precision, evaluating
from mcse.manifest import Located, locate
from mcse.models.checkpoint import load_checkpoint_tower, max_tokens
from mcse.models.image_tower import ImageTower
from mcse.models.joint_checkpoint import load_joint
from mcse.models.joint_model import JointModel
from mcse.types import FloatArray, TokenBatch, Tokenizer

logger = logging.getLogger(__name__)

# Tokenised and sorted at a time, as SentenceEncoder does.
_CHUNK = 32768
_NAMED = 3


class JointEncoder:
    """A joint model with its tokenizer. ``encode`` and ``encode_captions`` give rows of the same space.

    A sentence without a word of the vocabulary gets a row of zeros, which is as similar to everything as to nothing; a
    warning counts them. ``check_query`` refuses it where somebody asks for it.

    Wrapping a model that trains is cheap: it shares the weights, and encoding restores the modes it finds.

    Args:
        model: Text side and heads.
        tokenizer: The text side's.
        name: What to call the encoder in messages and reports.
        image_tower: Names what gave the image features that the model was trained with.
        load_tower: Loads it, the first time that images are encoded.
        precision: ``bfloat16`` runs matrix products in it; rows come out as float32 all the same.

    Raises:
        ValueError: There is no such precision.
    """

    pooling = "joint"
    has_image_heads = True

    def __init__(
        self,
        model: JointModel,
        tokenizer: Tokenizer,
        *,
        name: str = "",
        image_tower: str | None = None,
        load_tower: Callable[[], ImageTower] | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._model = model
        self._tokenizer = copy.deepcopy(tokenizer)
        self._load_tower = load_tower
        self._tower: ImageTower | None = None
        self._longest = max_tokens(model.text, tokenizer)
        self.name = name
        self.image_tower = image_tower
        self.precision = check_precision(precision)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Located,
        *,
        pooling: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> JointEncoder:
        """Loads a run folder (its ``best/``) or a checkpoint folder of the recipe vse.

        Args:
            name_or_path: Where it lies.
            pooling: "joint", the only one.
            device: CUDA where there is one, by default.
            precision: As for the class.

        Raises:
            ValueError: No checkpoint of a joint model is there, it is damaged, or another pooling is asked for.
        """
        located = locate(name_or_path).expect("joint")
        check_only_pooling(located.name, pooling, only=cls.pooling, why="a joint model has one row a sentence")
        loaded = load_joint(located.folder)
        encoder = cls(
            loaded.model,
            loaded.tokenizer,
            name=located.name,
            image_tower=loaded.manifest.image_tower,
            load_tower=partial(load_checkpoint_tower, located.folder),
            precision=precision,
        )
        return encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._model.parameters()).device

    @property
    def dimension(self) -> int:
        """H, the width of the rows of sentences and images alike."""
        return self._model.dim

    @property
    def image_width(self) -> int:
        """F, of the image features that ``encode_image_features`` takes."""
        return self._model.image_width

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The words that the text side knows, the specials first; ``None`` for a transformer, which knows them all."""
        return self._tokenizer.vocabulary

    def to(self, device: str | torch.device) -> JointEncoder:
        """Moves the weights; returns itself."""
        self._model.to(device)
        if self._tower is not None:
            self._tower.to(device)
        return self

    def encode(self, sentences: str | Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """(N, H) float32 rows of sentences in their order, or (H,) for a single string.

        Args:
            sentences: Several, or one.
            batch_size: Sentences a forward pass; they are sorted by length first.
            normalize: Whether rows have unit norm. Rows of zeros stay zeros.

        Raises:
            ValueError: An item is not a string, or ``batch_size`` is below 1.
        """
        row_NH = self._rows(as_texts(sentences, batch_size=batch_size), batch_size=batch_size)
        row_NH = F.normalize(row_NH, dim=-1) if normalize else row_NH
        rows: FloatArray = row_NH.cpu().numpy()
        return rows[0] if isinstance(sentences, str) else rows

    def encode_captions(self, sentences: str | Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, H) float32 unit rows of sentences in the space shared with images: those of ``encode``.

        Raises:
            ValueError: As for ``encode``.
        """
        return self.encode([sentences] if isinstance(sentences, str) else sentences, batch_size=batch_size)

    def encode_image_features(self, features: FloatArray, *, batch_size: int = 256) -> FloatArray:
        """(N, H) float32 unit rows of images in the space shared with sentences.

        Args:
            features: (N, F) features of ``image_tower``, such as ``image_features`` gives.
            batch_size: Images at a time.

        Raises:
            ValueError: The features are not finite rows of the width that the model was trained with.
        """
        title, tower = self._title(), self.image_tower
        blocks = checked_features(features, width=self.image_width, batch_size=batch_size, title=title, tower=tower)
        row_NH = np.empty((len(features), self.dimension), dtype=np.float32)
        with evaluating([self._model]), torch.inference_mode():
            for start, block_BF in blocks:
                row_BH = self._model.images(torch.from_numpy(block_BF).to(self.device)).float()
                row_NH[start : start + len(block_BF)] = F.normalize(row_BH, dim=-1).cpu().numpy()
        return row_NH

    def image_features(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, F) float32 features of images (PIL images, or paths) by ``image_tower``, loaded with the first.

        Raises:
            ValueError: No tower is known, its weights are not to be had or have changed, or an image cannot be read.
        """
        tower = self._loaded_tower()
        chosen = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        mode = autocast(self.device, precision=self.precision)
        with evaluating([tower]):
            return image_features(tower, chosen, batch_size=batch_size, autocast=mode)

    def encode_images(self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = 32) -> FloatArray:
        """(N, H) float32 unit rows of images (PIL images, or paths) in the space shared with sentences.

        Raises:
            ValueError: As for ``image_features``.
        """
        return self.encode_image_features(self.image_features(images, batch_size=batch_size))

    def image_similarity(self, sentences: str | Sequence[str], features: FloatArray) -> FloatArray:
        """(N, M) cosines between N sentences and M images, given by their features."""
        return self.encode_captions(sentences) @ self.encode_image_features(features).T

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of a sentence that the text side does not know, in order; none for a transformer."""
        return self._tokenizer.unknown_words(sentence)

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first; none for a transformer."""
        return self._tokenizer.nearest_words(word, number=number)

    def check_query(self, sentence: str) -> None:
        """Refuses a sentence whose row would be zeros.

        Raises:
            ValueError: It has no word that the text side knows; the message suggests words that are spelt alike.
        """
        if self._tokenizer.knows_some(sentence):
            return
        hints = [hint for word in self.unknown_words(sentence) for hint in self.nearest_words(word, number=3)]
        known = f"; known words like these: {', '.join(dict.fromkeys(hints))}" if hints else ""
        raise ValueError(f"{self._title()} knows no word of {sentence!r}{known}")

    def _rows(self, texts: Sequence[str], *, batch_size: int) -> Tensor:
        """(N, H) float32 rows on the encoder's device, not normalised."""
        row_NH = torch.empty(len(texts), self.dimension, device=self.device)
        mode = autocast(self.device, precision=self.precision)
        with evaluating([self._model]), torch.inference_mode(), mode:
            for start in range(0, len(texts), _CHUNK):
                ids = self._tokenizer.ids(texts[start : start + _CHUNK], max_length=self._longest)
                # The longest first, so that what does not fit into memory says so at once.
                order = np.argsort([-len(row) for row in ids], kind="stable").tolist()
                for first in range(0, len(order), batch_size):
                    chosen = order[first : first + batch_size]
                    row_BH = self._model.captions(self._batch([ids[i] for i in chosen]))
                    row_NH[torch.tensor(chosen, device=self.device) + start] = row_BH.float()
        unknown = self._without_known_words(texts)
        row_NH[unknown] = 0
        return row_NH

    def _without_known_words(self, texts: Sequence[str]) -> list[int]:
        found = [number for number, text in enumerate(texts) if not self._tokenizer.knows_some(text)]
        if found:
            named = ", ".join(repr(texts[number][:60]) for number in found[:_NAMED])
            logger.warning("rows of zeros, for want of any known word, for %d sentences, first %s", len(found), named)
        return found

    def _batch(self, ids: Sequence[Sequence[int]]) -> TokenBatch:
        """Rows padded on the right to the longest."""
        longest = max(len(row) for row in ids)
        id_BT = np.full((len(ids), longest), self._tokenizer.pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(ids), longest), dtype=np.int64)
        for i, row in enumerate(ids):
            id_BT[i, : len(row)] = row
            mask_BT[i, : len(row)] = 1
        return TokenBatch(torch.from_numpy(id_BT).to(self.device), torch.from_numpy(mask_BT).to(self.device))

    def _loaded_tower(self) -> ImageTower:
        if self._tower is None:
            if self._load_tower is None:
                raise ValueError(f"{self._title()} knows no image tower, so it takes image features, not images")
            self._tower = self._load_tower().to(self.device)
        return self._tower

    def _title(self) -> str:
        return repr(self.name) if self.name else "this encoder"
