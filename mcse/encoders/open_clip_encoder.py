"""``OpenClipEncoder``: the text tower of an open_clip model, and its images' features in the same space.

N sentences, B sentences or images of one batch, T token positions, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

from torch import Tensor, nn

from mcse.encoders.images import JointSpaceEncoder
from mcse.encoders.inputs import Precision, check_only_pooling
from mcse.manifest import Located
from mcse.models.image_tower import ImageTower, load_image_tower
from mcse.models.open_clip_text import OpenClipText, load_open_clip_text, used_positions


class OpenClipEncoder(JointSpaceEncoder[Tensor]):
    """Sentences to embeddings of the space that an open_clip model shares with images.

    ``encode`` and ``encode_captions`` give the same: there are no heads, and image features need only their norm.
    ``pooling`` is "joint", since the tower pools in its own way and projects.

    Args:
        text: The text tower, on its device and in evaluation mode.
        name: As for every encoder.
        load_tower: Loads the image side, the first time that images are encoded.
        precision: As for every encoder.
    """

    pooling = "joint"

    def __init__(
        self,
        text: OpenClipText,
        *,
        name: str = "",
        load_tower: Callable[[], ImageTower] | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._text = text
        self._load_tower, self.image_tower = load_tower, text.spec
        super().__init__(name=name, longest=text.context, precision=precision)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        name = located.expect("open_clip").name
        check_only_pooling(name, pooling, only=cls.pooling, why="an open_clip model pools in its own way")
        return cls(
            load_open_clip_text(name), name=name, load_tower=partial(load_image_tower, name), precision=precision
        )

    @property
    def dimension(self) -> int:
        """D, the width of the embeddings of sentences and of images."""
        return self._text.width

    @property
    def image_width(self) -> int:
        """D: image features are in the space already."""
        return self._text.width

    def _modules(self) -> list[nn.Module]:
        return [self._text]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[Tensor]:
        id_NT = self._text.tokenize(texts, length=max_length)
        return [id_T[:used] for id_T, used in zip(id_NT, used_positions(id_NT).tolist(), strict=True)]

    def _forward(self, tokens: Sequence[Tensor]) -> Tensor:
        row_BD: Tensor = self._text(nn.utils.rnn.pad_sequence(list(tokens), batch_first=True).to(self.device))
        return row_BD

    def _forward_images(self, feature_BF: Tensor) -> Tensor:
        return feature_BF
