"""Kills a real run again and again, also while it saves, and shows that nothing was lost.

``train.py`` runs as a child on a tiny encoder, is killed with SIGKILL, and the same command goes on with it. After
every kill each checkpoint and each saved state that has its name must be whole. At the end all numbers, weights,
optimizer and random states must equal, bit for bit, those of a run that nothing happened to.

With ``--forked`` the child is not the command but a fork of a process that has imported everything: the same code, and
seconds less a start. With ``--processes 2`` two processes train together. Some kills hit one of them alone: the other
must end by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeAlias

from mcse.manifest import check_files
from mcse.models.checkpoint import load_checkpoint
from mcse.training.state import _damage, saved_states
from tests.fixtures.launch import arguments_of, assert_same_run, fork
from tests.fixtures.processes import REPOSITORY
from tests.fixtures.tiny_run import build_tiny_run

STEPS_A_KILL = 14
"""More than a kill lets pass on average, so that the run is never finished before the last kill."""

PATIENCE = 300.0
"""Seconds in which a start must reach its moment, and a survivor must end, on a machine that others use too."""

MOMENTS = ("a step", "a state", "a checkpoint", "the start")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run: the data's folder, the number of processes, and the keys."""

    tiny: Path
    processes: int
    is_forked: bool
    keys: dict[str, object]

    @property
    def start_seconds(self) -> float:
        """About what passes between a start and the first step, on an idle machine."""
        return 2.0 if self.is_forked else 10.0


class Forked:
    """A forked process, with the methods of ``subprocess.Popen`` that are used here."""

    def __init__(self, process: ForkServerProcess) -> None:
        self.process, self.kill = process, process.kill

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still alive after {timeout} s"
        return self.process.exitcode


Child: TypeAlias = "subprocess.Popen[bytes] | Forked"


@dataclass(slots=True)
class Tally:
    """What the kills hit."""

    planned: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    longest_survivor: float = 0.0


