"""docs/architecture.md shows the tables of ``table.py``, and the table of systems fits the imports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.table import CROSSROADS, SYSTEMS, shown_imports, shown_systems
from tests.architecture.test_imports import REPOSITORY, imports, sources, targets

DOCUMENT = REPOSITORY / "docs" / "architecture.md"
BLOCKS: dict[str, Callable[[], str]] = {"imports": shown_imports, "systems": shown_systems}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_document_shows_the_table(name: str) -> None:
    start, end = f"<!-- {name}: written by tests/architecture/table.py -->\n", f"<!-- end of {name} -->"
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    found, _, after = rest.partition(end)
    assert after, f"{DOCUMENT} lacks the marks of {name}"
    if os.environ.get("MCSE_WRITE_DOCS") == "1":
        DOCUMENT.write_text(before + start + BLOCKS[name]() + "\n" + end + after, encoding="utf-8")
        return
    assert found == BLOCKS[name]() + "\n", "run MCSE_WRITE_DOCS=1 pytest tests/architecture/test_documentation.py"


@pytest.fixture(scope="module")
def importers() -> dict[str, set[str]]:
    """Of each module of ``mcse``, the modules that import it; of none, those that name every system."""
    found = {source.module: source for source in sources() if source.module.startswith("mcse.")}
    importers: dict[str, set[str]] = {module: set() for module in found}
    for module, source in found.items():
        for _, imported, name in imports(source):
            target = targets(imported, name, set(found))
            if target in found and target != module and module.removeprefix("mcse.") not in CROSSROADS:
                importers[target].add(module)
    return importers


def owner(module: str, paths: dict[str, tuple[str, ...]]) -> list[str]:
    path = module.removeprefix("mcse.").replace(".", "/")
    return [
        name
        for name, own in paths.items()
        if any(f"{path}.py" == other or f"{path}/".startswith(f"{other}/") for other in own)
    ]


def test_every_file_of_the_table_is_there_and_of_one_system(importers: dict[str, set[str]]) -> None:
    for name, paths in SYSTEMS.items():
        for path in paths:
            place = REPOSITORY / "mcse" / path
            assert place.is_file() if Path(path).suffix else place.is_dir(), f"{name}: no {path}"
    for module in importers:
        assert len(owner(module, SYSTEMS)) <= 1, module


ENDS = ("mcse.commands.", "mcse.evaluation.suites.")


def test_what_one_system_alone_uses_is_in_the_table(importers: dict[str, set[str]]) -> None:
    """And what is in the table, no other system and no part of the frame uses.

    Commands and suites are ends in themselves: what one does for somebody else is no sign of whose it is.
    """
    systems = {module: found[0] for module in importers if (found := owner(module, SYSTEMS))}
    faults = []
    for module, users in importers.items():
        own, owners = systems.get(module), {systems.get(user) for user in users}
        if own is None and None not in owners and len(owners) == 1 and not module.startswith(ENDS):
            faults.append(f"{module} is used by {owners.pop()} alone: give it to that system in table.py")
        if own is not None and (others := {other for other in owners if not are_kin(own, other)}):
            faults.append(f"{module} of {own} is used by {others}: take it out of table.py, or share it")
    assert not faults, "\n".join(faults)


def are_kin(one: str, other: str | None) -> bool:
    """Whether they are the same system, or a system and what it shares with others."""
    return other is not None and bool({*one.split(", ")} & {*other.split(", ")})


def test_tests_that_a_page_names_are_there() -> None:
    """Those of the table of findings, before and after."""
    page = (REPOSITORY / "docs" / "results" / "faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:unit|recipes|faults)/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for file, test in named:
        path = REPOSITORY / "tests" / file
        assert path.is_file(), file
        assert not test or f"\ndef {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"
