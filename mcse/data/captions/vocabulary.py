"""The vocabulary of a run's captions, and the text vectors that its words start from.

V words of the vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from mcse.data.config import CaptionDataConfig, WordsConfig
from mcse.data.load import clean_images, load_caption_table
from mcse.text.vocab import SPECIALS, Vocab, plain_words
from mcse.text.word_vectors import WordVectors, load_word_vectors

STAND_IN = "unknown"
"""The word whose vector words without one take, in the follow-up's code."""


@dataclass(frozen=True, slots=True, eq=False)
class CaptionVocab:
    """Words by id, their (V, D) text vectors, the specials' among them, and the source's rows of all words asked for.

    ``without_vector`` counts the words of captions that the source does not know: those that were dropped, or that took
    the vector of "unknown".
    """

    vocab: Vocab
    text_VD: NDArray[np.float32]
    source: WordVectors
    without_vector: int


def load_caption_vocab(
    config: CaptionDataConfig, words: WordsConfig, *, also: Set[str] = frozenset(), seed: int
) -> CaptionVocab:
    """The most frequent words of the captions and their vectors, read from a file of any size.

    Args:
        config: The ``data`` keys; every caption of its images counts, drawn or not. Captions are lower-cased.
        words: The ``words`` keys.
        also: Further words whose vectors are read, for evaluation.
        seed: Draws the specials' rows, as large as words' own are on average.

    Raises:
        ValueError: No word of the captions has a vector, or "unknown" is needed and has none.
    """
    table = load_caption_table(config, config.captions)
    clean = compress(table.captions, clean_images(table, config.tests))
    texts = (plain_words(caption) for captions in clean for caption in captions)
    vocab = Vocab.from_sentences(texts, min_count=words.min_count, max_size=words.max_words)
    vectors = config.folder / words.vectors
    source = load_word_vectors(vectors, keep=frozenset((*vocab.words, STAND_IN)) | also)
    known = [word for word in vocab.words[len(SPECIALS) :] if word in source.index]
    if not known:
        raise ValueError(f"words.vectors: {vectors} has no vector for any word of {table.source}")
    lacking = len(vocab) - len(SPECIALS) - len(known)
    if words.without_vector == "drop":
        vocab = replace(vocab, words=(*SPECIALS, *known))
    elif lacking and STAND_IN not in source.index:
        raise ValueError(
            f"words.without_vector: {lacking} words of the captions have no vector, and neither has {STAND_IN!r} in "
            f"{vectors}; take 'drop'"
        )
    rows = [source.index[word if word in source.index else STAND_IN] for word in vocab.words[len(SPECIALS) :]]
    row_VD = source.row_VD[rows]
    special = np.random.default_rng(seed).normal(size=(len(SPECIALS), source.width)) * row_VD.std()
    text_VD = np.concatenate([special.astype(np.float32), row_VD])
    return CaptionVocab(vocab=vocab, text_VD=text_VD, source=source, without_vector=lacking)
