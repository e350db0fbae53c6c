"""Frozen features of tokenised sentences: static vectors, and the layers of a contextual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mcse.encoders.contextual import ContextualEncoder, CoveEncoder
from mcse.encoders.loading import load_encoder
from mcse.text.word_vectors import WordVectors, load_word_vectors
from mcse.types import FloatArray


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """Where features come from; either may be absent."""

    vectors: WordVectors | None
    encoder: ContextualEncoder | None

    def static(self, sentences: Sequence[Sequence[str]]) -> list[FloatArray]:
        """(T, E) of each sentence: a word as it is, else in lower case, else zeros. Empty without vectors."""
        if self.vectors is None:
            return []
        index, row_VE = self.vectors.index, np.vstack([self.vectors.row_VD, np.zeros((1, self.vectors.width))])
        unknown = len(self.vectors)
        return [
            row_VE[[index.get(word, index.get(word.lower(), unknown)) for word in words]].astype(np.float32)
            for words in sentences
        ]

    def layers(self, sentences: Sequence[Sequence[str]]) -> list[FloatArray]:
        """(L, T, D) of each sentence. Of a CoVe its recurrent layers alone; the static ones come from the vectors."""
        if self.encoder is None:
            return []
        first = 1 if isinstance(self.encoder, CoveEncoder) else 0
        return [np.stack(found[first:]) for found in self.encoder.embed_layers(sentences)]


def load_feature_source(*, vectors: str | None, contextual: str | None, is_untrained: bool, seed: int) -> FeatureSource:
    """Loads what is named.

    Args:
        vectors: A file of word vectors.
        contextual: Any name of an ELMo or CoVe that ``load_encoder`` takes.
        is_untrained: The control in which the recurrent weights are drawn anew, word vectors kept.
        seed: Of that draw.

    Raises:
        ValueError: Nothing is named, or the encoder has no vectors of words.
    """
    encoder = None
    if contextual is not None:
        loaded = load_encoder(contextual, device="cpu")
        if not isinstance(loaded, ContextualEncoder):
            raise ValueError(f"features.contextual: {contextual!r} has no vectors of words in context")
        encoder = loaded
        if is_untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder.redraw()
    return FeatureSource(load_word_vectors(vectors) if vectors is not None else None, encoder)
