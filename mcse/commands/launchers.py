"""How the runs of a sweep or a study are started: side by side as children of this process, or as one Slurm array.

Every run is ``mcse train`` in a process of its own, with a configuration file and a log beside its run folder. Its log
is locked while it runs, also when whoever started it has died, so that no run is trained by two processes at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from mcse.files import write_text
from mcse.run_folder import read_run
from mcse.training.signals import StopRequest

MCSE = (sys.executable, "-P", "-m", "mcse")
"""Without the current folder among those where Python looks: it may hold runs under the name ``mcse``."""

TRAIN = (*MCSE, "train")

_POLL_SECONDS = 0.2
_STATUS_SECONDS = 30.0
_END_SECONDS = 10.0
_LOG_TAIL = 2**16
_MAX_LINE = 300


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be done: its name in messages, and the folder that it writes, which need not be there.

    ``work``: the command; left out, a run is trained by ``config``. ``then``: what is done once it has ended well.
    """

    label: str
    folder: Path
    work: tuple[str, ...] = ()
    then: tuple[Task, ...] = ()

    @property
    def config(self) -> Path:
        """Its complete configuration."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def log(self) -> Path:
        """What it prints, one start after another."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> list[str]:
        """What does it."""
        return [*self.work] if self.work else [*TRAIN, "--config", str(self.config)]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task did not finish: ``busy`` was not started, since another process trains it."""

    state: Literal["failed", "stopped", "busy"]
    reason: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a batch of tasks ended: those that did not finish, by run folder; 130 or 143 if a signal stopped them."""

    failures: Mapping[Path, Failure]
    exit_code: int = 0


@dataclass(slots=True)
class _Child:
    task: Task
    process: subprocess.Popen[bytes]
    started: float
    log_start: int
    cpu_seconds: float = 0.0

    def has_ended(self) -> bool:
        """Whether it has; then its exit code is known, and the CPU seconds of it and of all that it waited for."""
        if self.process.returncode is None:
            try:
                number, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                return self.process.poll() is not None
            if number:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.process.returncode is not None


def run_locally(
    tasks: Sequence[Task], *, jobs: int, on_end: Callable[[Task, float, bool], None] = lambda *_: None
) -> Ending:
    """Does the tasks, ``jobs`` at a time, with lines about the progress on standard error.

    A task that fails does not stop the others, but for its own ``then``. SIGINT and SIGTERM are passed on, upon which
    runs save and end; a second SIGINT ends them at once.

    Args:
        tasks: In the order in which they are started.
        jobs: How many at a time.
        on_end: Is told of each start, once it has ended, the CPU seconds that it took, and whether it ended well.

    Raises:
        KeyboardInterrupt: At the second SIGINT.
    """
    queue, total, number = deque(tasks), _count(tasks), 0
    running: dict[int, _Child] = {}
    failures: dict[Path, Failure] = {}
    devices = visible_devices()
    status, told = time.monotonic(), False
    with StopRequest() as stop:
        try:
            while running or (queue and not stop.exit_code):
                for slot in (slot for slot in range(jobs) if slot not in running):
                    if queue and not stop.exit_code:
                        number, task = number + 1, queue.popleft()
                        environment = child_environment(slot, jobs=jobs, devices=devices)
                        child = _start(task, environment, count=f"{number}/{total}", failures=failures)
                        running |= {slot: child} if child else {}
                time.sleep(_POLL_SECONDS)
                for slot in [slot for slot, child in running.items() if child.has_ended()]:
                    child = running.pop(slot)
                    _end(child, failures, stopped=bool(stop.exit_code))
                    is_done = child.task.folder not in failures
                    on_end(child.task, child.cpu_seconds, is_done)
                    if is_done:
                        queue.extendleft(reversed(child.task.then))
                if stop.exit_code and running and not told:
                    told = _pass_on(stop.exit_code, running)
                if running and time.monotonic() - status > _STATUS_SECONDS:
                    status = time.monotonic()
                    _say("; ".join(_position(child) for child in running.values()))
        finally:
            _end_at_once(running)
    return Ending(failures, stop.exit_code)


def _count(tasks: Sequence[Task]) -> int:
    return sum(1 + _count(task.then) for task in tasks)


