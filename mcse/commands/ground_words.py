"""``mcse words ground``: every word of a file of word vectors, grounded by a run's map into another file."""

from __future__ import annotations

from pathlib import Path

from mcse.files import sha256_file
from mcse.models.grounded_checkpoint import find_grounded_words, read_info
from mcse.text.word_map import WordMap, ground_file


def check_source(folder: Path, vectors: Path, *, hint: str) -> None:
    """Refuses vectors that a map was not trained with: vectors of another space may well have the same width.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another file than that of the checkpoint in ``folder``.
    """
    if not vectors.is_file():
        raise FileNotFoundError(f"no file of word vectors at {vectors}")
    info = read_info(folder)
    if sha256_file(vectors) != info.source_digest:
        raise ValueError(f"{folder} was trained with another file, {info.source}, than {vectors}; {hint}")


def run(model: Path, *, vectors: Path, output: Path, other_vectors: bool = False) -> int:
    """Grounds; returns 0.

    Raises:
        ValueError: No such checkpoint, another file of vectors, one that cannot be read, or another ending.
    """
    folder = find_grounded_words(model)
    if folder is None:
        raise ValueError(f"{model} is no run and no checkpoint of grounded_words")
    if not other_vectors:
        check_source(folder, vectors, hint="give --other-vectors if it holds more of the same space")
    count = ground_file(vectors, output, word_map=WordMap.load(folder))
    print(f"grounded {count:,} words into {output}")
    return 0
