"""``mcse words contexts``: the occurrences nearest to a word in its context, and how well senses are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from mcse.data.config import Splitting
from mcse.data.language import SPLITS
from mcse.encoders.contextual import ContextualEncoder
from mcse.encoders.loading import load_encoder
from mcse.evaluation.contexts import (
    Occurrence,
    SenseScore,
    find_occurrences,
    nearest_occurrences,
    pseudo_word_senses,
)
from mcse.files import read_lines
from mcse.progress import phase

_WIDTH = 6
"""Words shown on either side."""


def run(
    model: str,
    *,
    text: Path,
    pooling: str | None = None,
    splitting: Splitting = "words",
    sentences: int = 20_000,
    queries: Sequence[tuple[str, str]] = (),
    among: Sequence[str] | None = None,
    merged: Sequence[tuple[str, str]] = (),
    occurrences: int = 100,
    k: int = 5,
    seed: int = 0,
) -> int:
    """Prints neighbours and accuracies; exit code 0."""
    if not queries and not merged:
        raise ValueError("give --query WORD SENTENCE or --merge WORD WORD")
    with phase(f"loading {model}"):
        encoder = load_encoder(model, pooling=pooling)
    if not isinstance(encoder, ContextualEncoder):
        raise ValueError(f"{model} has no vectors of words in context; name an ELMo or CoVe")
    split = SPLITS[splitting]
    read = [words for words in map(split, islice(read_lines(text), sentences)) if words]
    for word, sentence in queries:
        query = _occurrence(word, split(sentence))
        others = find_occurrences(read, among or [query.word], limit=occurrences)
        print(f"{_shown(query)}\n  among {len(others)} occurrences:")
        for neighbor in nearest_occurrences(encoder, query, others, k=k):
            print(f"  {neighbor.cosine:.3f}  {_shown(neighbor.occurrence)}")
    if merged:
        pairs = [(left, right) for left, right in merged]
        _print_senses(pseudo_word_senses(encoder, read, pairs, occurrences=occurrences, seed=seed))
    return 0


def _occurrence(word: str, words: Sequence[str]) -> Occurrence:
    found = find_occurrences([words], [word])
    if not found:
        raise ValueError(f"--query: {word!r} does not occur in {' '.join(words)!r}")
    return found[0]


def _print_senses(scores: Sequence[SenseScore]) -> None:
    print("pseudo-word  labelled  tested  accuracy  most frequent")
    for score in scores:
        name = "/".join(score.words)
        print(f"{name}  {score.labelled}  {score.tested}  {score.accuracy:.1f}  {score.most_frequent:.1f}")
    mean, floor = (np.mean([getattr(score, key) for score in scores]) for key in ("accuracy", "most_frequent"))
    print(f"mean  -  -  {mean:.1f}  {floor:.1f}")


def _shown(occurrence: Occurrence) -> str:
    first, last = max(0, occurrence.place - _WIDTH), occurrence.place + _WIDTH + 1
    words = [f"[{word}]" if place == occurrence.place else word for place, word in enumerate(occurrence.words)]
    return " ".join(words[first:last])
