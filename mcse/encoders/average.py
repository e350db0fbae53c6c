"""``AverageEncoder``: several encoders as one, whose cosines are the weighted average of theirs.

B sentences of one batch, D width of all parts together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder
from mcse.encoders.inputs import Precision, RawText, check_only_pooling
from mcse.manifest import Located, Reading, parts_of_average

if TYPE_CHECKING:
    from mcse.encoders.loading import AnyEncoder


class AverageEncoder(BaseEncoder[RawText]):
    """√weight times the unit embedding of each part, side by side; of a single part its own embedding.

    Args:
        parts: The encoders.
        weights: Of their cosines; divided by their sum.
        name: As for every encoder.
        precision: As for every encoder.
    """

    pooling = "average"

    def __init__(
        self, parts: Sequence[AnyEncoder], weights: Sequence[float], *, name: str = "", precision: Precision = "float32"
    ) -> None:
        self._parts = tuple(parts)
        self._scales = [math.sqrt(weight / sum(weights)) for weight in weights]
        if len(self._parts) == 1:
            self.pooling = self._parts[0].pooling
        super().__init__(name=name, precision=precision)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        from mcse.encoders.loading import load_encoder  # which knows this class, too

        check_only_pooling(located.name, pooling, only=cls.pooling, why="each part has its own, as NAME@POOLING")
        parts = parts_of_average(located.path)
        encoders = [load_encoder(part.name, pooling=part.pooling, precision=precision, device="cpu") for part in parts]
        return cls(encoders, [part.weight for part in parts], name=located.name, precision=precision)

    def _take(self, reading: Reading) -> None:
        if reading.prompt is not None:
            raise ValueError(f"{self._title()}: each part has its own prompt; --prompt is for one model")
        super()._take(reading)

    @property
    def dimension(self) -> int:
        """D."""
        return sum(part.dimension for part in self._parts)

    def _modules(self) -> list[nn.Module]:
        return [module for part in self._parts for module in part._modules()]

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[RawText]:
        """Texts as they are: each part tokenises them by itself."""
        return [RawText(text, max_length) for text in texts]

    def _forward(self, tokens: Sequence[RawText]) -> Tensor:
        texts, is_alone = [token.text for token in tokens], len(self._parts) == 1
        is_low = torch.is_autocast_enabled(self.device.type)
        rows = [
            part.encode(
                texts,
                batch_size=len(texts),
                normalize=not is_alone,
                convert_to_tensor=True,
                max_length=tokens[0].cut,
                precision="bfloat16" if is_low else "float32",
            )
            for part in self._parts
        ]
        return torch.cat([row.to(self.device) * scale for row, scale in zip(rows, self._scales, strict=True)], dim=1)
