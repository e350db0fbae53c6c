"""The commands of ``mcse``: ``arguments.py`` has what they take, what each does in a module of its own.

The work of a command is a plain function, ``run``, whose parameters are the flags.
"""

from __future__ import annotations


class CommandError(Exception):
    """A command failed, though nothing is wrong with its input: exit code 1."""


def exit_code(error: Exception) -> int:
    """2 where the input is wrong, a missing file included; 1 for anything else, such as a failing disk."""
    return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
