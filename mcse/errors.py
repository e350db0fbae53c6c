"""How errors of other libraries are worded in ours."""

from __future__ import annotations


def said(error: BaseException) -> str:
    """The first line of an error's message; its class where it says nothing, as an ``EOFError`` often does."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
