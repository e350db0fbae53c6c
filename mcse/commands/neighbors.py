"""``mcse neighbors``: words whose neighbours differ between two spaces of word vectors, side by side."""

from __future__ import annotations

import argparse

from mcse.encoders.word_vectors import load_space
from mcse.text.word_spaces import Neighbours, compare_neighbours


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``neighbors`` to the command line."""
    parser = subparsers.add_parser(
        "neighbors",
        help="nearest neighbours of words in two spaces, only those that differ",
        description="Shows the nearest neighbours that are in one space's list and not in the other's.",
    )
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument(
        "--spaces", nargs=2, required=True, metavar="VECTORS", help="files of word vectors, or runs of grounded_words"
    )
    parser.add_argument("--count", type=int, default=10, help="neighbours a space (default: 10)")
    parser.add_argument("--limit", type=int, help="only the first so many words of each file, the most frequent")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a Markdown table; returns 0.

    Raises:
        ValueError: A number below 1, a file that cannot be read, or a word without a vector.
    """
    for name in ("count", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be 1 or more, got {value}")
    first, second = (load_space(name, limit=args.limit) for name in args.spaces)
    found = [compare_neighbours(word, first, second, count=args.count) for word in args.words]
    print(table(found, names=args.spaces))
    return 0


def table(found: list[Neighbours], *, names: list[str]) -> str:
    """Markdown with a row a word; the neighbours that both spaces share are left out."""
    lines = [f"| word | only in {names[0]} | only in {names[1]} |", "|---|---|---|"]
    for each in found:
        cells = [each.word, *(", ".join(words) or "–" for words in (each.only_first, each.only_second))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
