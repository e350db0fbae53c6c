"""Races, kills, power cuts and damage to every work in ``works.py``, at moments and places that a seed draws."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.faults.works import WORKS, Content, build_inputs, leftovers, start
from tests.fixtures.processes import ready_server

PATIENCE = 300.0
"""Seconds in which a child must end, on a machine that others use too."""

Row = tuple[str, str, int, int]
"""Kind of fault, where, how many were tried, how many held."""

IN_USE = r"is in use by process \d+ on \S+; wait"
IMAGE_BYTES = 192 * 2**20
MOUNTED = "loop,commit=300,noauto_da_alloc"
"""Nothing reaches the disk but what is forced to it, and no rename is mended by the file system's own heuristics."""


@dataclass(slots=True)
class Bench:
    """Inputs, and what each work gives when nothing happens to it."""

    top: Path
    inputs: Path
    wanted: dict[str, list[Content]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def straight(self, name: str) -> None:
        """Runs each command of a work alone."""
        work = WORKS[name]
        for number, command in enumerate(dict.fromkeys(work.commands)):
            site = self.top / f"straight {number}"
            begun = time.monotonic()
            _expect_end(start(command, self.inputs, site, log=self.log(site)), self.log(site))
            self.seconds.setdefault(name, time.monotonic() - begun)
            self.wanted.setdefault(name, []).append(work.read(site / "output"))
            shutil.rmtree(site)

    def log(self, site: Path) -> Path:
        """What the children in a site say."""
        site.mkdir(exist_ok=True)
        return self.top / f"{site.name}.log"

    def check(self, name: str, site: Path) -> None:
        """Whatever can be read is right, and what cannot be is refused by name."""
        try:
            found = WORKS[name].read(site / "output")
        except (ValueError, OSError) as error:
            if str(site / "output") not in str(error):
                raise AssertionError("an error that names no file") from error
            return
        assert any(found.items() <= wanted.items() for wanted in self.wanted[name]), f"believed: {sorted(found)}"

    def check_end(self, name: str, site: Path) -> None:
        """All is there, and nothing else."""
        found = WORKS[name].read(site / "output")
        assert found in self.wanted[name], f"at the end: {sorted(found)}"
        assert not leftovers(site), f"left behind: {leftovers(site)}"

    def finish(self, name: str, site: Path) -> str:
        """The next start goes on to the right end; what it said."""
        log = self.log(site).with_suffix(".next")
        log.unlink(missing_ok=True)
        child = start(WORKS[name].commands[0], self.inputs, site, log=log)
        _expect_end(child, log, or_said=WORKS[name].second)
        self.check_end(name, site)
        return log.read_text(errors="replace")


@contextmanager
def bench() -> Iterator[Bench]:
    """Inputs in a folder of their own, and a server of processes that has imported everything."""
    warm = ready_server().Process(target=time.sleep, args=(0,))
    warm.start()
    warm.join()
    with tempfile.TemporaryDirectory(prefix="mcse faults #") as folder:
        yield Bench(Path(folder), build_inputs(Path(folder) / "inputs"))


def race(place: Bench, name: str, draw: random.Random) -> int:
    """Several starts at once: one owns the output, and each other is refused in one line. Returns 1 race."""
    work, site = WORKS[name], place.top / "race"
    logs = [place.log(site).with_suffix(f".{number}") for number in range(work.together)]
    children = []
    for number, log in enumerate(logs):
        log.unlink(missing_ok=True)
        time.sleep(draw.choice((0, draw.uniform(0, place.seconds[name]))) if number else 0)
        children.append(start(work.commands[number % len(work.commands)], place.inputs, site, log=log))
    codes = [_end_of(child) for child in children]
    said = [log.read_text(errors="replace") for log in logs]
    assert 0 in codes, f"exit codes {codes}: {said}"
    for code, text in zip(codes, said, strict=True):
        last = text.strip().splitlines()[-1] if text.strip() else ""
        assert code == 0 or (code == 2 and re.search(f"{IN_USE}|{work.second}", last)), f"exit code {code}: {text}"
        assert "Traceback" not in text, text
    place.check_end(name, site)
    shutil.rmtree(site)
    return 1


def kill(place: Bench, name: str, draw: random.Random) -> int:
    """Up to three kills, one after another, and then the same command once more. Returns the number of kills."""
    site, kills = place.top / "kill", draw.randint(1, 3)
    for _ in range(kills):
        child = start(WORKS[name].commands[0], place.inputs, site, log=place.log(site))
        time.sleep(draw.uniform(0, place.seconds[name]))
        child.kill()
        child.join()
        place.check(name, site)
    place.finish(name, site)
    shutil.rmtree(site)
    return kills


def cut_power(place: Bench, name: str, draw: random.Random, *, cuts: int = 4) -> int:
    """A work in a file system of its own, whose disk is copied in the middle, unsynced: what a power cut leaves.

    The copies are mounted, which replays their journals, and the next start must go on.
    """
    disk, site = place.top / "disk", place.top / "site"
    site.mkdir(exist_ok=True)
    with disk.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    copies = []
    with mounted(disk, site):
        child = start(WORKS[name].commands[0], place.inputs, site, log=place.log(site))
        begun = time.monotonic()
        moments = sorted(draw.uniform(0, place.seconds[name]) for _ in range(cuts - 1))
        for moment in [*moments, None]:
            if moment is None:
                _expect_end(child, place.log(site))  # and at its end, when it has said that all is written
            time.sleep(max(0.0, begun + (moment or 0) - time.monotonic()))
            with standing_still(child):
                copies.append(place.top / f"disk {len(copies)}")
                subprocess.run(["cp", "--sparse=always", disk, copies[-1]], check=True)
    for number, copy in enumerate(copies):
        with mounted(copy, site):
            if number < len(copies) - 1:
                place.check(name, site)
            else:
                assert WORKS[name].read(site / "output") in place.wanted[name], "lost, though it was said to be done"
            place.finish(name, site)
        copy.unlink()
    return len(copies)


def damage(place: Bench, name: str, draw: random.Random) -> int:
    """Damages what a work kept, one file at a time, and does it again, which says so. Returns the number of files."""
    site = place.top / "damage"
    _expect_end(start(WORKS[name].commands[0], place.inputs, site, log=place.log(site)), place.log(site))
    kept = sorted(path for path in (site / "cache").rglob("*") if path.is_file())
    kept = draw.sample(kept, min(len(kept), 4))
    for path in kept:
        whole = path.read_bytes()
        size = len(whole)
        begin = draw.randrange(size)
        end = draw.choice((size, min(size, begin + 4096)))
        damaged = draw.choice((b"", whole[:begin], whole[:begin] + bytes(end - begin) + whole[end:]))
        path.write_bytes(damaged)
        shutil.rmtree(site / "output")
        said = place.finish(name, site)
        assert damaged == whole or " anew" in said, f"{path} was damaged, and nothing is said: {said}"
    shutil.rmtree(site)
    return len(kept)


ROUNDS: dict[str, Callable[[Bench, str, random.Random], int]] = {
    "race": race,
    "kill": kill,
    "damage": damage,
    "power cut": cut_power,
}


def try_all(place: Bench, rounds: int, *, seed: int, kinds: Sequence[str], say: Callable[[str], None]) -> list[Row]:
    """So many rounds of each kind on each work: what was tried, and what held."""
    rows = []
    for name, work in WORKS.items():
        if not work.resumes and "race" not in kinds:
            continue
        place.straight(name)
        for kind in (kind for kind in kinds if work.resumes or kind == "race"):
            tried = held = 0
            for number in range(rounds):
                try:
                    done = ROUNDS[kind](place, name, random.Random(f"{seed} {number} {kind} {name}"))
                    tried, held = tried + done, held + done
                except (AssertionError, ValueError, OSError) as error:
                    tried += 1
                    say(f"{kind}, {name}, round {number} of seed {seed}: {error}")
                    for site in ("race", "kill", "damage", "site"):
                        shutil.rmtree(place.top / site, ignore_errors=True)
            if tried:
                rows.append((kind, name, tried, held))
                say(f"{kind}: {name}: {held} of {tried}")
    return rows


def can_mount() -> bool:
    """Whether this process may mount a file as a file system."""
    with tempfile.TemporaryDirectory() as folder:
        disk, site = Path(folder) / "disk", Path(folder) / "site"
        site.mkdir()
        with disk.open("wb") as stream:
            stream.truncate(2**22)
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True, capture_output=True)
            with mounted(disk, site):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def mounted(disk: Path, site: Path) -> Iterator[None]:
    """A file as a file system."""
    subprocess.run(["mount", "-o", MOUNTED, disk, site], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", site], check=True)


@contextmanager
def standing_still(child: ForkServerProcess) -> Iterator[None]:
    """A child that does nothing meanwhile, in any of its threads."""
    _signal(child, "STOP")
    try:
        while child.is_alive() and not all(
            _state(task) in "TtZX" for task in Path(f"/proc/{child.pid}/task").glob("*")
        ):
            time.sleep(0.001)
        yield
    finally:
        _signal(child, "CONT")


def _signal(child: ForkServerProcess, name: str) -> None:
    if child.is_alive():
        subprocess.run(["kill", f"-{name}", str(child.pid)], check=False, capture_output=True)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _end_of(child: ForkServerProcess) -> int:
    child.join(PATIENCE)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"still alive after {PATIENCE} s")
    return child.exitcode


def _expect_end(child: ForkServerProcess, log: Path, *, or_said: str = "never") -> None:
    code = _end_of(child)
    text = log.read_text(errors="replace")
    assert code == 0 or (code == 2 and or_said in text), f"exit code {code}:\n{text[-3000:]}"
    assert "Traceback" not in text, text[-3000:]
