"""Errors of what Python shares with the command line, which name its flags, in the words of Python's arguments."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NEGATED = {"no-cache": "use_cache=False", "no-teachers": "teachers=False"}
_FLAG = re.compile(r"\b(?:mcse|accelerate|torchrun) [a-z][^;,`'\")]*|--(?P<name>[a-z][\w.-]*\w)")
"""A command, whose flags are its own; or a flag of the command that does what the function does."""


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose errors name its arguments where they would name flags."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError) as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (in_python(error.args[0], arguments_of(function)), *error.args[1:])
            raise

    return called


def arguments_of(function: Callable[..., object]) -> dict[str, bool]:
    """The names of a function's arguments, and whether each is a switch that is off by default."""
    return {name: found.default is False for name, found in inspect.signature(function).parameters.items()}


def in_python(text: str, arguments: Mapping[str, bool]) -> str:
    """A message with arguments, as ``arguments_of`` gives them, in place of flags; other flags stay."""

    def worded(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        if name in _NEGATED:
            return _NEGATED[name]
        if "." in name:  # a key of the configuration
            return name
        for argument in (name.replace("-", "_"), f"{name.replace('-', '_')}s"):
            if argument in arguments:
                return f"{argument}=True" if arguments[argument] else argument
        return found[0]

    return _FLAG.sub(worded, text)
