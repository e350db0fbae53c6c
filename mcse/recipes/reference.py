"""The reference pages of all settings, written from the documentation under each field. Not a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mcse.config_fields import KeyInfo, describe
from mcse.files import write_text
from mcse.recipes import RECIPES, config_class
from mcse.recipes.base import RunConfig

_HEAD = """# Configuration

This page has the keys that all recipes share; each recipe has a page with its own. `make reference` writes these pages
from the code, and `mcse train RECIPE --help` shows the same.

Keys are given in a YAML file, nested, or on the command line as `--group.key value`, which wins. What is typed is read
by the key's type, so a text needs no quotes of its own; a list or a group is written as YAML
(`--train.trackers "[wandb]"`). A file is read by YAML 1.2's core schema. Unknown keys are refused with the nearest
right one.

Some groups are one of several variants, told apart by the key that is given: `data.images: {features: STORE}` or
`data.images: {folder: DIR, tower: SPEC}`. Each variant's keys stand in a table of their own and go with no other
variant. Where a key may be "given as a text alone", `data.captions: captions.csv` means
`data.captions: {file: captions.csv}`. To choose another variant than the file's, give its key on the command line;
`null` empties a group that may be empty.

## Recipes
"""
_ALSO = "The keys of every recipe (`output_dir`, `optim`, `train`, `seed`) are in [configuration](../configuration.md)."


def reference_pages() -> dict[str, str]:
    """The pages as Markdown, by file: what all recipes share, then the own keys of each recipe."""
    common = [info for info in describe(RunConfig) if info.key != "recipe"]
    shared = {info.key for info in common} | {"recipe"}
    recipes = [f"- [{name}](configuration/{name}.md): {summary}" for name, summary in RECIPES.items()]
    pages = {
        "configuration.md": "\n".join(
            [_HEAD, "\n".join(recipes), "\n## Keys of every recipe\n", *_groups(common, "###")]
        )
    }
    for name, summary in RECIPES.items():
        own = [info for info in describe(config_class(name)) if info.key not in shared]
        head = f"# {name}\n\nThe recipe `{name}`: {summary}.\n\n{_ALSO}\n"
        pages[f"configuration/{name}.md"] = "\n".join([head, *_groups(own, "##")])
    return pages


def write_reference(path: Path) -> None:
    """Writes ``path``, the page ``configuration.md``, and a page a recipe into the folder beside it."""
    path.with_suffix("").mkdir(exist_ok=True)
    for name, page in reference_pages().items():
        write_text(path.parent / name, page)


def _groups(infos: Iterable[KeyInfo], heading: str) -> Iterator[str]:
    """The keys of each group under its name: first those that always go, then those of each variant."""
    infos = list(infos)
    names = {info.key.partition(".")[0] for info in infos if "." in info.key}
    groups: dict[str, dict[str, list[KeyInfo]]] = {}
    for info in infos:
        first = info.key.partition(".")[0]
        name = next((name for name in (first, f"{first}[]") if name in names), "Top level")
        groups.setdefault(name, {"": []}).setdefault(info.tag, []).append(replace(info, tag=""))
    for name, variants in groups.items():
        yield f"{heading} {name.removesuffix('[]')}\n"
        for tag, keys in variants.items():
            yield from [f"With `{tag}`:\n"] if tag else []
            yield from [keys_table(keys)] if keys else []


def keys_table(infos: Iterable[KeyInfo]) -> str:
    """Keys with type, default and documentation, a row each."""
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for info in infos:
        default = "required" if info.default is None else f"`{info.default}`"
        which = f" (with `{info.tag}`)" if info.tag and info.tag != info.key else ""
        cells = (f"`{info.key}`{which}", info.type, default, " ".join(info.doc.split()))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"
