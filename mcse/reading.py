"""Structures that are read from JSON, ours or foreign: typed, bounded in size and depth, with one form of error.

Nothing else in the project takes what a JSON file holds for what it should hold. ``say_read`` is how readers of any
format account for all that a file holds.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from pydantic_core import from_json

from mcse.files import read_bytes

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
"""What a file of settings or facts may hold; callers that read data say more."""

FiniteNumber = FiniteFloat
"""For fields of schemas: JSON readers take NaN and 1e999 for numbers."""

_SHOWN = 60
_PLACE = re.compile(r"^Invalid JSON: (?P<what>.*) at line (?P<line>\d+) column \d+$", re.S)
_EXPECTED: Mapping[str, str] = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "dataclass": "an object",
    "model": "an object",
    "none": "null",
}
"""By the first word of pydantic's names of errors."""


_SHOWN = 100
"""Characters of a text that is shown as an example."""


def say_read(
    source: object,
    *,
    read: int,
    total: int,
    unit: str,
    passed_over: Mapping[str, int] | None = None,
    is_usual: bool = False,
) -> None:
    """Says in the log ``SOURCE: 998 of 1,000 lines read (2 blank)``: a warning where something is passed over.

    Args:
        source: File, folder or data set.
        read: How many were taken.
        total: How many there are.
        unit: Of what, in the plural.
        passed_over: How many were not, by the reason.
        is_usual: Whether every such file has some that are passed over, so that it is no warning.

    Raises:
        ValueError: The numbers do not add up: something was lost on the way.
    """
    reasons = {reason: count for reason, count in (passed_over or {}).items() if count}
    if (known := read + sum(reasons.values())) != total:
        raise ValueError(
            f"{source}: only {known:,} of {total:,} {unit} are accounted for; it has changed meanwhile, or is damaged"
        )
    why = f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons.items())})" if reasons else ""
    level = logging.WARNING if reasons and not is_usual else logging.INFO
    logger.log(level, "%s: %s of %s %s read%s", source, f"{read:,}", f"{total:,}", unit, why)


def say_first(source: object, example: Mapping[str, object]) -> None:
    """Says in the log what the first example was read as, so that a wrong column or format is seen at once."""
    shown = ", ".join(f"{name} = {_cut(value)!r}" for name, value in example.items())
    logger.info("%s: the first example: %s", source, shown)


def _cut(value: object) -> object:
    return f"{value[:_SHOWN]}…" if isinstance(value, str) and len(value) > _SHOWN else value


def read_json(path: Path, schema: type[T], *, most_bytes: int = MOST_BYTES) -> T:
    """What a JSON file holds, as ``schema`` says; ``.gz`` is unpacked.

    Args:
        path: The file.
        schema: A dataclass (keys that it does not name are passed over, those with a default may be absent),
            ``dict[str, int]``, ``list[…]`` and so on; fields may be unions and other dataclasses. Types are strict: a
            number is no text, and ``FiniteNumber`` is neither NaN nor infinity.
        most_bytes: Size, unpacked, from which the file is refused before it is read whole.

    Raises:
        ValueError: Too large, not UTF-8, no JSON, nested deeper than about 200, or not of that shape; names file and
            line, or file and key.
        OSError: It cannot be opened.

    Examples:
        >>> @dataclass(frozen=True)
        ... class Meta:
        ...     rows: int
        ...     tower: str | None = None
        >>> read_json(Path("meta.json"), Meta).rows
        31783
    """
    return parse_json(read_bytes(path, most_bytes=most_bytes), schema, where=str(path))


def parse_json(text: str | bytes, schema: type[T], *, where: str) -> T:
    """``read_json`` of a text; ``where`` opens its errors. Of a text with one line, no line is named."""
    try:
        value: T = _adapter(schema).validate_json(text, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        raise ValueError(_message(error, text, where=where)) from None
    return value


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _message(error: ValidationError, text: str | bytes, *, where: str) -> str:
    faults = error.errors(include_url=False)
    if faults[0]["type"] == "json_invalid":
        return _broken(faults[0]["msg"], text, where=where)
    content = from_json(text)  # valid, since pydantic has read it, and not deep
    keys = _keys(content, faults[0]["loc"], is_missing=faults[0]["type"] == "missing")
    opening = ": ".join([where, ".".join(map(str, keys))] if keys else [where])
    if faults[0]["type"] == "missing":
        return f"{opening} is missing"
    # The members of a union each say what they would have taken.
    same = [fault for fault in faults if _keys(content, fault["loc"], is_missing=fault["type"] == "missing") == keys]
    expected = " or ".join(dict.fromkeys(map(_expected, same)))
    value = functools.reduce(lambda inner, key: inner[key], keys, content)
    return f"{opening} must be {expected}, got {_shown(value)}"


def _broken(message: str, text: str | bytes, *, where: str) -> str:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    place = _PLACE.match(message)
    what, line = (place["what"], int(place["line"])) if place else (message, 1)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        what, line = f"not UTF-8, byte {data[error.start]:#04x}", data.count(b"\n", 0, error.start) + 1
    what = "nested too deeply" if what.startswith("recursion limit") else what
    at = f", line {line}" if data.rstrip().count(b"\n") else ""
    return f"{where}{at}: broken JSON ({what})"


def _keys(content: Any, loc: Sequence[int | str], *, is_missing: bool) -> list[int | str]:
    """Those parts of pydantic's place that are keys of the content; it names the members of unions there, too."""
    keys: list[int | str] = []
    for number, part in enumerate(loc):
        inner = dict(enumerate(content)) if isinstance(content, list) else content if isinstance(content, dict) else {}
        if part in inner:
            content = inner[part]
        elif not (is_missing and number == len(loc) - 1):
            continue
        keys.append(part)
    return keys


def _expected(fault: Any) -> str:
    kind = fault["type"].partition("_")[0]
    if fault["type"].endswith(("_type", "_required", "_exact", "_number")) and kind in _EXPECTED:
        return _EXPECTED[kind]
    return str(fault["msg"]).removeprefix("Input should be ").removeprefix("a valid ")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
