"""What a command of the command line is, and the flags that several take. Nothing is imported here but the parser."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROW_KINDS = ("float32", "float16", "int8", "uint8", "binary")
_READING = ("pooling", "prompt", "prompt_name", "code")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        summary: Its line in the list of commands.
        arguments: Adds what it takes to a parser; the docstring is the command's description.
        work: Module of this folder whose ``run`` does the work, or ``module.function``.
        shows_progress: Whether it takes so long that it shows progress, which ``--quiet`` hides.
    """

    summary: str
    arguments: Callable[[ArgumentParser], None]
    work: str
    shows_progress: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """Commands below one name."""

    summary: str
    commands: Mapping[str, Command]


def data_file(given: str) -> str:
    """Data that an argument names: where it stands, or, if it is only there, below ``MCSE_DATA``; or of the hub."""
    start, name = os.environ.get("MCSE_DATA"), given.partition("::")[0]
    return str(Path(start) / given) if start and not Path(name).exists() and (Path(start) / name).exists() else given


def data_path(given: str) -> Path:
    """``data_file`` as a path."""
    return Path(data_file(given))


def add_reading(parser: ArgumentParser, *, flags: Sequence[str] = _READING) -> None:
    """How a model is read, of every command that takes one; ``flags`` are those that do something there."""
    add = parser.add_argument_group("how the model is read").add_argument
    if "pooling" in flags:
        add("--pooling", help="pooling, instead of the model's own; needed if the model records none")
    if "prompt" in flags:
        add("--prompt", metavar="TEXT", help="prompt to put before every sentence, instead of the model's own")
    if "prompt_name" in flags:
        add("--prompt-name", metavar="NAME", help="name of one of the model's prompts, such as query")
    if "code" in flags:
        code = "run Python code that comes with a sentence-transformers model; only if you trust its author"
        add("--trust-remote-code", action="store_true", help=code)
