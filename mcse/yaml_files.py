"""YAML by version 1.2's core schema (``010`` is ten, ``1:30`` and ``yes`` are texts), read in bounds, written quoted.

Plain data alone: no tags, no key twice, no keys that are not plain text, and no aliases, of which a small file can hold
so many that what it stands for fills the memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mcse.files import read_bytes

INTEGER = re.compile(r"(?:[-+]?\d+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
NUMBER = re.compile(r"(?:[-+]?(?:(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))\Z")
"""How a text says a whole number, or any number."""

_CORE = [
    ("tag:yaml.org,2002:null", re.compile(r"(?:null|Null|NULL|~|)\Z")),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("tag:yaml.org,2002:int", INTEGER),
    ("tag:yaml.org,2002:float", NUMBER),
]
"""What a plain scalar is; all else is text."""

_MOST_BYTES = 2**20


def read_yaml_file(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ValueError: Larger than 1 MiB, not UTF-8, or as for ``parse_yaml``; names file and line.
        OSError: It cannot be opened.
    """
    data = read_bytes(path, most_bytes=_MOST_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x})") from None
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None


def parse_yaml(text: str) -> Any:
    """What a text holds: mappings, lists, texts, numbers, ``True``, ``False`` and ``None``.

    Raises:
        ValueError: It is no YAML, holds a character that YAML does not allow, is nested too deeply, or is not plain
            data; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: the character {chr(error.character)!r} is not allowed") from None
    except RecursionError:
        raise ValueError("line 1: nested too deeply") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"line 1: a value that its tag does not allow ({error})") from None


def dump_yaml(content: Any) -> str:
    """Plain data as text that ``parse_yaml``, and readers of YAML 1.1, turn back into the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def integer(text: str) -> int:
    """The number that a text of the form ``INTEGER`` says."""
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def number(text: str) -> float:
    """The number that a text of the form ``NUMBER`` says."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return integer(loader.construct_scalar(node))
    except ValueError:  # Python reads no more than 4,300 digits
        raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark) from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {None: _CORE}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:int": _construct_integer,
        "tag:yaml.org,2002:float": lambda loader, node: number(loader.construct_scalar(node)),
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias (*name); write out what it stands for", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key_node.start_mark)
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers: dict[Any, Any] = {**yaml.SafeDumper.yaml_implicit_resolvers, None: _CORE}  # noqa: RUF012
