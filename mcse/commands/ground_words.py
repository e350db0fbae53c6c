"""``mcse ground-words``: every word of a file of word vectors, grounded by a run's map into another file."""

from __future__ import annotations

import argparse
from pathlib import Path

from mcse.files import sha256_file
from mcse.models.grounded_checkpoint import find_grounded_words, read_info
from mcse.text.word_map import WordMap, ground_file


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``ground-words`` to the command line."""
    parser = subparsers.add_parser(
        "ground-words",
        help="ground every word of a file of word vectors with a trained map",
        description="Grounds every word of a file, of captions or not, block by block: memory stays small.",
    )
    parser.add_argument("model", type=Path, help="run or checkpoint folder of the recipe grounded_words")
    parser.add_argument("--vectors", required=True, type=Path, help="the file of text vectors the run was trained with")
    parser.add_argument(
        "--output", required=True, type=Path, help=".bin (word2vec binary), .txt or .vec (text), or .safetensors"
    )
    parser.add_argument(
        "--other-vectors",
        action="store_true",
        help="--vectors is another file on purpose, such as a larger one of the same space",
    )
    parser.set_defaults(run=run)


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


def run(args: argparse.Namespace) -> int:
    """Grounds; returns 0.

    Raises:
        ValueError: No such checkpoint, another file of vectors, one that cannot be read, or another ending.
    """
    folder = find_grounded_words(args.model)
    if folder is None:
        raise ValueError(f"{args.model} is no run and no checkpoint of grounded_words")
    if not args.other_vectors:
        check_source(folder, args.vectors, hint="give --other-vectors if it holds more of the same space")
    count = ground_file(args.vectors, args.output, word_map=WordMap.load(folder))
    print(f"grounded {count:,} words into {args.output}")
    return 0