def kill_a_run(options: argparse.Namespace) -> None:
    """Fails if anything was lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mcse-faults-") as folder:
        top = Path(folder)
        tiny = build_tiny_run(top / "tiny")
        setting = Setting(tiny, options.processes, options.forked, keys_of(options.kills, options.processes))
        straight, output = top / "straight", top / "killed"
        say(
            f"the run that nothing happens to: {setting.keys['train.max_steps']} steps, {options.processes} process(es)"
        )
        with processes_of(setting, straight, top / "straight.log") as children:
            wait_for_end(children, top / "straight.log")
        draw = random.Random(options.seed)
        tally = Tally()
        for number in range(1, options.kills + 1):
            kill_once(setting, output, draw=draw, tally=tally, name=f"kill {number} of {options.kills}")
        say("the last start is left alone")
        with processes_of(setting, output, top / "last.log") as children:
            wait_for_end(children, top / "last.log")
        check_whole(output)
        assert not leftovers(output), f"left behind: {leftovers(output)}"
        assert_same_run(straight, output)
    report(options, tally, seconds=time.monotonic() - started)


def keys_of(kills: int, processes: int) -> dict[str, object]:
    """Saves and evaluates as often as can be; alignment falls for long, so that ``best/`` is written often."""
    return {
        "train.resume": "auto",
        "train.max_steps": STEPS_A_KILL * (kills + 1),
        "train.eval_steps": 3,
        "train.save_steps": 2,
        "train.log_steps": 1,
        "train.batch_size": 8 // processes,
        "train.accumulation_steps": 2,
        "train.select_by": "dev.alignment",
        "optim.learning_rate": 1e-4,
    }


def kill_once(setting: Setting, output: Path, *, draw: random.Random, tally: Tally, name: str) -> None:
    """One start of the run and its end by SIGKILL."""
    moment = MOMENTS[draw.choices(range(4), weights=(3, 4, 3, 1))[0]]
    steps, saves, blink, share = draw.randint(2, 9), draw.randint(2, 3), draw.uniform(0, 0.03), draw.uniform(0, 1)
    victim = draw.randrange(2) if setting.processes == 2 and draw.random() < 0.5 else None
    if moment == "the start":
        # A process that never meets its partner waits for train.timeout_minutes.
        victim = None
    before, first = leftovers(output), lines(output)
    log = output.parent / "killed.log"
    with processes_of(setting, output, log) as children:
        begun = time.monotonic()

        def reached() -> bool:
            if moment == "the start":
                return time.monotonic() - begun > share * setting.start_seconds
            return lines(output) >= first + steps

        wait_until(reached, children, log)
        if moment in ("a state", "a checkpoint"):
            names = Watch(output / "state", "step-") if moment == "a state" else Watch(output, "best")
            # A run whose score no longer improves writes no best/: then this is a kill between steps.
            late = lines(output) + STEPS_A_KILL // 2
            wait_until(
                lambda: names.seen() >= (saves if moment == "a state" else 1) or lines(output) > late, children, log
            )
        # A checkpoint is exported in a blink, and a state is often saved right after it.
        time.sleep(blink / 4 if moment == "a checkpoint" else blink)
        kill(children, victim, tally, log)
    tally.planned[moment] += 1
    found = {mark: kind for mark, kind in leftovers(output).items() if mark not in before}
    hit = next(iter(found.values()), "no save")
    tally.hit[hit] += 1
    check_whole(output)
    where = f"process {victim} alone" if victim is not None else "all processes" if setting.processes > 1 else "the run"
    say(f"{name}: {where} after {lines(output)} lines, aimed at {moment}, hit {hit}")


def kill(children: Sequence[Child], victim: int | None, tally: Tally, log: Path) -> None:
    """SIGKILL to all children, or to one; then the other must end with a message."""
    for rank, child in enumerate(children):
        if victim in (None, rank):
            child.kill()
    if victim is None:
        return
    begun = time.monotonic()
    survivor = children[1 - victim]
    code = survivor.wait(PATIENCE)
    tally.alone += 1
    tally.longest_survivor = max(tally.longest_survivor, time.monotonic() - begun)
    text = log.with_suffix(f".{1 - victim}").read_text(errors="replace")
    assert code == 1, f"the survivor ended with {code}:\n{text[-3000:]}"
    assert "since another one has ended" in text, text[-3000:]


class Watch:
    """Counts the folders that are written beside their place under a name."""

    def __init__(self, folder: Path, start: str) -> None:
        self.folder, self.start, self.marks = folder, start, set[tuple[str, int]]()

    def seen(self) -> int:
        """How many there have been so far, as far as they were seen."""
        for path in self.folder.glob(f"{self.start}*.partial"):
            try:
                self.marks.add((path.name, path.stat().st_ino))
            except FileNotFoundError:
                continue
        return len(self.marks)


def leftovers(output: Path) -> dict[tuple[str, int], str]:
    """What only a kill inside a save leaves, and which kind of save it was; by name and inode."""
    found = {}
    for path in [*output.glob("*.partial"), *output.glob("*.old"), *output.glob("state/*.partial")]:
        kind = "a state" if path.parent.name == "state" else "a checkpoint" if path.is_dir() else "a file"
        found[path.name, path.stat().st_ino] = kind
    for path in output.glob("state/*.old"):
        found[path.name, path.stat().st_ino] = "a state"
    return found


def check_whole(output: Path) -> None:
    """Every folder that has its name is complete, down to the digests."""
    for path in saved_states(output / "state"):
        assert _damage(path) is None, _damage(path)
    for path in (output / "best", output / "last"):
        if path.is_dir():
            load_checkpoint(path)
            check_files(path)
    if (output / "config.yaml").exists():
        assert (output / "config.yaml").read_text().endswith("\n")


@contextmanager
def processes_of(setting: Setting, output: Path, log: Path) -> Iterator[list[Child]]:
    """``train.py`` as a child, or two as a launcher starts them; none is left at the end."""
    world: dict[str, str] = {}
    if setting.processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        world = {"WORLD_SIZE": str(setting.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        world |= {"ACCELERATE_USE_CPU": "true"}
    children: list[Child] = []
    try:
        for rank in range(setting.processes):
            own = world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world else {})
            children.append(start(setting, output, log.with_suffix(f".{rank}"), own))
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def start(setting: Setting, output: Path, log: Path, environment: dict[str, str]) -> Child:
    """One process."""
    arguments = arguments_of(setting.tiny, "mcse", output, setting.keys)
    if setting.is_forked:
        return Forked(fork(setting.tiny, arguments, log=log, environment=environment))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(setting.tiny / "cache")} | environment
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "train.py"), *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=stream,
            stderr=stream,
        )


def wait_until(condition: Callable[[], bool], children: Sequence[Child], log: Path) -> None:
    """Looks a thousand times a second; the children must stay alive meanwhile."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert all(child.poll() is None for child in children), f"ended before it was killed:\n{said(log)}"
        assert time.monotonic() < end, f"nothing happened for {PATIENCE} s:\n{said(log)}"
        time.sleep(0.001)


def wait_for_end(children: Sequence[Child], log: Path) -> None:
    """Until all are done, each with exit code 0."""
    codes = [child.wait(4 * PATIENCE) for child in children]
    assert not any(codes), f"exit codes {codes}:\n{said(log)}"


def said(log: Path) -> str:
    """The ends of the children's outputs."""
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(log.parent.glob(f"{log.stem}.?")))


def lines(output: Path) -> int:
    """Of ``metrics.jsonl``."""
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def report(options: argparse.Namespace, tally: Tally, *, seconds: float) -> None:
    """What was survived, for people and as one line of JSON."""
    saves = sum(count for kind, count in tally.hit.items() if kind != "no save")
    say(
        f"{options.kills} kills survived in {seconds:.0f} s, {saves} of them inside a save; numbers, weights, "
        "optimizer and random states equal those of the uninterrupted run bit for bit; no folder was ever half-written"
    )
    facts = {
        "kills": options.kills,
        "processes": options.processes,
        "forked": options.forked,
        "seed": options.seed,
        "inside_a_save": saves,
        "hit": dict(tally.hit),
        "aimed_at": dict(tally.planned),
        "one_process_alone": tally.alone,
        "survivor_ended_within_seconds": round(tally.longest_survivor, 1),
    }
    say(json.dumps(facts))


def say(line: str) -> None:
    """At once, also into a pipe."""
    print(line, flush=True)
