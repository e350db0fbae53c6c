"""``mcse contexts``: the occurrences nearest to a word in its context, and how well pseudo-words' senses are told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcse.data.language import SPLITS
from mcse.encoders.contextual import ContextualEncoder
from mcse.encoders.loading import load_encoder
from mcse.evaluation.contexts import (
    Neighbor,
    Occurrence,
    find_occurrences,
    nearest_occurrences,
    pseudo_word_senses,
)
from mcse.files import read_lines

_WIDTH = 6
"""Words shown on either side."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "contexts",
        help="nearest occurrences of a word in context; senses of pseudo-words",
        description="Loads an ELMo or CoVe. With --query: the occurrences in --text most similar to a word of a "
        "sentence. With --merge: accuracy of telling two words apart that are written as one.",
    )
    parser.add_argument("model", help="run folder, checkpoint, or an original ELMo release")
    parser.add_argument("--text", type=Path, required=True, help="file of sentences, plain or gzip")
    parser.add_argument("--pooling", help="mean (default), or mean_layerN for one layer")
    parser.add_argument("--splitting", choices=sorted(SPLITS), default="words")
    parser.add_argument("--sentences", type=int, default=20_000, help="read at most so many lines (default 20000)")
    parser.add_argument("--query", nargs=2, action="append", metavar=("WORD", "SENTENCE"), default=[])
    parser.add_argument("--among", nargs="+", metavar="WORD", help="occurrences of these words; by default of WORD")
    parser.add_argument("--merge", nargs=2, action="append", metavar=("WORD", "WORD"), default=[])
    parser.add_argument("--occurrences", type=int, default=100, help="of each word, at most (default 100)")
    parser.add_argument("-k", type=int, default=5, help="neighbours shown (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints neighbours and accuracies; exit code 0."""
    if not args.query and not args.merge:
        raise ValueError("give --query WORD SENTENCE or --merge WORD WORD")
    encoder = load_encoder(args.model, pooling=args.pooling)
    if not isinstance(encoder, ContextualEncoder):
        raise ValueError(f"{args.model} has no vectors of words in context; name an ELMo or CoVe")
    split = SPLITS[args.splitting]
    lines = (line for _, line in zip(range(args.sentences), read_lines(args.text), strict=False))
    sentences = [words for words in map(split, lines) if words]
    for word, text in args.query:
        _print_neighbors(encoder, _occurrence(word, split(text)), sentences, args)
    if args.merge:
        pairs = [(left, right) for left, right in args.merge]
        _print_senses(encoder, sentences, pairs, args)
    return 0


def _occurrence(word: str, words: Sequence[str]) -> Occurrence:
    found = find_occurrences([words], [word])
    if not found:
        raise ValueError(f"--query: {word!r} does not stand in {' '.join(words)!r}")
    return found[0]


def _print_neighbors(
    encoder: ContextualEncoder, query: Occurrence, sentences: Sequence[Sequence[str]], args: argparse.Namespace
) -> None:
    others = find_occurrences(sentences, args.among or [query.word], limit=args.occurrences)
    print(f"{_shown(query)}\n  among {len(others)} occurrences:")
    found: list[Neighbor] = nearest_occurrences(encoder, query, others, k=args.k)
    for neighbor in found:
        print(f"  {neighbor.cosine:.3f}  {_shown(neighbor.occurrence)}")


def _print_senses(
    encoder: ContextualEncoder,
    sentences: Sequence[Sequence[str]],
    pairs: list[tuple[str, str]],
    args: argparse.Namespace,
) -> None:
    scores = pseudo_word_senses(encoder, sentences, pairs, occurrences=args.occurrences, seed=args.seed)
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
