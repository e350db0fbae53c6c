"""Words as the characters that ELMo reads: UTF-8 bytes between marks, filled up to a fixed length.

N sentences, T tokens, C characters a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_CHARACTERS = 50
"""C of the published models."""

# Ids of the training code are one smaller: 0 was set free for the mask.
_BEGIN_SENTENCE, _END_SENTENCE, _BEGIN_WORD, _END_WORD, PAD_CHARACTER = 257, 258, 259, 260, 261
CHARACTERS = 262
"""256 bytes, two marks of sentences, two of words, padding, and 0 for no word at all."""

BEGIN_SENTENCE, END_SENTENCE = "\x02", "\x03"
"""Stand for the begin and the end of a sentence among words; no text holds these control characters as words."""


def word_characters(word: str, *, length: int = MAX_CHARACTERS) -> NDArray[np.int64]:
    """(C,) ids of one word; what does not fit is cut off, and the mark of the word's end stays.

    Source: Peters et al. 2018 and the released code: begin, bytes, end, padding; all ids + 1.
    """
    if word in (BEGIN_SENTENCE, END_SENTENCE):
        ids = [_BEGIN_SENTENCE if word == BEGIN_SENTENCE else _END_SENTENCE]
    else:
        ids = [byte + 1 for byte in word.encode("utf-8", "ignore")[: length - 2]]
    row_C = np.full(length, PAD_CHARACTER, dtype=np.int64)
    row_C[: len(ids) + 2] = [_BEGIN_WORD, *ids, _END_WORD]
    return row_C


def character_ids(
    sentences: Sequence[Sequence[str]], *, length: int = MAX_CHARACTERS, marks: bool = False
) -> NDArray[np.int64]:
    """(N, T, C) ids of tokenised sentences; places after a sentence's last word are 0 throughout.

    Args:
        sentences: Tokens, in their own case.
        length: C.
        marks: Whether each sentence gets the marks of its begin and end as first and last word.

    Raises:
        ValueError: There are no sentences, or a token is empty.
    """
    if not sentences:
        raise ValueError("no sentences to turn into characters")
    rows = [[BEGIN_SENTENCE, *tokens, END_SENTENCE] if marks else list(tokens) for tokens in sentences]
    known: dict[str, NDArray[np.int64]] = {}
    id_NTC = np.zeros((len(rows), max(map(len, rows)), length), dtype=np.int64)
    for number, tokens in enumerate(rows):
        for place, word in enumerate(tokens):
            if not word:
                raise ValueError(f"sentence {number}, token {place}: is empty")
            if word not in known:
                known[word] = word_characters(word, length=length)
            id_NTC[number, place] = known[word]
    return id_NTC
