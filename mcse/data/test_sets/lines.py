"""Lines of the test sets' files, and the folder of SentEval that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mcse.files import read_text

_SENTEVAL_PARENTS = ("", "downstream", "senteval", "senteval/downstream")


def file_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without ends of line; a byte order mark is dropped.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not UTF-8 (naming the line), or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"missing file {path}")
    return _split(read_text(path), path)


def latin1_lines(path: Path) -> list[str]:
    """The same of a file that SentEval reads as Latin-1, in which no byte is wrong."""
    return _split(path.read_bytes().decode("latin-1"), path)


def senteval_parent(folder: str | Path, homes: Sequence[str]) -> Path | None:
    """``folder`` itself, or its ``downstream/`` or ``senteval/``: the first that holds one of the folders ``homes``."""
    parents = (Path(folder) / parent for parent in _SENTEVAL_PARENTS)
    return next((parent for parent in parents if any((parent / home).is_dir() for home in homes)), None)


def finite_number(text: str, path: Path, line: int) -> float:
    """A gold score.

    Raises:
        ValueError: Not a number, or not finite; names file and line.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}, line {line}: score {text.strip()[:40]!r} is not a finite number")
    return number


def _split(text: str, path: Path) -> list[str]:
    if not text.strip():
        raise ValueError(f"{path} is empty")
    # Not str.splitlines: it also splits at characters such as U+0085 that stand inside sentences.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
