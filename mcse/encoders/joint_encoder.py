"""``JointEncoder``: sentences and images to embeddings of one space, for checkpoints of the recipe vse.

B sentences or images of one batch, F image feature width, H joint width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

from torch import Tensor, nn

from mcse.encoders.images import JointSpaceEncoder, ModelParts
from mcse.encoders.inputs import Precision, check_only_pooling
from mcse.manifest import Located
from mcse.models.checkpoint import load_checkpoint_tower, max_tokens
from mcse.models.image_tower import ImageTower
from mcse.models.joint_checkpoint import load_joint
from mcse.models.joint_model import JointModel
from mcse.models.text_encoder import TextEncoder, check_first_token
from mcse.types import TokenBatch, Tokenizer, to_device

logger = logging.getLogger(__name__)

_NAMED = 3


class JointEncoder(JointSpaceEncoder[list[int]]):
    """A joint model with its tokenizer. ``encode`` and ``encode_captions`` give embeddings of the same space.

    A sentence without a word of the vocabulary gets zeros, which are as similar to everything as to nothing; a warning
    counts them. ``check_query`` refuses it where somebody asks for it.

    Wrapping a model that trains is cheap: it shares the weights, and encoding restores the modes it finds.

    Args:
        model: Text side and heads.
        tokenizer: The text side's.
        name: As for every encoder.
        image_tower: Names what gave the image features that the model was trained with.
        load_tower: Loads it, the first time that images are encoded.
        precision: As for every encoder.
    """

    pooling = "joint"

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
        self._model, self._tokenizer = model, copy.deepcopy(tokenizer)
        if isinstance(model.text, TextEncoder):
            check_first_token(model.text, self._tokenizer)
        self._load_tower, self.image_tower = load_tower, image_tower
        super().__init__(name=name, longest=max_tokens(model.text, tokenizer), precision=precision)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        folder = located.expect("joint").folder
        check_only_pooling(located.name, pooling, only=cls.pooling, why="a joint model has one embedding a sentence")
        loaded = load_joint(folder)
        return cls(
            loaded.model,
            loaded.tokenizer,
            name=located.name,
            image_tower=loaded.manifest.image_tower,
            load_tower=partial(load_checkpoint_tower, folder),
            precision=precision,
        )

    @property
    def dimension(self) -> int:
        """H, the width of the embeddings of sentences and of images."""
        return self._model.dim

    @property
    def image_width(self) -> int:
        """F, of the image features that ``encode_image_features`` takes."""
        return self._model.image_width

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The words that the text side knows, the specials first; ``None`` for a transformer, which knows them all."""
        return self._tokenizer.vocabulary

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of a sentence that the text side does not know, in order; none for a transformer."""
        return self._tokenizer.unknown_words(sentence)

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first; none for a transformer."""
        return self._tokenizer.nearest_words(word, number=number)

    def check_query(self, sentence: str) -> None:
        """Refuses a sentence whose embedding would be zeros.

        Raises:
            ValueError: It has no word that the text side knows; the message suggests words that are spelt similarly.
        """
        if self._tokenizer.knows_some(sentence):
            return
        hints = [hint for word in self.unknown_words(sentence) for hint in self.nearest_words(word, number=3)]
        known = f"; known words like these: {', '.join(dict.fromkeys(hints))}" if hints else ""
        raise ValueError(f"{self._title()} knows no word of {sentence!r}{known}")

    @property
    def parts(self) -> ModelParts:
        """What makes embeddings, for those who write it down in another form."""
        model = self._model
        rows = model.captions
        return ModelParts(rows, model.text, model.text_head, self._tokenizer, captions=rows, images=model.images)

    def _modules(self) -> list[nn.Module]:
        return [self._model]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        """Nothing of a text without a known word, whose embedding is zeros."""
        ids = self._tokenizer.ids(texts, max_length=max_length)
        unknown = [number for number, text in enumerate(texts) if not self._tokenizer.knows_some(text)]
        if unknown:
            named = ", ".join(repr(texts[number][:60]) for number in unknown[:_NAMED])
            logger.warning("embeddings of zeros for %d sentences without a known word, first %s", len(unknown), named)
        for number in unknown:
            ids[number] = []
        return ids

    def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
        return self._model.captions(to_device(TokenBatch.padded(tokens, pad_id=self._tokenizer.pad_id), self.device))

    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        return self._model.images(feature_BF)
