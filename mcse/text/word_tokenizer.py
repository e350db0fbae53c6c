"""Tokenizers of a vocabulary's words: every word of a text, or the known ones of a caption alone."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcse.files import digest_of
from mcse.text.vocab import BEGIN, END, PAD, SPECIALS, UNKNOWN, Vocab, is_plain, iter_words, plain_words

Marks = Literal["none", "end", "both"]
"""Which sentence marks stand around the words: none, ``</s>`` behind them, or ``<s>`` before them, too."""


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Splits text by ``split_words`` and looks the words up; an unknown word has id 1. A ``Tokenizer`` of ``types``."""

    vocab: Vocab
    marks: Marks = "none"

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def pad_id(self) -> int:
        """Id of the padding word."""
        return self.vocab.index[PAD]

    @property
    def longest(self) -> int | None:
        """Nothing limits a text."""
        return None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that it knows, the specials first."""
        return self.vocab.words

    @property
    def digest(self) -> str:
        """Tells tokenizers apart that give other ids."""
        return digest_of(type(self).__name__, self.marks, str(self.vocab.lower_case), *self.vocab.words)

    def ids(self, texts: Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """Ids of each text with its marks, at most ``max_length`` of them, the marks included and kept."""
        index = self.vocab.index
        before = [index[BEGIN]] if self.marks == "both" else []
        after = [index[END]] if self.marks != "none" else []
        room = None if max_length is None else max(max_length - len(before) - len(after), 0)
        return [[*before, *self._words(text, room), *after] for text in texts]

    def knows_some(self, text: str) -> bool:
        """Whether any word of the text is in the vocabulary; a punctuation mark is no word."""
        return any(is_known(word, self.vocab) for word in plain_words(text))

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that are not in the vocabulary, in order; no punctuation marks."""
        return [word for word in plain_words(text) if not is_known(word, self.vocab)]

    def nearest_words(self, word: str, *, number: int = 5) -> list[str]:
        """Known words that are spelt like ``word``, the nearest first; a word that is known comes first itself."""
        wanted = word.lower() if self.vocab.lower_case else word
        return difflib.get_close_matches(wanted, self.vocab.words[len(SPECIALS) :], n=number, cutoff=0.5)

    def save(self, folder: Path) -> None:
        """Writes ``vocab.json``; the marks are part of the model's configuration."""
        self.vocab.save(folder / "vocab.json")

    def _words(self, text: str, room: int | None) -> list[int]:
        # Never empty: a row without a token has no last state, and counts as one of unknown words alone.
        ids: list[int] = self.vocab.ids(itertools.islice(iter_words(text), room)).tolist()
        return ids or [self.vocab.index[UNKNOWN]]


@dataclass(frozen=True, slots=True)
class CaptionTokenizer(WordTokenizer):
    """``<s>``, the words that the vocabulary knows, ``</s>``.

    Source: the follow-up code of Shahmohammadi et al. drops words outside the vocabulary, and so do we; it also splits
    at hyphens, we do not.
    """

    marks: Marks = "both"

    def _words(self, text: str, room: int | None) -> list[int]:
        known = (word for word in iter_words(text) if is_plain(word) and word in self.vocab)
        ids: list[int] = self.vocab.ids(itertools.islice(known, room)).tolist()
        return ids


def is_known(word: str, vocab: Vocab) -> bool:
    """Whether a word of a text is in the vocabulary; the specials are no words of a text."""
    return word in vocab and word not in SPECIALS
