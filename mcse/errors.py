"""How errors of other libraries are worded in ours, and texts of other people shown on a terminal."""

from __future__ import annotations

import re


def said(error: BaseException) -> str:
    """The first line of an error's message; its class where it says nothing, as an ``EOFError`` often does."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""What PyTorch says, on CUDA and on the CPU; NumPy and PyArrow raise a ``MemoryError``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was less memory than was asked for."""
    said_so = isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in _NO_MEMORY)
    return said_so or isinstance(error, MemoryError)


def in_words(error: Exception) -> str:
    """An error on one line; one that is none of ours, of whatever library, with its class."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said(error)}"


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, colours it or turns the direction of writing, and halves of characters."""


def printable(text: object) -> str:
    """A text with what would steer a terminal written out as an escape; tabs and ends of lines stay."""
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), str(text))
