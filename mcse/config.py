"""YAML and command line → frozen dataclasses, strictly: an unknown key is refused with the nearest right one.

A value on the command line is the text that was typed, read by its key's type; a file is read by YAML 1.2's core
schema. Pydantic checks single values; this file reads, merges, finds the variant that is meant, and words the errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mcse.config_fields import (
    choices_of,
    default_of,
    describe,
    element_of,
    field_docs,
    groups_of,
    hints_of,
    in_words,
    label_of,
    members_of,
    plain,
    spoken,
    tag_of,
)
from mcse.yaml_files import INTEGER, NUMBER, dump_yaml, integer, number, parse_yaml, read_yaml_file

Config = TypeVar("Config")

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_INT64, _FLOAT32 = 2**63, 3.4e38
"""What PyTorch cannot hold, from there on."""

_SHORTHAND = ""
"""The key under which the text of a group that was given as one text lies beside its other keys."""

_NULLS, _TRUE, _FALSE = ("null", "Null", "NULL", "~", ""), ("true", "True", "TRUE"), ("false", "False", "FALSE")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and where it stands."""


class Typed(str):
    """A value as it was typed on the command line."""

    __slots__ = ()


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, nested.

    Raises:
        ConfigError: The file is missing, not UTF-8, not YAML (with the line), a key is given twice, or no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"--config: no file at {path}")
    try:
        tree = read_yaml_file(path)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(tree).__name__}")
    return tree


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``--a.b value`` and ``--a.b=value`` as a nested mapping of the texts that were typed.

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
            # What begins with -- is the next flag; --key=--value gives such a value.
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{key} lacks its value: keys are given as --key value (mcse train RECIPE --help)")
            text = rest.pop(0)
        value: Any = Typed(text)
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def read_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys given in Python, nested or by their dotted names, as ``read_overrides`` gives those of a command line."""
    tree: dict[str, Any] = {}
    for name, given in keys.items():
        value = _typed(json.loads(json.dumps(given, default=str)))
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, mapping by mapping.

    A group may be given as one text, and keys of it beside that.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, str) and isinstance(value, Mapping):
            below = {_SHORTHAND: below}
        elif isinstance(below, Mapping) and isinstance(value, str):
            value = {_SHORTHAND: value}
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def build_config(
    kind: type[Config],
    tree: Mapping[str, Any],
    *,
    source: str,
    typed_source: str = "command line",
    elsewhere: Callable[[str], str] = lambda key: "",
    check: Callable[[str, Any], Iterable[tuple[str, str]]] = lambda path, group: (),
) -> Config:
    """``tree`` as the dataclass ``kind``, nested dataclasses included.

    Args:
        kind: A frozen dataclass whose fields carry types and, where every paper agrees, defaults.
        tree: Nested values, of a file and of ``read_overrides``.
        source: The file that they came from, for messages.
        typed_source: Where those came from that win over the file.
        elsewhere: What else a key that ``kind`` lacks may belong to, in words, or nothing.
        check: Of a group that could be built and where it stands (``data.captions.``): further faults, each with its
            key and message.

    Raises:
        ConfigError: Unknown, missing or ill-typed keys, and what ``check`` finds: all of them, one a line.
    """
    builder = _Builder(source, typed_source, kind, elsewhere, check, typed=set(_typed_keys(tree)))
    config = builder.group(kind, tree, "")
    for key, message in builder.later:
        builder.fault(message, key)
    if builder.faults:
        raise ConfigError("\n".join(builder.faults))
    built: Config = config
    return built


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain values that YAML and JSON can hold."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def with_defaults(tree: Mapping[str, Any], kind: type) -> Mapping[str, Any]:
    """What an earlier version wrote of a configuration, with the defaults of the keys that came after it.

    A new key's default leaves a run as it was, so the two compare as equal. A tree that this version cannot read is
    returned as it is.
    """
    try:
        return to_dict(build_config(kind, tree, source="an earlier configuration"))
    except ConfigError:
        return tree


def to_yaml(config: Any) -> str:
    """A config as YAML that ``read_yaml`` and ``build_config`` turn back into the same config."""
    return dump_yaml(to_dict(config))


@dataclass(slots=True)
class _Builder:
    """Builds nested dataclasses, and notes every fault with the place that it came from."""

    source: str
    typed_source: str
    root: Any
    elsewhere: Callable[[str], str]
    check: Callable[[str, Any], Iterable[tuple[str, str]]]
    faults: list[str] = field(default_factory=list)
    later: list[tuple[str, str]] = field(default_factory=list)
    """What ``check`` found; by itself it leaves a group as good as it was."""

    _: KW_ONLY
    typed: set[str]
    """Dotted keys that were given on the command line."""

    def fault(self, message: str, *keys: str) -> None:
        """Notes a fault of some keys: the command line's, if one of them was typed there."""
        is_typed = any(_begins(key, typed) for key in keys for typed in self.typed)
        self.faults.append(f"{self.typed_source if is_typed else self.source}: {message}")

    def group(
        self, kind: Any, tree: Mapping[str, Any], path: str, *, variants: Sequence[type] = (), default: Any = None
    ) -> Any:
        """``tree`` as the dataclass ``kind``, one of ``variants``; ``None`` after a fault.

        Keys that are not given are those of ``default``, where the group's field has such a one.
        """
        hints, before = hints_of(kind), len(self.faults)
        has_default = type(default) is kind
        fields = {own.name: own for own in dataclasses.fields(kind)}
        values = {name: getattr(default, name) for name in fields} if has_default else {}
        for name, value in tree.items():
            key = f"{path}{name}"
            if isinstance(value, Typed):
                self.typed.add(key)  # also below a group that was given as one text
            stem = str(name).partition("[")[0]
            element = element_of(hints[stem]) if stem in hints else None
            if name != stem and element is not None:
                self.fault(f"{path}{stem} is a list; {_whole_list(path + stem, element)}", key)
            elif name in hints:
                below = values[name] if has_default else default_of(fields[name])
                values[name] = self.value(kind, str(name), value, key, default=below)
            else:
                self.unknown(kind, key, path, variants)
        for own in fields.values():
            if own.name not in tree and own.name not in values and default_of(own) is dataclasses.MISSING:
                for owner, below in _required(kind, own.name):
                    key = ".".join([path + own.name, *below[1:]])
                    self.fault(f"missing key {key!r}{_explained(owner, below[-1])}", key)
        if len(self.faults) > before:
            return None
        try:
            built = kind(**values)
        except ValueError as error:
            # Checks of several keys name them first.
            named = re.match(r"[\w.]+(?:, [\w.]+)*(?=:)", str(error))
            self.fault(str(error), *(named[0].split(", ") if named else ()))
            return None
        self.later += self.check(path, built)
        return built

    def unknown(self, kind: Any, key: str, path: str, variants: Sequence[type]) -> None:
        """Notes that there is no such key; of a group that was typed, its keys."""
        for unknown in sorted(typed for typed in self.typed if _begins(key, typed)) or [key]:
            group, _, name = unknown.rpartition(".")
            if "." in key[len(path) :] and any(info.key == unknown for info in describe(self.root)):
                near = f"write {name!r} in the group {group!r}, not as one key with a dot"
            else:
                near = _nearest(self.root, kind, unknown, path, variants, other=self.elsewhere(unknown))
            self.fault(f"unknown key {unknown!r}; {near}", unknown)

    def value(self, kind: Any, name: str, value: Any, key: str, *, default: Any) -> Any:
        """One field, whose default is ``default``: a group, one of several variants, or a plain value."""
        hint = hints_of(kind)[name]
        groups, element = groups_of(hint), element_of(hint)
        if element is not None:
            return self.list_of_groups(hint, element, value, key)
        # A text may itself be what is meant, and no shorthand of a group; such a key may be a mapping, too.
        is_text = isinstance(value, str) and not (isinstance(value, Typed) and value.startswith("{"))
        if not groups or (is_text and str in members_of(hint)):
            return self.plain(hint, value, key)
        given = {_SHORTHAND: value} if isinstance(value, str) else value
        text = given.get(_SHORTHAND) if isinstance(given, Mapping) else given
        is_null = given is None or (isinstance(text, Typed) and text in _NULLS)
        if is_null and type(None) in members_of(hint):
            if given is not None and sum(isinstance(below, Typed) for below in given.values()) > 1:
                self.fault(f"{key}: given as {str(text)!r}, and by its keys", key)
            return None
        if is_null or not isinstance(given, Mapping):
            self.fault(f"{key}: expected {in_words(hint)}, got {'null' if is_null else repr(value)}", key)
            return None
        try:
            chosen, tree = _choose(kind, name, given)
        except ValueError as error:
            self.fault(f"{key}: {error}", key, *(f"{key}.{below}" for below in given))
            return None
        return self.group(chosen, tree, f"{key}.", variants=groups, default=default)

    def list_of_groups(self, hint: Any, element: type, value: Any, key: str) -> Any:
        """A list of groups, each as the dataclass ``element``."""
        if isinstance(value, Typed):
            try:
                value = None if value in _NULLS else _typed(parse_yaml(value))
            except ValueError as error:
                self.fault(f"{key}: {str(value)!r} is no YAML value ({error})", key)
                return None
        if value is None and type(None) in members_of(hint):
            return None
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            self.fault(f"{key}: expected {in_words(hint)}, got {value!r}; {_whole_list(key, element)}", key)
            return None
        return tuple(self.group(element, one, f"{key}[{number}].") for number, one in enumerate(value))

    def plain(self, hint: Any, value: Any, key: str) -> Any:
        """A value without keys of its own."""
        if isinstance(value, Typed):
            try:
                value = _read(hint, value)
            except ValueError as error:
                self.fault(f"{key}: {str(value)!r} is no YAML value ({error})", key)
                return None
        choices, others = choices_of(hint), [part for part in members_of(hint) if get_origin(part) is not Literal]
        others = [part for part in others if part not in groups_of(hint)]
        for choice in choices:
            # To Python 1, 1.0 and True are equal.
            if type(choice) is type(value) and choice == value:
                return value
        wanted = [repr(choice) for choice in choices]
        if others:
            try:
                # Of JSON, since to pydantic's strictness a list from a file is no tuple, and a text no path.
                text = json.dumps(value, default=str)
                read = TypeAdapter(functools.reduce(operator.or_, others), config=_STRICT).validate_json(text)
                if not isinstance(read, int | float) or abs(read) < (_INT64 if isinstance(read, int) else _FLOAT32):
                    return read
                wanted.append("a number of at most 64 bits" if isinstance(read, int) else "a number that fp32 can hold")
            except ValidationError as error:
                details = error.errors(include_url=False)
                wanted += [detail["msg"].removeprefix("Input should be ") for detail in details]
        if any(get_origin(part) is tuple for part in others) and isinstance(value, str):
            self.fault(f"{key}: expected a list, such as '[{value}]', got {value!r}", key)
            return None
        self.fault(f"{key}: input should be {' or '.join(dict.fromkeys(wanted))}, got {value!r}", key)
        return None


