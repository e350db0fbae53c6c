"""What ``mcse evaluate`` evaluates on: one's own tables, or, where nobody says it, a run's pairs or ``MCSE_DATA``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcse.config import Typed, build_config, merge, read_yaml
from mcse.data.config import DataRoot
from mcse.data.source_variants import ScoredPairsSource, ScoredTable
from mcse.data.table_config import DevTable, TestTables
from mcse.data.tables import TABLE_SUFFIXES, ending
from mcse.data.test_sets.lines import senteval_parent
from mcse.evaluation.suite import SuiteOptions
from mcse.run_folder import is_run, read_config

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


def with_tables(options: SuiteOptions, suites: Sequence[str], columns: Sequence[str]) -> SuiteOptions:
    """With the tables that ``--data`` and ``--columns`` name for the suite ``table``.

    Raises:
        ValueError: Columns without the suite, or that do not exist.
        FileNotFoundError: No such file of tables.
    """
    if "table" not in suites:
        if columns:
            raise ValueError("--columns names the columns of --suite table")
        return options
    tables, root = ((), Path()) if options.data is None else read_test_tables(options.data, columns)
    return replace(options, tables=tables, tables_root=root)


def on_default_data(
    options: SuiteOptions, models: Sequence[str], suites: Sequence[str] | None
) -> tuple[SuiteOptions, str]:
    """The options with ``default_data``, and what is said of these data."""
    data, told = default_data(models, suites)
    return replace(options, pairs=data) if isinstance(data, ScoredTable) else replace(options, data=data), told


def default_data(models: Sequence[str], suites: Sequence[str] | None) -> tuple[str | ScoredTable | None, str]:
    """The data of ``mcse evaluate`` without ``--data``, and what is said of it; ``None`` is the hub's.

    Where nothing else is asked, runs are evaluated on their own ``data.sts``.

    Args:
        models: As they were named.
        suites: Those that were asked for; ``None`` where nobody asked.
    """
    if suites is None and (own := _own_pairs(models)) is not None:
        where = own.path if isinstance(own, ScoredTable) else own
        # Of SentEval's tests a run selects by the dev pairs, which are not evaluated.
        if isinstance(own, str) and Path(own).is_dir():
            return own, f"test data: {where}, the run's own data.sts (--data names others)"
        return (
            own,
            f"test pairs: {where}, the run's own data.sts, which also selected its checkpoint (--data names others)",
        )
    start = os.environ.get("MCSE_DATA")
    asked = {*(suites or ("sts",))}
    if (
        not start
        or "table" in asked
        or (asked & {"sts", "geometry"} and senteval_parent(start, ("STS", "SICK")) is None)
    ):
        return None, ""
    return start, f"test data: {start} (from the environment variable MCSE_DATA)"


def _own_pairs(models: Sequence[str]) -> ScoredPairsSource | None:
    """The pairs that selected the checkpoints of all ``models``, if these are the same and still there."""
    found: set[ScoredPairsSource | None] = set()
    for folder in map(Path, models):
        below = sorted(folder.iterdir()) if folder.is_dir() and not is_run(folder) else [folder]
        runs = [run for run in below if is_run(run)]
        found |= {_pairs_of(run) for run in runs} or {None}
    own = found.pop() if len(found) == 1 else None
    if own is None:
        return None
    path = own.path.partition("::")[0] if isinstance(own, ScoredTable) else own
    # A table's name may also be a dataset of the hub, which is told when it is read.
    may_be_hub = isinstance(own, ScoredTable) and ending(Path(path)) not in TABLE_SUFFIXES
    return own if may_be_hub or Path(path).exists() else None


def _pairs_of(run: Path) -> ScoredPairsSource | None:
    try:
        data = read_config(run).get("data")
    except (ValueError, OSError):  # of another make, or damaged, which is told when it is loaded
        return None
    if not isinstance(data, dict) or not isinstance(own := data.get("sts"), str | dict):
        return None
    root = data.get("root")
    folder = DataRoot(root=None if root is None else Path(str(root))).folder
    if isinstance(own, str):
        return str(folder / own)
    try:
        table = build_config(ScoredTable, own, source=str(run))
    except ValueError:  # as above
        return None
    return replace(table, path=str(folder / table.path)) if (folder / table.path).exists() else table


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
    if found.data.root is not None:
        return found.evaluate, found.data.folder
    beside = {table.path: path.parent / table.path for table in found.evaluate}
    tables = (
        replace(table, path=str(beside[table.path].absolute())) if beside[table.path].exists() else table
        for table in found.evaluate
    )
    return tuple(tables), found.data.folder


def _name(data: str) -> str:
    """What scores of a table are called: its file without its ending, or the hub's name of a dataset."""
    path = Path(data.partition("::")[0])
    return Path(path.name.removesuffix(".gz")).stem if path.is_file() else path.name
