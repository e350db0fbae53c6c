"""Text of the recipe ``mlm``: what is trained on, and what is held out with the same masks in every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mcse.data.config import MaskedDataConfig
from mcse.data.load_sentences import SentenceRows, open_sentence_table, read_sentences
from mcse.data.source_variants import FileSentences
from mcse.data.streams import TokenMasker
from mcse.data.test_sets.contamination import normalise
from mcse.encoders.inputs import longest_first
from mcse.files import digest_of, seed_of
from mcse.models.piece_tokenizer import PieceTokenizer
from mcse.recipes.mlm.config import LossConfig
from mcse.recipes.shared import build_masker
from mcse.types import DataFile, MaskedTokens

_DEV_BATCH = 64


@dataclass(frozen=True, slots=True)
class MaskedText:
    """Sentences to train on, and others to evaluate on."""

    training: SentenceRows
    dev: tuple[str, ...]
    files: tuple[DataFile, ...]


def read_text(config: MaskedDataConfig) -> MaskedText:
    """The text of ``data.sentences``, without what is held out of it or is in ``data.dev``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is no text, or nothing is held out.
    """
    found = read_sentences(config, config.sentences)
    if config.dev is None:
        assert config.dev_share is not None
        dev = tuple(text for (text,) in found.rows() if is_held_out(text, share=config.dev_share))
        if not dev:
            raise ValueError(
                f"data.dev_share: {config.dev_share:g} of {found.source} holds out no sentence; give more, or data.dev"
            )
        files = found.files
    else:
        table = open_sentence_table(config, FileSentences(file=config.dev))
        dev = tuple(text for (text,) in table.rows())
        files = (*found.files, DataFile("dev", table.source, table.digest))
    known = frozenset(map(normalise, dev))

    def rows() -> Iterator[tuple[str, ...]]:
        return (row for row in found.rows() if normalise(row[0]) not in known)

    digest = f"{found.digest}-without-{digest_of(*sorted(known))}"
    return MaskedText(replace(found, rows=rows, digest=digest), dev, files)


def is_held_out(text: str, *, share: float) -> bool:
    """Whether a sentence is one of those to evaluate on: its letters alone decide, so that equal ones stay together."""
    return seed_of(normalise(text)) < share * 2**64


def dev_masker(tokenizer: PieceTokenizer, loss: LossConfig) -> TokenMasker:
    """Hides held-out words, the same for every seed and model; a sentence's number names its masks.

    As many tokens are hidden as in training, and each by the mask token: a word that still stands there is no riddle.
    """
    return build_masker(tokenizer, seed=0, share=loss.mask_share, whole_word=loss.whole_word, hides_all=True)


def dev_batches(
    texts: Sequence[str], tokenizer: PieceTokenizer, loss: LossConfig, *, max_length: int
) -> list[MaskedTokens]:
    """Held-out sentences with their masks, in batches of similar length."""
    masker, rows = dev_masker(tokenizer, loss), [np.asarray(ids) for ids in tokenizer.ids(texts, max_length=max_length)]
    return [
        masker.masked([rows[number] for number in numbers], step=0, places=numbers, pad_id=tokenizer.pad_id)
        for numbers in longest_first(map(len, rows), batch_size=_DEV_BATCH)
    ]
