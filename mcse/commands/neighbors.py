"""``mcse words neighbors``: words whose neighbours differ between two spaces of word vectors, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from mcse.encoders.word_vectors import load_space
from mcse.text.word_spaces import Neighbours, compare_neighbours


def run(words: Sequence[str], *, spaces: Sequence[str], count: int = 10, limit: int | None = None) -> int:
    """Prints a Markdown table; returns 0.

    Raises:
        ValueError: A number below 1, a file that cannot be read, or a word without a vector.
    """
    for name, value in (("count", count), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be 1 or more, got {value}")
    first, second = (load_space(name, limit=limit) for name in spaces)
    found = [compare_neighbours(word, first, second, count=count) for word in words]
    print(table(found, names=spaces))
    return 0


def table(found: Sequence[Neighbours], *, names: Sequence[str]) -> str:
    """Markdown with a row a word; the neighbours that both spaces share are left out."""
    lines = [f"| word | only in {names[0]} | only in {names[1]} |", "|---|---|---|"]
    for each in found:
        cells = [each.word, *(", ".join(words) or "–" for words in (each.only_first, each.only_second))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
