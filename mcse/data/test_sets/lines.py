"""Lines of the test sets' files, and the folder of SentEval that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcse.data.tables import number_cell
from mcse.files import text_lines

_SENTEVAL_PARENTS = ("", "downstream", "senteval", "senteval/downstream")


def file_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without ends of line; a byte order mark is dropped.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not UTF-8 (naming the line), or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"missing file {path}")
    lines = list(text_lines(path, strip=False))
    if not any(map(str.strip, lines)):
        raise ValueError(f"{path} is empty")
    return lines


def latin1_lines(path: Path) -> list[str]:
    """The same of a file that SentEval reads as Latin-1, in which no byte is wrong."""
    text = path.read_bytes().decode("latin-1")
    if not text.strip():
        raise ValueError(f"{path} is empty")
    # Not str.splitlines: it also splits at characters such as U+0085 that stand inside sentences.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def senteval_parent(folder: str | Path, homes: Sequence[str]) -> Path | None:
    """``folder`` itself, or its ``downstream/`` or ``senteval/``: the first that holds one of the folders ``homes``."""
    parents = (Path(folder) / parent for parent in _SENTEVAL_PARENTS)
    return next((parent for parent in parents if any((parent / home).is_dir() for home in homes)), None)


def finite_number(text: str, path: Path, line: int) -> float:
    """A gold score.

    Raises:
        ValueError: Not a number, or not finite; names file and line.
    """
    return number_cell(text, where=f"{path}, line {line}")
