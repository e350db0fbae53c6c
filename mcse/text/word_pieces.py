"""Words to word pieces: which piece opens each word, and where a text that is too long is cut.

T tokens, W words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"https?://\S+|[@#]\w+|\w+(?:[-'’]\w+)*|[^\w\s]")


class FastTokenizer(Protocol):
    """What is asked of a fast Hugging Face tokenizer."""

    unk_token_id: Any

    def __call__(self, text: Any, **options: Any) -> Any:
        """The encoding of a list of words, with ``word_ids``."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A text, or a part of one that was too long.

    Attributes:
        id_T: Token ids with the special ones.
        first_W: Place among the tokens of each word's first piece.
        start: Number of the part's first word in the whole text.
    """

    id_T: NDArray[np.int64]
    first_W: NDArray[np.int64]
    start: int

    def __len__(self) -> int:
        return len(self.first_W)


def tweet_words(text: str) -> list[tuple[str, int, int]]:
    """Words of a plain text with their first character and the one behind the last.

    Links, ``@names`` and ``#tags`` stay whole, hyphens and apostrophes inside words too; other marks are words of their
    own, as in the Twitter data.
    """
    return [(match.group(), match.start(), match.end()) for match in _WORD.finditer(text)]


def cut_words(
    words: Sequence[str], tokenizer: FastTokenizer, *, max_length: int, joined_W: Sequence[bool] | None = None
) -> list[Part]:
    """One part where the text fits, else as many as are needed, one after the other; no word is left out.

    A word of which the tokenizer makes nothing (a lone variation selector, say) stands as its unknown token. A word
    longer than a whole part keeps its first pieces.

    Args:
        words: At least one.
        tokenizer: Must be a fast one, which knows the pieces' words.
        max_length: Tokens of a part, special ones included.
        joined_W: Whether a word must stay with the one before it, because an entity goes on there.

    Raises:
        ValueError: An entity is longer than a part (its words), or ``max_length`` leaves no room for a word.
    """
    prefix, suffix = _special_ids(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    if room < 1:
        special = len(prefix) + len(suffix)
        raise ValueError(f"data.max_length: {max_length} leaves no room beside {special} special tokens")
    pieces = [own[:room] for own in word_pieces(words, tokenizer)]
    parts: list[Part] = []
    start = 0
    while start < len(words):
        stop = _end_of_part(pieces, start, room=room)
        if stop < len(words) and joined_W is not None:
            whole = stop
            while stop > start and joined_W[stop]:
                stop -= 1
            if stop == start:
                text = " ".join(words[start : whole + 1])
                raise ValueError(f"data.max_length: {max_length} tokens cannot hold the entity that begins {text!r}")
        chosen = pieces[start:stop]
        length_W = np.asarray([len(own) for own in chosen])
        ids = [*prefix, *(token for own in chosen for token in own), *suffix]
        first_W = len(prefix) + np.cumsum(length_W) - length_W
        parts.append(Part(np.asarray(ids, dtype=np.int64), first_W.astype(np.int64), start))
        start = stop
    return parts


def word_pieces(words: Sequence[str], tokenizer: FastTokenizer) -> list[list[int]]:
    """Token ids of each word, without special tokens; never none."""
    encoding = tokenizer(list(words), is_split_into_words=True, add_special_tokens=False, truncation=False)
    pieces: list[list[int]] = [[] for _ in words]
    for token, word in zip(encoding["input_ids"], encoding.word_ids(), strict=True):
        if word is not None:
            pieces[word].append(int(token))
    for own in pieces:
        if not own:
            if tokenizer.unk_token_id is None:
                raise ValueError("the tokenizer makes nothing of a word and has no unknown token to put in its place")
            own.append(int(tokenizer.unk_token_id))
    return pieces


def _end_of_part(pieces: Sequence[Sequence[int]], start: int, *, room: int) -> int:
    used, stop = 0, start
    while stop < len(pieces) and used + len(pieces[stop]) <= room:
        used += len(pieces[stop])
        stop += 1
    return stop


def _special_ids(tokenizer: FastTokenizer) -> tuple[list[int], list[int]]:
    encoding = tokenizer(["a"], is_split_into_words=True)
    ids, words = [int(token) for token in encoding["input_ids"]], encoding.word_ids()
    inside = [place for place, word in enumerate(words) if word is not None]
    if not inside:
        raise ValueError("the tokenizer makes nothing of the word 'a'")
    return ids[: inside[0]], ids[inside[-1] + 1 :]
