"""Sentences to ids of a vocabulary's words, called as a tokenizer of a transformer is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcse.text.vocab import BEGIN, END, SPECIALS, UNKNOWN, Vocab, plain_words, split_words

Marks = Literal["none", "end", "both"]
"""Which sentence marks stand around the words: none, ``</s>`` behind them, or ``<s>`` before them, too."""


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Splits text by ``split_words`` and looks the words up; an unknown word has id 1.

    What ``mcse.data`` asks of a tokenizer of Hugging Face, it has: a call that gives ``input_ids``, ``len``,
    ``get_vocab``.
    """

    vocab: Vocab
    marks: Marks = "none"

    def __call__(self, text: Sequence[str], *, truncation: bool, max_length: int | None) -> dict[str, list[list[int]]]:
        """``input_ids`` of each sentence; with ``truncation`` at most ``max_length``, the marks included and kept."""
        limit = max_length if truncation else None
        return {"input_ids": [self._ids(sentence, limit) for sentence in text]}

    def __len__(self) -> int:
        return len(self.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Ids by word, and a name for the marks, since a digest of this mapping must tell tokenizers apart."""
        return {**self.vocab.index, f"<marks: {self.marks}, lower case: {self.vocab.lower_case}>": -1}

    def knows_some(self, sentence: str) -> bool:
        """Whether any word of the sentence is in the vocabulary; a punctuation mark is no word."""
        return any(is_known(word, self.vocab) for word in plain_words(sentence))

    def unknown_words(self, sentence: str) -> list[str]:
        """The words of the sentence that are not in the vocabulary, in order; no punctuation marks."""
        return [word for word in plain_words(sentence) if not is_known(word, self.vocab)]

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first; a word that is known comes first itself."""
        wanted = word.lower() if self.vocab.lower_case else word
        return difflib.get_close_matches(wanted, self.vocab.words[len(SPECIALS) :], n=number, cutoff=0.5)

    def _ids(self, sentence: str, limit: int | None) -> list[int]:
        index = self.vocab.index
        before = [index[BEGIN]] if self.marks == "both" else []
        after = [index[END]] if self.marks != "none" else []
        words = self.vocab.ids(split_words(sentence)).tolist()
        if limit is not None:
            words = words[: max(limit - len(before) - len(after), 0)]
        # Never empty: a row without a token has no last state, and counts as one of unknown words alone.
        return [*before, *(words or [index[UNKNOWN]]), *after]


def is_known(word: str, vocab: Vocab) -> bool:
    """Whether a word of a text is in the vocabulary; the specials are no words of a text."""
    return word in vocab and word not in SPECIALS
