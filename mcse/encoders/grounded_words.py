"""Grounded word vectors as they are in the middle of training, for evaluators.

V words, C grounded width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.text.word_map import WordMap
from mcse.text.word_vectors import WordBlock, WordVectors
from mcse.types import FloatArray


class LiveWordEncoder:
    """Averages the grounded vectors that the map of this moment gives.

    Args:
        source: Text vectors of the words that will be asked for; others have no vector.
        current_map: Gives the map as training has made it so far.
    """

    def __init__(self, source: WordVectors, current_map: Callable[[], WordMap]) -> None:
        self._source, self._current_map = source, current_map

    def encode(self, sentences: Sequence[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray:
        """(N, C) float32 rows, zeros where no word is known."""
        grounded = self._current_map().ground(WordBlock(self._source.words, self._source.row_VD))
        vectors = WordVectors(self._source.words, self._source.index, grounded.row_ND)
        return WordVectorEncoder(vectors).encode(list(sentences), batch_size=batch_size, normalize=normalize)
