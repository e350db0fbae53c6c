"""What a configuration class consists of: its keys, their types, defaults and documentation, and variants of groups.

A group whose type is a union of dataclasses is one of several *variants*, told apart by the key that is
given. A variant with ``reads(text)`` may also be given as that text alone.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One setting, as help and reference show it.

    Attributes:
        key: Dotted, such as ``optim.learning_rate``.
        type: In words.
        default: As YAML; ``None`` if it must be given.
        choices: What it may be, if that can be listed.
        doc: The text under the field; the first line is complete in itself.
        tag: The key of the variant that this key belongs to, such as ``data.images.features``; else ``""``.
    """

    key: str
    type: str
    default: str | None
    choices: tuple[str, ...]
    doc: str
    tag: str = ""

    @property
    def summary(self) -> str:
        """The first line of the documentation, for a terminal."""
        return spoken(self.doc)


def spoken(doc: str) -> str:
    """The first line of a documentation without the marks of code, which a terminal would show."""
    return doc.partition("\n")[0].replace("``", "")


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The type of each field, in order."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def groups_of(hint: Any) -> tuple[type, ...]:
    """The dataclasses among the members of a type: none for a plain value, several for variants."""
    return tuple(one for one in members_of(hint) if isinstance(one, type) and dataclasses.is_dataclass(one))


def element_of(hint: Any) -> type | None:
    """The dataclass of which a list is made: ``Group`` of ``tuple[Group, ...]``; ``None`` of anything else."""
    lists = (get_args(one)[0] for one in members_of(hint) if get_origin(one) is tuple)
    return next((one for one in lists if dataclasses.is_dataclass(one) and isinstance(one, type)), None)


def tag_of(variant: type) -> str:
    """The key that is given if a variant is meant: its ``TAG``, or else the first that must be given."""
    must = [field.name for field in dataclasses.fields(variant) if default_of(field) is dataclasses.MISSING]
    tag: str = getattr(variant, "TAG", (must or [dataclasses.fields(variant)[0].name])[0])
    return tag


def label_of(variant: type) -> str:
    """What tells a variant from the others: its tag, and the choices for it where several share one."""
    choices = choices_of(hints_of(variant)[tag_of(variant)])
    return f"{tag_of(variant)}: {' | '.join(map(plain, choices))}" if choices else tag_of(variant)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass, also of those that it inherits."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_in_module(base.__module__).get(base.__qualname__, {})
    return docs


def describe(kind: type, *, prefix: str = "", tag: str = "", own_default: Any = None) -> Iterator[KeyInfo]:
    """Every key below a configuration class, group by group and variant by variant.

    Defaults are those of ``own_default``, where the group's field has one of this class.
    """
    docs = field_docs(kind)
    for field in dataclasses.fields(kind):
        hint, key = hints_of(kind)[field.name], f"{prefix}{field.name}"
        groups, default = groups_of(hint), default_of(field)
        if type(own_default) is kind:
            default = getattr(own_default, field.name)
        shown = None if default is dataclasses.MISSING else _default_in_words(default, is_variant=len(groups) > 1)
        if len(groups) != 1 or type(None) in members_of(hint):
            yield KeyInfo(
                key, in_words(hint), shown, tuple(map(plain, choices_of(hint))), docs.get(field.name, ""), tag
            )
        for group in groups:
            own = f"{key}.{label_of(group)}" if len(groups) > 1 else tag
            yield from describe(group, prefix=f"{key}.", tag=own, own_default=default)
        if (element := element_of(hint)) is not None:
            yield from describe(element, prefix=f"{key}[].", tag=tag)


def in_words(hint: Any) -> str:
    """A type as people call it."""
    members = members_of(hint)
    if len(members) > 1:
        groups = groups_of(hint)
        words = [f"one of {{{', '.join(map(label_of, groups))}}}"] if len(groups) > 1 else []
        return " or ".join([*words, *(in_words(member) for member in members if not words or member not in groups)])
    if get_origin(hint) is Literal:
        return " | ".join(map(plain, get_args(hint)))
    if get_origin(hint) is tuple:
        inner = [part for part in get_args(hint) if part is not Ellipsis]
        return f"list of {_plural(inner[0])}" if len(set(inner)) == 1 else "list"
    if get_origin(hint) is dict:
        return "keys with values"
    return "group of keys" if dataclasses.is_dataclass(hint) else _WORDS.get(hint, str(hint))


def _plural(hint: Any) -> str:
    return "groups of keys" if dataclasses.is_dataclass(hint) else in_words(hint)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that the literals among the members of a type allow."""
    return tuple(choice for member in members_of(hint) if get_origin(member) is Literal for choice in get_args(member))


def _default_in_words(default: Any, *, is_variant: bool) -> str:
    if dataclasses.is_dataclass(default):
        return label_of(type(default)) if is_variant else "as below"
    return plain(default)


def plain(value: Any) -> str:
    """A value as YAML and the command line write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(plain, value))}]"
    return str(value)


@functools.cache
def _docs_in_module(module: str) -> dict[str, dict[str, str]]:
    """By class, the strings that stand under its annotated fields."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_docs_in_class(node)) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _docs_in_class(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            continue
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            yield field.target.id, inspect.cleandoc(str(below.value.value))
