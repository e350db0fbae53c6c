"""A language model's text: files of sentences, split into words, counted into a vocabulary, held-out ones apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mcse.data.config import LanguageDataConfig, Splitting
from mcse.data.lanes import Corpus
from mcse.data.patterns import files_named
from mcse.files import sha256_file, text_lines
from mcse.text.vocab import Vocab, split_words
from mcse.types import DataFile, TrainingText

SPLITS: dict[Splitting, Callable[[str], list[str]]] = {"words": split_words, "spaces": str.split}
"""Text to words: marks apart from words, or what white space parts, for text that was tokenised before."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageData:
    """Text to train on, the words that are predicted, and tokenised sentences to evaluate on."""

    corpus: Corpus
    vocab: Vocab
    dev: list[list[str]]
    files: tuple[DataFile, ...]


def load_language_data(config: LanguageDataConfig, *, max_characters: int) -> LanguageData:
    """Reads the text twice: for the vocabulary, then for the numbers of its words.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line is not UTF-8, or nothing is left to train on or to evaluate on.
    """
    vocab = Vocab.from_sentences(
        training_sentences(config), min_count=config.min_count, max_size=config.vocabulary_size, lower_case=False
    )
    corpus = Corpus.build(training_sentences(config), vocab, max_characters=max_characters)
    dev = dev_sentences(config)
    roles = {"sentences": config.sentences, **({"dev": config.dev} if config.dev else {})}
    files = []
    for role, source in roles.items():
        for path in _files(config, source, role=role):
            text = TrainingText(reader="lines", source=str(path)) if role == "sentences" else None
            files.append(DataFile(role, str(path), sha256_file(path), text))
    return LanguageData(corpus, vocab, dev, tuple(files))


def training_sentences(config: LanguageDataConfig) -> Iterator[list[str]]:
    """Tokenised sentences to train on; lines without a word are left out and not counted."""
    held_out = config.dev_sentences if config.dev is None else 0
    end = None if config.max_sentences is None else held_out + config.max_sentences
    return islice(_tokenised(config, config.sentences, role="sentences"), held_out, end)


def dev_sentences(config: LanguageDataConfig) -> list[list[str]]:
    """Tokenised sentences to evaluate on.

    Raises:
        ValueError: There are none.
    """
    role = "sentences" if config.dev is None else "dev"
    found = list(islice(_tokenised(config, config.dev or config.sentences, role=role), config.dev_sentences))
    if not found:
        raise ValueError(f"data.{role}: {config.dev or config.sentences} holds no sentence to evaluate on")
    return found


def _tokenised(config: LanguageDataConfig, source: str, *, role: str) -> Iterator[list[str]]:
    split = SPLITS[config.splitting]
    lines = (line for path in _files(config, source, role=role) for line in text_lines(path))
    return (tokens for line in lines if (tokens := split(line)))


def _files(config: LanguageDataConfig, source: str, *, role: str) -> list[Path]:
    found = files_named(source, root=config.folder)
    if not found:
        raise config.absent(source, f"data.{role}: no file at {config.folder / source}")
    return found
