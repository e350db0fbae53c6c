"""``PieceTokenizer``: a transformer's tokenizer, asked as every other tokenizer of this project is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mcse.files import digest_of, write_json
from mcse.reading import read_json
from mcse.types import Tokenizer

_PIECES = 50

_TEXTS = ("A man plays the guitar.", "Two dogs run across the green field.")

_MOST_BYTES = 2**32

_NEAR, _FAR = 64, 2**17
"""Characters a token that are read of a text at first, and how many more of one that has few tokens in them."""

_NO_LIMIT = 1e9
"""A tokenizer without a limit says 1e30."""


class PieceTokenizer(Tokenizer):
    """Text to pieces of words, which make any word.

    Args:
        inner: transformers' own, for what only transformers asks; it remembers the truncation of its last call.
        prompt: Put before every text.
    """

    def __init__(self, inner: PreTrainedTokenizerBase, *, prompt: str = "") -> None:
        self.inner, self.prompt = inner, prompt

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def pad_id(self) -> int:
        """Id of the padding token; 0 where there is none, since padding is masked."""
        return int(self.inner.pad_token_id or 0)

    @property
    def longest(self) -> int | None:
        """Most tokens that its own configuration allows."""
        return int(self.inner.model_max_length) if self.inner.model_max_length < _NO_LIMIT else None

    @property
    def digest(self) -> str:
        """Tells tokenizers apart that give other ids."""
        prompt = [self.prompt] if self.prompt else []
        if not self.inner.is_fast:
            return digest_of("pieces", repr(sorted(self.inner.get_vocab().items())), *prompt)
        # The truncation and padding of its last call change nothing.
        rules = json.loads(self.inner.backend_tokenizer.to_str())
        return digest_of("pieces", json.dumps({**rules, "truncation": None, "padding": None}), *prompt)

    def ids(self, texts: Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """Ids of each text, the prompt before it, with the special tokens, at most ``max_length`` of them.

        The time that a text takes is bounded. One of more than 64 characters a token is cut between two words there, if
        what is left has twice the tokens that are wanted, so that the cut changes none of these; else 131,072
        characters behind.
        """
        if self.prompt:
            texts = [self.prompt + text for text in texts]
        if max_length is None:
            return self._ids(texts, max_length=None)
        return self._ids([self._start(text, max_length) for text in texts], max_length=max_length)

    def _start(self, text: str, max_length: int) -> str:
        """As much of a text as its first tokens can depend on; of its end, where truncation keeps that."""
        number = _NEAR * max_length
        if len(text) <= number:
            return text
        near, is_between_words = self._cut(text, number)
        # Part of a word can have other pieces than the whole: of more than 100 letters BERT knows none.
        if is_between_words:
            [ids] = self._ids([near], max_length=2 * max_length)
            if len(ids) == 2 * max_length:
                return near
        return self._cut(text, number + _FAR)[0]

    def _cut(self, text: str, number: int) -> tuple[str, bool]:
        """The words within the first, or last, ``number`` characters, and whether there are several."""
        if len(text) <= number:
            return text, True
        if self.inner.truncation_side == "left":
            words = text[-number:].split(maxsplit=1)
            return (words or [""])[-1], len(words) == 2
        words = text[:number].rsplit(maxsplit=1)
        return (words or [""])[0], len(words) == 2

    def _ids(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        encoded = self.inner(
            list(texts),
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def check(self, *, rows: int | None) -> None:
        """Refuses a tokenizer that does not belong to a table of ``rows`` embeddings, or that has no vocabulary.

        Where files are missing, transformers makes an empty one and says nothing.

        Raises:
            ValueError: It makes ids that the table has no row for, knows less than half as many pieces as the table has
                rows, or cannot tell two texts apart.
        """
        vocabulary = self.inner.get_vocab()
        if rows is not None and vocabulary:
            piece, largest = max(vocabulary.items(), key=lambda item: int(item[1]))
            if largest >= rows:
                raise ValueError(f"its piece {piece!r} has the id {largest}, but the model has {rows} embeddings")
            if 2 * len(vocabulary) < rows:
                raise ValueError(f"it knows {len(vocabulary)} pieces, but the model has {rows} embeddings")
        if not self._tells_apart(_TEXTS) and not self._tells_apart(self._own_pieces(vocabulary)):
            raise ValueError(f"it gives all texts the same ids ({len(vocabulary)} pieces are known to it)")

    def _tells_apart(self, texts: Sequence[str]) -> bool:
        """Whether some texts get different ids, beside those that stand for what is not known."""
        unknown = self.inner.unk_token_id
        return len({tuple(token for token in ids if token != unknown) for ids in self.ids(texts)}) > 1

    def _own_pieces(self, vocabulary: Mapping[str, int]) -> list[str]:
        """Texts of the longest pieces that it knows: of those of a small world a common text may hold none."""
        special = set(self.inner.all_special_tokens)
        pieces = sorted((piece for piece in vocabulary if piece not in special), key=lambda piece: (-len(piece), piece))
        return [str(self.inner.convert_tokens_to_string([piece])) for piece in pieces[:_PIECES]]

    @property
    def first_token(self) -> int | None:
        """The id that stands before every text, as [CLS] does; ``None`` where a text's own first piece comes first."""
        first = {ids[0] if ids else None for ids in self._ids(["", *_TEXTS], max_length=None)}
        return first.pop() if len(first) == 1 else None

    def continuing_pieces(self) -> list[bool] | None:
        """Of every id, whether its piece goes on with the word before it, as ``##s`` does; ``None`` if no piece says.

        WordPiece marks what goes on; byte-level and SentencePiece vocabularies mark what comes after a space.
        """
        pieces, special = self.inner.convert_ids_to_tokens(list(range(len(self)))), set(self.inner.all_special_tokens)
        if any(piece.startswith("##") for piece in pieces):
            return [piece.startswith("##") for piece in pieces]
        for mark in ("\u0120", "\u2581"):
            if any(piece.startswith(mark) for piece in pieces):
                return [not piece.startswith(mark) and piece not in special for piece in pieces]
        return None

    def save(self, folder: Path) -> None:
        """Its files, less what transformers leaks into them about this machine and the last call."""
        self.inner.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        kept = {k: v for k, v in read_json(path, dict[str, Any]).items() if k not in ("is_local", "local_files_only")}
        write_json(path, kept)
        path = folder / "tokenizer.json"
        if path.is_file():
            rules = read_json(path, dict[str, Any], most_bytes=_MOST_BYTES)
            write_json(path, {**rules, "truncation": None, "padding": None})
