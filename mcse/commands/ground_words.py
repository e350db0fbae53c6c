"""``mcse words ground``: every word of a file of word vectors, grounded by a run's map into another file."""

from __future__ import annotations

from pathlib import Path

from mcse.errors import printable
from mcse.files import sha256_file
from mcse.manifest import read_detail
from mcse.models.grounded_checkpoint import open_grounded_words
from mcse.progress import phase
from mcse.text.word_map import WordMap, ground_file


def check_source(model: Path, vectors: Path, *, hint: str) -> None:
    """Refuses vectors that a map was not trained with: vectors of another space may well have the same width.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another file than that of the checkpoint ``model``.
    """
    if not vectors.is_file():
        raise FileNotFoundError(f"no file of word vectors at {vectors}")
    folder, manifest = open_grounded_words(model)
    source, digest = (read_detail(folder, manifest, key, str) for key in ("source", "source_digest"))
    if sha256_file(vectors) != digest:
        raise ValueError(f"{model} was trained with another file, {source}, than {vectors}; {hint}")


def run(model: Path, *, vectors: Path, output: Path, other_vectors: bool = False) -> int:
    """Grounds; returns 0.

    Raises:
        ValueError: No such checkpoint, another file of vectors, one that cannot be read, or another ending.
    """
    folder, _ = open_grounded_words(model)
    if not other_vectors:
        check_source(model, vectors, hint="give --other-vectors if it holds more of the same space")
    with phase(f"grounding the words of {vectors}"):
        count = ground_file(vectors, output, word_map=WordMap.load(folder))
    print(printable(f"grounded {count:,} words into {output}"))
    return 0
