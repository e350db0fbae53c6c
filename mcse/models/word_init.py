"""Word embeddings that start from a file of word vectors.

V words, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from mcse.text.vocab import Vocab
from mcse.text.word_vectors import WordVectors


def fill_words(embedding: nn.Embedding, vocab: Vocab, vectors: WordVectors) -> int:
    """Puts a vector in the place of every word that has one; returns how many have.

    A word is looked up as the vocabulary spells it, then, of a lower-cased vocabulary, capitalised: word2vec's files
    have "Paris" alone.

    Raises:
        ValueError: The vectors are of another width than the embeddings, or no word has one.
    """
    if vectors.width != embedding.embedding_dim:
        raise ValueError(
            f"encoder.word_dim: {embedding.embedding_dim}, but encoder.word_vectors are {vectors.width} wide"
        )
    found = {row: place for row, word in enumerate(vocab.words) if (place := place_of(word, vectors)) is not None}
    if not found:
        raise ValueError("encoder.word_vectors: no word of the training captions has a vector")
    with torch.no_grad():
        embedding.weight[list(found)] = torch.from_numpy(vectors.row_VD[list(found.values())])
    return len(found)


def place_of(word: str, vectors: WordVectors) -> int | None:
    """The row of a word's vector; ``None`` if it has none."""
    return next((vectors.index[form] for form in (word, word.capitalize()) if form in vectors.index), None)
