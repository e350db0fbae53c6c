"""The reference page of all settings, written from the documentation under each field. Not a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mcse.config_fields import KeyInfo, describe
from mcse.files import write_text
from mcse.recipes import RECIPES, config_class
from mcse.recipes.base import RunConfig

_HEAD = """# Configuration

Every key of every recipe. `make reference` writes this page from the code; `mcse train RECIPE --help` shows the same.

Keys are given in a YAML file, nested, or on the command line as `--group.key value`, which wins. What is typed is read
by the key's type, so a text needs no quotes of its own; a list or a group is written as YAML
(`--train.trackers "[wandb]"`). A file is read by YAML 1.2's core schema. Unknown keys are refused with the nearest
right one.

Some groups are one of several variants, told apart by the key that is given: `data.images: {features: STORE}` or
`data.images: {folder: DIR, tower: SPEC}`. The keys of a variant stand below it and go with no other. Where "given as a
text alone" is said, `data.captions: captions.csv` is `data.captions: {file: captions.csv}`. To choose another variant
than the file's, give its key on the command line; `null` empties a group that may be empty.
"""


def reference_page() -> str:
    """The page as Markdown: what all recipes share, then each recipe's own keys."""
    common = [info for info in describe(RunConfig) if info.key != "recipe"]
    shared = {info.key for info in common}
    parts = [_HEAD, "## All recipes\n", keys_table(common)]
    for name, summary in RECIPES.items():
        own = [info for info in describe(config_class(name)) if info.key not in shared | {"recipe"}]
        parts += [f"## `{name}`: {summary}\n", keys_table(own)]
    return "\n".join(parts)


def write_reference(path: Path) -> None:
    """Writes the page to ``path``."""
    write_text(path, reference_page())


def keys_table(infos: Iterable[KeyInfo]) -> str:
    """Keys with type, default and documentation, a row each."""
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for info in infos:
        default = "required" if info.default is None else f"`{info.default}`"
        which = f" (with `{info.tag}`)" if info.tag and info.tag != info.key else ""
        cells = (f"`{info.key}`{which}", info.type, default, " ".join(info.doc.split()))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"