def _choose(kind: type, name: str, given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """The group or variant that is meant, and its keys; what was typed on the command line wins over a file.

    Raises:
        ValueError: None is meant, or two are.
    """
    groups = groups_of(hints_of(kind)[name])
    tree = dict(given)
    text = tree.pop(_SHORTHAND, None)
    if isinstance(text, Typed) and text.startswith("{") and text.endswith("}"):
        tree, text = merge(merge(tree, _typed(parse_yaml(text))), _only_typed(tree)), None
    typed = [group for group in groups if isinstance(tree.get(tag_of(group)), Typed)]
    named = typed or [group for group in groups if tag_of(group) in tree]
    default = default_of(next(own for own in dataclasses.fields(kind) if own.name == name))
    if text is not None and (isinstance(text, Typed) or not typed):
        group = _reader(groups, text)
        if typed:
            raise ValueError(f"given as {str(text)!r}, and by its key {tag_of(typed[0])!r}")
        tree[tag_of(group)] = text
    elif named:
        group = _named(named, tree)
    elif len(groups) == 1 or type(default) in groups:
        group = groups[0] if len(groups) == 1 else type(default)
    else:
        raise ValueError(f"give one of {_listed(map(label_of, groups))}; got {', '.join(map(repr, tree)) or 'no key'}")
    if typed or isinstance(text, Typed):
        # Another variant than the file's: the keys of that one go.
        others = {key for other in groups for key in hints_of(other)} - set(hints_of(group))
        tree = {key: value for key, value in tree.items() if key not in others or isinstance(value, Typed)}
    return group, tree


def _typed_keys(tree: Any, path: str = "") -> Iterator[str]:
    """The dotted keys that were given on the command line."""
    if isinstance(tree, Typed):
        yield path.rstrip(".")
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        yield from _typed_keys(value, f"{path}{key}." if key != _SHORTHAND else path)


def _only_typed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of a tree was given on the command line, key by key."""
    below = {key: _only_typed(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {
        key: value for key, value in below.items() if isinstance(value, Typed) or (value and isinstance(value, dict))
    }


def _whole_list(key: str, element: type) -> str:
    """How a list of groups is given on the command line."""
    return f"give it whole, such as --{key} '[{{{tag_of(element)}: …}}]'"


def _reader(groups: Sequence[Any], text: str) -> Any:
    """The variant that is given as one text."""
    for group in groups:
        if hasattr(group, "reads") and group.reads(text):
            return group
    raise ValueError(f"expected keys, such as {tag_of(groups[0])!r}, got {text!r}")


def _named(named: Sequence[Any], tree: Mapping[str, Any]) -> Any:
    """The variant whose tag is given; of variants that share the tag, the one that has its value among the choices."""
    tags = list(dict.fromkeys(map(tag_of, named)))
    if len(tags) > 1:
        raise ValueError(f"{' and '.join(tags)} exclude each other; give one of them")
    if len(named) == 1:
        return named[0]
    choices = {choice: group for group in named for choice in choices_of(hints_of(group)[tags[0]])}
    if tree[tags[0]] not in choices:
        raise ValueError(f"{tags[0]}: input should be {_listed(map(repr, choices))}, got {tree[tags[0]]!r}")
    return choices[tree[tags[0]]]


def _read(hint: Any, text: Typed) -> Any:
    """What was typed, by the type of its key: a text or path as it stands, a list as YAML."""
    members = members_of(hint)
    is_text = str in members or Path in members
    if type(None) in members and text in _NULLS and (text or not is_text):
        return None
    if (bool in members or True in choices_of(hint)) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    if int in members and INTEGER.fullmatch(text):
        return integer(text)
    if float in members and NUMBER.fullmatch(text):
        return number(text)
    if any(get_origin(member) is tuple for member in members):
        return parse_yaml(text)
    return str(text)


def _typed(value: Any) -> Any:
    """The scalars of mappings that were typed, as if each had been typed."""
    if isinstance(value, Mapping):
        return {key: _typed(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_typed(below) if isinstance(below, Mapping) else below for below in value]
    return Typed(plain(value))


def _nearest(root: type, kind: type, key: str, path: str, variants: Sequence[type], *, other: str) -> str:
    """What the key was probably meant to be: one of another variant, one of that name elsewhere, or one alike here.

    ``other`` says what of another kind has the very key.
    """
    name = key.rpartition(".")[2]
    if owners := [label_of(owner) for owner in variants if owner is not kind and name in hints_of(owner)]:
        return f"it goes with {_listed(owners)}, not with {label_of(kind)}"
    # The shortest wins: a sibling before a key of the same name inside a group. An unknown group has no siblings.
    infos = sorted(describe(kind, prefix=path), key=lambda info: -info.key.count(".")) if key == path + name else []
    known = {info.key.rpartition(".")[2]: info for info in infos}
    everywhere = {info.key.rpartition(".")[2]: info for info in reversed(list(describe(root)))}
    same = known.get(name) or everywhere.get(name)
    if other and same is None:
        return other
    short = next((info for each, info in [*known.items(), *everywhere.items()] if _initials(each) == name), None)
    here = hints_of(kind) if key == path + name else {}  # also groups, which are no settings
    near = difflib.get_close_matches(name, [*here, *known], n=1, cutoff=0.5)
    info = same or short or (known.get(near[0]) if near else None)
    if info is None and near:
        return f"did you mean {path + near[0]!r}?{_explained(kind, near[0])}"
    if info is None:
        return f"known here: {', '.join(hints_of(kind))}"
    meant = f"did you mean {info.key!r}?" + (f" ({info.summary})" if info.doc else "")
    return f"{meant} {other[:1].upper()}{other[1:]}".rstrip()


def _initials(name: str) -> str:
    """``lr`` of ``learning_rate``."""
    return "".join(word[:1] for word in name.split("_"))


def _required(kind: Any, name: str) -> list[tuple[Any, tuple[str, ...]]]:
    """The keys without a default at and below a key, each with the dataclass that it is of."""
    hint = hints_of(kind)[name]
    # What a text alone stands for is asked for as such: ``data.images``.
    if not dataclasses.is_dataclass(hint) or hasattr(hint, "reads"):
        return [(kind, (name,))]
    lacking = [own.name for own in dataclasses.fields(hint) if default_of(own) is dataclasses.MISSING]
    found = [(owner, (name, *below)) for each in lacking for owner, below in _required(hint, each)]
    return found or [(kind, (name,))]


def _explained(kind: type, name: str) -> str:
    doc = spoken(field_docs(kind).get(name, ""))
    return f" ({doc})" if doc else ""


def _begins(key: str, other: str) -> bool:
    return key == other or other.startswith(f"{key}.")


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
