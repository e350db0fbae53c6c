"""Words of a text and their ids: the vocabulary that word-level models are trained with and saved beside.

V words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.files import write_text
from mcse.reading import read_json

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<s>", "</s>"
SPECIALS = (PAD, UNKNOWN, BEGIN, END)
"""The first ids of every vocabulary, in this order: 0, 1, 2, 3."""

TOKEN_PATTERN = r"\w+(?:[-'’]\w+)*|[^\w\s]"
"""What ``split_words`` finds: words, with hyphens and apostrophes inside them, and punctuation marks."""

_TOKEN = re.compile(TOKEN_PATTERN)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A vocabulary's file."""

    words: list[str]
    lower_case: bool


@dataclass(frozen=True, slots=True)
class Vocab:
    """Words by id. The specials come first, then words from the most frequent to the rarest, ties by spelling.

    Attributes:
        words: All V words, the specials among them.
        lower_case: Whether text was lower-cased before it was counted, and is before it is looked up.
    """

    words: tuple[str, ...]
    lower_case: bool = True
    index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.words[: len(SPECIALS)] != SPECIALS:
            raise ValueError(f"a vocabulary begins with {' '.join(SPECIALS)}, not {' '.join(self.words[:4])[:60]}")
        index = {word: number for number, word in enumerate(self.words)}
        if len(index) != len(self.words):
            twice = Counter(self.words).most_common(1)[0][0]
            raise ValueError(f"a vocabulary holds every word once; {twice[:60]!r} is there twice")
        object.__setattr__(self, "index", index)

    @classmethod
    def from_sentences(
        cls,
        sentences: Iterable[Sequence[str]],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lower_case: bool = True,
    ) -> Vocab:
        """The words of tokenised sentences that occur ``min_count`` times or more, at most ``max_size`` of them.

        Raises:
            ValueError: No word is left.
        """
        counts: Counter[str] = Counter()
        for sentence in sentences:
            counts.update(token.lower() if lower_case else token for token in sentence)
        kept = sorted((-count, word) for word, count in counts.items() if count >= min_count and word not in SPECIALS)
        if not kept:
            raise ValueError(f"no word occurs {min_count} times or more among {len(counts)} different ones")
        return cls((*SPECIALS, *(word for _, word in kept[:max_size])), lower_case=lower_case)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return self._form(word) in self.index

    def ids(self, tokens: Iterable[str]) -> NDArray[np.int64]:
        """One id a token; 1 for a word that is not in the vocabulary."""
        return np.array([self.index.get(self._form(token), 1) for token in tokens], dtype=np.int64)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        text = json.dumps({"lower_case": self.lower_case, "words": self.words}, ensure_ascii=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Vocab:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: The file is absent, or is no vocabulary.
        """
        try:
            stored = read_json(path, _Stored)
            return cls(tuple(stored.words), lower_case=stored.lower_case)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: no vocabulary that can be read ({error})") from None

    def _form(self, word: str) -> str:
        return word.lower() if self.lower_case else word


def split_words(text: str) -> list[str]:
    """Words and punctuation marks; a hyphen or apostrophe between letters stays inside its word."""
    return _TOKEN.findall(text)


def iter_words(text: str) -> Iterator[str]:
    """``split_words`` one after the other, for those who may need the first ones alone of a long text."""
    return (found.group() for found in _TOKEN.finditer(text))


def plain_words(text: str) -> list[str]:
    """What ``split_words`` gives, without the punctuation marks."""
    return [token for token in split_words(text) if is_plain(token)]


def is_plain(token: str) -> bool:
    """Whether a token is a word and no punctuation mark."""
    return any(letter.isalnum() for letter in token)
