"""``mcse configs``: the configurations that come with the package, by name; ``--config mcse:NAME`` takes one."""

from __future__ import annotations

import difflib
import re
import textwrap
from pathlib import Path

CONFIGS = (Path(__file__).parent.parent / "configs").resolve()
"""In a checkout a link to the folder ``configs`` beside the package."""

_PREFIX = "mcse:"
_STUDIES = "studies/"
_WIDTH = 100


def run(name: str | None = None, *, path: bool = False) -> int:
    """Lists the configurations, or prints one as it stands, or where its file is; returns 0.

    Raises:
        ValueError: There is none of that name.
    """
    if name is not None:
        file = _shipped(name)
        print(file if path else file.read_text(encoding="utf-8"), end="\n" if path else "")
        return 0
    if path:
        print(CONFIGS)
        return 0
    names = _names()
    width = max(map(len, names))
    for each, file in names.items():
        text = file.read_text(encoding="utf-8")
        recipe = re.search(r"^recipe: (\w+)", text, flags=re.MULTILINE)
        kind = "study" if each.startswith(_STUDIES) else recipe[1] if recipe else "–"
        print(f"{each:{width}}  {kind:14}  {_title(text)}")
    print(
        f"\nmcse configs NAME prints one; mcse train --config {_PREFIX}NAME takes it (a study: mcse study); "
        f"the files are in {CONFIGS}"
    )
    return 0


def config_path(given: str) -> Path:
    """The file that ``--config`` means: a path, or ``mcse:NAME`` of one that comes with the package.

    Raises:
        ValueError: There is none of that name; the nearest are named.
    """
    if given.startswith(_PREFIX):
        return _shipped(given.removeprefix(_PREFIX))
    path = Path(given)
    if not path.exists():
        names = [name for name, file in _names().items() if file.suffix == ".yaml"]
        shipped = given.removesuffix(".yaml").removeprefix("configs/")
        near = [name for name in names if shipped in (name, name.rpartition("/")[2])]
        here = [str(file) for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        near = [f"{_PREFIX}{name}" for name in near] or difflib.get_close_matches(given, here)
        # Of the recipe whose folder is named, if there is one.
        own = [name for name in names if name.startswith(f"{shipped.partition('/')[0]}/")] or names
        near = near or [f"{_PREFIX}{name}" for name in difflib.get_close_matches(shipped, own, cutoff=0.5)]
        meant = f"did you mean {' or '.join(near)}?" if near else "mcse configs lists those that come with mcse"
        raise ValueError(f"--config: no file at {given}; {meant}")
    return path


def _names() -> dict[str, Path]:
    """YAML files by their path without its ending, and job files by their path."""
    files = sorted(file for file in CONFIGS.rglob("*") if file.suffix in (".yaml", ".sbatch"))
    return {file.relative_to(CONFIGS).as_posix().removesuffix(".yaml"): file for file in files}


def _shipped(name: str) -> Path:
    names = _names()
    if found := names.get(name.removesuffix(".yaml")):
        return found
    # Whoever forgets the recipe's folder means the files of that name.
    near = [each for each in names if each.endswith(f"/{name}")] or difflib.get_close_matches(name, names, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else "mcse configs lists them"
    raise ValueError(f"no configuration {name!r} comes with mcse; {meant}")


def _title(text: str) -> str:
    """What the first comment says, up to its list of facts."""
    comment = re.search(r"^# .*\n(?:# (?!\w+:\s).*\n)*", text, flags=re.MULTILINE)
    return textwrap.shorten(comment[0].replace("# ", "") if comment else "", _WIDTH, placeholder=" …")
