"""A language model's text: files of sentences, split into words, counted into a vocabulary, held-out ones apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from mcse.data.lanes import Corpus
from mcse.data.sentences.files import file_digest, read_lines
from mcse.text.vocab import Vocab, split_words
from mcse.types import DataFile

Splitting: TypeAlias = Literal["words", "spaces"]

SPLITS: dict[Splitting, Callable[[str], list[str]]] = {"words": split_words, "spaces": str.split}
"""Text to words: marks apart from words, or what white space parts, for text that was tokenised before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageDataConfig:
    """What a language model reads. Relative paths start at ``root``, by default the environment variable ``MCSE_DATA``.

    ``sentences``: a text file, plain or gzip, one sentence a line, or a pattern of such files (``news/*.txt``).
    ``dev``: another such file to judge by; without it the first ``dev_sentences`` sentences of ``sentences`` are held
    out. ``max_sentences``: how many are trained on, all by default. ``splitting``: ``words`` parts marks from words,
    ``spaces`` takes tokenised text as it is. ``vocabulary_size`` and ``min_count``: which words are predicted; others
    count as the unknown word, but are read by their characters all the same. ``unroll``: places a step
    back-propagates through. ``fresh_share``: share of sentences that are read from a zero state, not from where the
    sentence before them ended; 0 as published. A model that always carries on meets the zero state of a sentence by
    itself for the first time when it is used.
    """

    sentences: str
    root: Path | None = None
    dev: str | None = None
    dev_sentences: int = 1000
    max_sentences: int | None = None
    splitting: Splitting = "words"
    vocabulary_size: int | None = None
    min_count: int = 1
    unroll: int = 20
    fresh_share: float = 0.0

    def __post_init__(self) -> None:
        for key in ("dev_sentences", "max_sentences", "vocabulary_size", "min_count", "unroll"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"data.{key}: must be 1 or more, got {value}")
        if not 0 <= self.fresh_share <= 1:
            raise ValueError(f"data.fresh_share: must be in [0, 1], got {self.fresh_share}")

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))


@dataclass(frozen=True, slots=True, eq=False)
class LanguageData:
    """Text to train on, the words that are predicted, and tokenised sentences to judge by."""

    corpus: Corpus
    vocab: Vocab
    dev: list[list[str]]
    files: tuple[DataFile, ...]


def load_language_data(config: LanguageDataConfig, *, max_characters: int) -> LanguageData:
    """Reads the text twice: for the vocabulary, then for the numbers of its words.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line is not UTF-8, or nothing is left to train on or to judge by.
    """
    vocab = Vocab.from_sentences(
        training_sentences(config), min_count=config.min_count, max_size=config.vocabulary_size, lower_case=False
    )
    corpus = Corpus.build(training_sentences(config), vocab, max_characters=max_characters)
    dev = dev_sentences(config)
    roles = {"sentences": config.sentences, **({"dev": config.dev} if config.dev else {})}
    files = tuple(
        DataFile(role=role, path=str(path), digest=file_digest(path))
        for role, source in roles.items()
        for path in _files(config, source, role=role)
    )
    return LanguageData(corpus, vocab, dev, files)


def training_sentences(config: LanguageDataConfig) -> Iterator[list[str]]:
    """Tokenised sentences to train on; lines without a word are left out and not counted."""
    held_out = config.dev_sentences if config.dev is None else 0
    end = None if config.max_sentences is None else held_out + config.max_sentences
    return islice(_tokenised(config, config.sentences, role="sentences"), held_out, end)


def dev_sentences(config: LanguageDataConfig) -> list[list[str]]:
    """Tokenised sentences to judge by.

    Raises:
        ValueError: There are none.
    """
    role = "sentences" if config.dev is None else "dev"
    found = list(islice(_tokenised(config, config.dev or config.sentences, role=role), config.dev_sentences))
    if not found:
        raise ValueError(f"data.{role}: {config.dev or config.sentences} holds no sentence to judge by")
    return found


def _tokenised(config: LanguageDataConfig, source: str, *, role: str) -> Iterator[list[str]]:
    split = SPLITS[config.splitting]
    lines = (line for path in _files(config, source, role=role) for line in read_lines(path))
    return (tokens for line in lines if (tokens := split(line)))


def _files(config: LanguageDataConfig, source: str, *, role: str) -> list[Path]:
    path = Path(source) if Path(source).is_absolute() else config.folder / source
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path] if path.is_file() else []
    if not found:
        raise FileNotFoundError(f"data.{role}: no file at {path}; relative paths start at data.root or MCSE_DATA")
    return found
