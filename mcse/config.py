"""YAML and command line → frozen dataclasses, strictly: an unknown key is refused with the nearest right one.

Pydantic checks and converts the values; this file only reads, merges and words the errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and where it stands."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, nested.

    Raises:
        ConfigError: The file is missing, not UTF-8, not YAML (with the line), a key stands twice, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--config: no file at {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: {error.problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(tree).__name__}")
    return tree


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``--a.b value`` and ``--a.b=value`` as a nested mapping; values are read as YAML.

    Raises:
        ConfigError: An argument does not start with ``--``, or lacks its value.
    """
    tree: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"unexpected argument {flag!r}; configuration keys are given as --key value")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigError(f"--{key} lacks its value")
            text = rest.pop(0)
        try:
            value = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or error
            raise ConfigError(f"--{key}: {text!r} is no YAML value ({reason}); put it in quotes of its own") from None
        _set(tree, key.split("."), value)
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def build_config(kind: type[Config], tree: Mapping[str, Any], *, source: str) -> Config:
    """``tree`` as the dataclass ``kind``, nested dataclasses included.

    Args:
        kind: A frozen dataclass whose fields carry types and, where every paper agrees, defaults.
        tree: Nested plain values.
        source: Where the values came from, for messages.

    Raises:
        ConfigError: Unknown, missing or ill-typed keys: all of them, one a line.
    """
    unknown = list(_unknown_keys(kind, tree))
    if unknown:
        raise ConfigError("\n".join(f"{source}: {line}" for line in unknown))
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(dict(tree))
    except ValidationError as error:
        lines = [_word(detail) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def refuse_idle(group: str, config: Any, *, keys: Collection[str], why: str) -> None:
    """Refuses settings that would do nothing: ``keys`` of a config group that are not at their defaults."""
    values = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        if field.name in keys and values[field.name] != field.default:
            raise ValueError(f"{group}.{field.name}: {values[field.name]!r} would do nothing, since {why}")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain values that YAML and JSON can hold."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def to_yaml(config: Any) -> str:
    """A config as YAML that ``read_yaml`` and ``build_config`` turn back into the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--{'.'.join(path)}: {part!r} was given a value of its own before")
    tree[path[-1]] = value


def _unknown_keys(kind: Any, tree: Mapping[str, Any], *, prefix: str = "") -> Sequence[str]:
    hints = get_type_hints(kind)
    lines = []
    for key, value in tree.items():
        if key not in hints:
            lines.append(f"unknown key {prefix + str(key)!r}; {_nearest(kind, str(key), prefix=prefix)}")
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            lines.extend(_unknown_keys(hints[key], value, prefix=f"{prefix}{key}."))
    return lines


def _nearest(kind: Any, key: str, *, prefix: str) -> str:
    """What the key was probably meant to be: a sibling, or one inside a group (``optim.learning_rate``)."""
    hints = get_type_hints(kind)
    names = {name: prefix + name for name in hints}
    for group, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            names |= {name: f"{prefix}{group}.{name}" for name in get_type_hints(hint) if name not in names}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"did you mean {names[near[0]]!r}?" if near else f"known here: {', '.join(hints)}"


def _word(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"missing key {key!r}"
    message = detail["msg"].removeprefix("Value error, ")
    return (
        message
        if detail["type"] == "value_error"
        else f"{key}: {message[:1].lower() + message[1:]}, got {detail['input']!r}"
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; ``1e-5`` is text to it, which pydantic makes a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