def write_slurm_script(path: Path, tasks: Sequence[Task], *, jobs: int | None) -> None:
    """An sbatch script with one array task a run, at most ``jobs`` at a time."""
    limit = f"%{jobs}" if jobs else ""
    output = str(path.parent.absolute() / "slurm-").replace("%", "%%") + "%A_%a.log"
    runs = "\n".join(f"  {shlex.quote(str(task.folder))}" for task in tasks)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=mcse-{_job_name(path.parent.name)}",
        f"#SBATCH --array=0-{len(tasks) - 1}{limit}",
        f"#SBATCH --chdir={shlex.quote(str(Path.cwd()))}",
        f"#SBATCH --output={shlex.quote(output)}",
        "# Two minutes before the time limit: the run saves and ends, and the next submission goes on with it.",
        "#SBATCH --signal=B:USR1@120",
        "# Partition, time and devices: SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_GPUS ..., or options of sbatch.",
        "runs=(",
        runs,
        ")",
        'run=${runs[$SLURM_ARRAY_TASK_ID]:?"no run of this number"}',
        'exec >> "$run.log" 2>&1',
        "if command -v flock > /dev/null && ! flock --nonblock 1; then",
        '  echo "another process trains $run"',
        "  exit 1",
        "fi",
        f'exec {shlex.join(TRAIN)} --config "$run.yaml"',
    ]
    write_text(path, "\n".join(lines) + "\n")


def submit(script: Path) -> str | None:
    """Gives the script to ``sbatch`` and returns what it says; ``None`` where there is no ``sbatch``.

    Raises:
        OSError: ``sbatch`` refused it, in its words.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return None
    result = subprocess.run([sbatch, str(script)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"sbatch {script}: {result.stderr.strip() or f'exit code {result.returncode}'}")
    return result.stdout.strip()


def visible_devices() -> list[str]:
    """The CUDA devices that children may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    # Here, since a wrong seed or key should be told before seconds of imports.
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def child_environment(slot: int, *, jobs: int, devices: Sequence[str]) -> dict[str, str]:
    """This process's environment, with a device and a share of the cores for the child in ``slot`` of ``jobs``."""
    environment = dict(os.environ)
    # A bar in a log is a line an update.
    environment.setdefault("TQDM_MININTERVAL", "10")
    if jobs > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment


def last_line(log: Path, *, start: int = 0) -> str:
    """The last line of a log that says something, from byte ``start`` on; empty without one."""
    with log.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(start, end - _LOG_TAIL))
        text = stream.read().decode("utf-8", errors="replace")
    # Bars return to the start of their line instead of beginning another.
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return next((line[:_MAX_LINE] for line in reversed(lines) if line), "")


def _start(task: Task, environment: Mapping[str, str], *, count: str, failures: dict[Path, Failure]) -> _Child | None:
    """Starts a child in a process group of its own, which Ctrl-C in a terminal does not reach: it is passed on once."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        try:
            # The child inherits the lock with its output, and keeps it for as long as it lives.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            failures[task.folder] = Failure("busy", "another process is training it")
            _say(f"[{count}] {task.label}: not started, {failures[task.folder].reason}")
            return None
        except OSError as error:
            _say(f"{task.log} cannot be locked ({error.strerror}); do not start this twice at a time")
        log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(task.command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            process_group=0,
        )
        _say(f"[{count}] {task.label}: started (log: {task.log})")
        return _Child(task, process, time.monotonic(), log.tell())


def _end(child: _Child, failures: dict[Path, Failure], *, stopped: bool) -> None:
    code, task = child.process.returncode, child.task
    seconds = time.monotonic() - child.started
    if code == 0:
        _say(f"{task.label}: finished in {seconds:.0f} s{'' if task.work else _score(task.folder)}")
        return
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    said = last_line(task.log, start=child.log_start) or "it printed nothing"
    failure = Failure("stopped", how) if stopped else Failure("failed", f"{how}: {said}")
    failures[task.folder] = failure
    _say(f"{task.label}: {failure.state} after {seconds:.0f} s: {failure.reason} (log: {task.log})")


def _pass_on(exit_code: int, running: Mapping[int, _Child]) -> bool:
    _say(f"stopping: {len(running)} running save first; Ctrl-C again ends them at once")
    for child in running.values():
        child.process.send_signal(signal.SIGINT if exit_code == 130 else signal.SIGTERM)
    return True


def _end_at_once(running: Mapping[int, _Child]) -> None:
    """Leaves no child behind when this process must end: asks once more, then kills."""
    alive = [child.process for child in running.values() if child.process.poll() is None]
    try:
        for process in alive:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in alive):
            time.sleep(_POLL_SECONDS)
    finally:
        for process in alive:
            if process.poll() is None:
                process.kill()
                process.wait()


def _score(folder: Path) -> str:
    try:
        run = read_run(folder)
    except (ValueError, OSError) as error:
        return f", but its folder cannot be read: {error}"
    return f"; {run.select_by} {run.best[1]:.2f} at step {run.best[0]}" if run.best else f"; no {run.select_by}"


def _position(child: _Child) -> str:
    """How far a child is, as far as its files say so while it writes them."""
    if child.task.work:
        return child.task.label
    try:
        run = read_run(child.task.folder)
    except (ValueError, OSError):
        return f"{child.task.label} starts"
    return f"{child.task.label} step {run.steps} of {run.total_steps or '?'}"


def _job_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) or "sweep"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
