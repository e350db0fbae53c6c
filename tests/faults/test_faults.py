"""A short round of races, kills and damage on every command that writes, and the order in which each writes.

``make faults`` does many rounds, and power cuts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rounds import ROUNDS, Bench, bench
from tests.faults.works import WORKS, work_here
from tests.fixtures.processes import in_child

pytestmark = pytest.mark.slow

RESUMING = [name for name, work in WORKS.items() if work.resumes]


@pytest.fixture(scope="module")
def place() -> Iterator[Bench]:
    with bench() as made:
        for name in WORKS:
            made.straight(name)
        yield made


@pytest.mark.parametrize("kind", ["race", "kill", "damage"])
@pytest.mark.parametrize("name", WORKS)
def test_a_round_holds(kind: str, name: str, place: Bench) -> None:
    if kind == "race" or name in RESUMING:
        ROUNDS[kind](place, name, random.Random(name))


def write_in_order(command: str, inputs: Path, site: Path) -> None:
    """Runs a command and fails where a power cut could have taken what it had said to be done."""
    synced: dict[int, int] = {}  # inode -> when it was last forced to the disk
    renamed: list[tuple[int, Path]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        synced[os.fstat(descriptor).st_ino] = time.time_ns()

    def on_disk(path: Path) -> bool:
        stat = path.stat()
        return stat.st_mtime_ns <= synced.get(stat.st_ino, 0)

    def checked(move, source, target):
        if not Path(target).name.endswith((".partial", ".old")):  # what is moved out of the way
            for path in [Path(source), *Path(source).rglob("*")]:
                assert on_disk(path), f"{path} becomes {target} and is not on the disk"
            renamed.append((time.time_ns(), Path(target).parent))
        move(source, target)

    os.fsync = syncing
    os.rename = lambda source, target: checked(rename, source, target)
    os.replace = lambda source, target: checked(replace, source, target)
    words = [word.format(inputs=inputs, output=site / "output") for word in command.split()]
    assert work_here(words, site) == 0
    assert renamed
    for when, folder in renamed:
        if folder.is_dir():
            assert synced.get(folder.stat().st_ino, 0) >= when, f"nothing forces the names in {folder} to the disk"
    files = [path for path in site.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert on_disk(path), f"{path} is not on the disk at the end"


@pytest.mark.parametrize("name", WORKS)
def test_what_is_written_is_on_the_disk_before_it_has_its_name(name: str, place: Bench, tmp_path: Path) -> None:
    ended = in_child(write_in_order, WORKS[name].commands[0], place.inputs, tmp_path)
    assert ended.code == 0, ended.said


def test_a_write_out_of_order_would_be_seen(place: Bench, tmp_path: Path) -> None:
    ended = in_child(write_unsynced, place.inputs, tmp_path)
    assert ended.code == 1
    assert "is not on the disk" in ended.said


def write_unsynced(inputs: Path, site: Path) -> None:
    from mcse import files

    files._sync = lambda path, mode: None
    write_in_order(WORKS["EmbeddingIndex.save"].commands[0], inputs, site)
