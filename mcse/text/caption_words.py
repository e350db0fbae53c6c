"""Captions as words of a vocabulary: words without one are dropped, marks stand around the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcse.text.vocab import BEGIN, END, Vocab, plain_words


@dataclass(frozen=True, slots=True)
class CaptionTokenizer:
    """``<s>``, the words that the vocabulary knows, ``</s>``; called as a tokenizer of Hugging Face is.

    Source: the follow-up code of Shahmohammadi et al. drops words outside the vocabulary, and so do we; it also splits
    at hyphens, we do not.
    """

    vocab: Vocab

    def __call__(self, text: Sequence[str], *, truncation: bool, max_length: int | None) -> dict[str, list[list[int]]]:
        """``input_ids`` of each caption; with ``truncation`` at most ``max_length``, the marks included and kept."""
        limit = None if max_length is None or not truncation else max_length - 2
        begin, end = self.vocab.index[BEGIN], self.vocab.index[END]
        return {"input_ids": [[begin, *self._known(caption)[:limit], end] for caption in text]}

    def __len__(self) -> int:
        return len(self.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Ids by word, and a name for what is dropped, since a digest of this mapping must tell tokenizers apart."""
        return {**self.vocab.index, "<known words of captions>": -1}

    def _known(self, caption: str) -> list[int]:
        known = (word for word in plain_words(caption) if word in self.vocab)
        return [int(number) for number in self.vocab.ids(known)]
