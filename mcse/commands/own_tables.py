"""One's own test sets for ``mcse evaluate --suite table``, from the command line or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcse.config import Typed, build_config, merge, read_yaml
from mcse.data.table_config import DevTable, TestTables

_LISTS = ("negatives",)


def read_test_tables(data: str, columns: Sequence[str] = ()) -> tuple[tuple[DevTable, ...], Path]:
    """The tables that ``--data`` names, and the folder where their relative paths start.

    Args:
        data: A table; or a ``.yaml`` with the key ``evaluate``, which may be a run's configuration, and ``data.root``.
        columns: Of one table ``KEY=COLUMN``, with any key of ``evaluate``; a key of a list may be given several times.

    Raises:
        ValueError: A key that does not exist, with the nearest that does; columns beside a ``.yaml``.
        FileNotFoundError: No such ``.yaml``.
    """
    path = Path(data)
    if path.suffix in (".yaml", ".yml"):
        if columns:
            raise ValueError(f"--columns is of one table; {data} lists its tables with their columns")
        return _listed(path)
    tree: dict[str, Any] = {"path": data, "name": _name(data)}
    for given in columns:
        key, equals, name = given.partition("=")
        if not equals:
            raise ValueError(f"--columns: expected KEY=COLUMN, such as query=left, got {given!r}")
        if key in _LISTS and not name.startswith("["):
            tree[key] = [*tree.get(key, []), name]
        else:
            tree = merge(tree, {key: Typed(name)})
    return (build_config(DevTable, tree, source="--columns"),), Path()


def _listed(path: Path) -> tuple[tuple[DevTable, ...], Path]:
    if not path.is_file():
        raise FileNotFoundError(f"--data: no file at {path}")
    tree = read_yaml(path)
    if "recipe" in tree:  # of a whole run, of which the rest is no matter here
        root = tree["data"].get("root") if isinstance(tree.get("data"), dict) else None
        tree = {"evaluate": tree.get("evaluate", []), "data": {} if root is None else {"root": root}}
    found = build_config(TestTables, tree, source=str(path))
    if not found.evaluate:
        raise ValueError(f"{path}: its key 'evaluate' lists no table")
    return found.evaluate, found.data.folder


def _name(data: str) -> str:
    """What scores of a table are called: its file without its ending, or the hub's name of a dataset."""
    path = Path(data.partition("::")[0])
    return Path(path.name.removesuffix(".gz")).stem if path.is_file() else path.name
