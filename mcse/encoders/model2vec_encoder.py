"""``Model2VecEncoder``: a model2vec table of token vectors, averaged by that library itself.

B sentences of one batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder
from mcse.encoders.inputs import Precision, RawText, check_only_pooling
from mcse.errors import said
from mcse.hub import folder_at_commit
from mcse.manifest import Located


class Model2VecEncoder(BaseEncoder[RawText]):
    """Averages the vectors of a model2vec table, in main memory. A sentence of no known token gets zeros.

    Args:
        model: As ``model2vec.StaticModel`` gives it.
        name: As for every encoder.
    """

    pooling = "mean"

    def __init__(self, model: Any, *, name: str = "") -> None:
        self._model = model
        super().__init__(name=name, longest=model.max_length)

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        del precision  # means of vectors are the same under each
        check_only_pooling(located.name, pooling, only=cls.pooling, why="a table's vectors are averaged")
        return cls(load_model2vec(located), name=located.name)

    @property
    def dimension(self) -> int:
        """D, the width of the table."""
        return int(self._model.dim)

    def _modules(self) -> list[nn.Module]:
        return []

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[RawText]:
        return [RawText(text, max_length) for text in texts]

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """As for every encoder: the table's own tokens."""
        return [len(ids) for ids in self._model.tokenize(list(sentences), max_length=self.max_length)]

    def _forward(self, tokens: Sequence[RawText]) -> Tensor:
        # Its own norm is left to the frame, so that raw rows are those before it.
        row_BD = self._model.encode(
            [token.text for token in tokens],
            max_length=tokens[0].cut,
            normalize=False,
            batch_size=len(tokens),
            use_multiprocessing=False,
        )
        return torch.from_numpy(row_BD.astype(np.float32))


def load_model2vec(located: Located) -> Any:
    """The table that a name stands for.

    Raises:
        ValueError: The library is not installed, or cannot load the table.
    """
    try:
        from model2vec import StaticModel
    except ImportError as error:
        if error.name != "model2vec":
            raise
        raise ValueError(
            f"{located.name}: needs the package model2vec, which is not installed (pip install 'mcse[model2vec]')"
        ) from None
    try:
        folder = Path(located.path) if Path(located.path).is_dir() else folder_at_commit(located.path)
        return StaticModel.from_pretrained(folder or located.path, force_download=False)
    except Exception as error:
        # Its readers may fail in any way.
        raise ValueError(f"{located.name}: model2vec cannot load it: {said(error)}") from error
