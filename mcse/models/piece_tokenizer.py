"""``PieceTokenizer``: a transformer's tokenizer, asked as every other tokenizer of this project is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mcse.files import digest_of, read_json, write_json
from mcse.types import Tokenizer

_NO_LIMIT = 1e9
"""A tokenizer without a limit says 1e30."""


class PieceTokenizer(Tokenizer):
    """Text to pieces of words, which make any word.

    Args:
        inner: transformers' own, for what only transformers asks; it remembers the truncation of its last call.
    """

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner

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
        if not self.inner.is_fast:
            return digest_of("pieces", repr(sorted(self.inner.get_vocab().items())))
        # The truncation and padding of its last call change nothing.
        rules = json.loads(self.inner.backend_tokenizer.to_str())
        return digest_of("pieces", json.dumps({**rules, "truncation": None, "padding": None}))

    def ids(self, texts: Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """Ids of each text with the special tokens, at most ``max_length`` of them."""
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

    def save(self, folder: Path) -> None:
        """Its files, less what transformers leaks into them about this machine and the last call."""
        self.inner.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        write_json(path, {k: v for k, v in read_json(path).items() if k not in ("is_local", "local_files_only")})
        path = folder / "tokenizer.json"
        if path.is_file():
            write_json(path, {**read_json(path), "truncation": None, "padding": None})
