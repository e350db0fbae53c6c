"""Blocks of shell, run by bash; what would start another Python runs in this one instead.

Every program of ``CALLED`` is a script on bash's PATH that leaves its words, environment and input in a file and waits;
the process of the test does the work and hands back output and exit code. Loops, pipes, variables and ``cd`` are
bash's. Slurm's programs are scripts, too: a job is run at once, as one task on one node.
"""

from __future__ import annotations

import io
import os
import runpy
import select
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import uvicorn

from mcse.commands import launchers
from mcse.commands.main import main
from tests.fixtures.launch import one_thread, own_cache

CALLED = ("mcse", "python", "accelerate", "torchrun", "make", "pip", "docker", "git", "hf", "ssh", "stand-in")
FRONTS = {"train.py": "train", "evaluate.py": "evaluate"}
"""Scripts of a checkout and the commands that they are."""

SECONDS = 300
"""For one block."""

_CALL = r"""#!/bin/bash
note=$CALLS/$$.$RANDOM$RANDOM
env -0 >"$note.env"
printf '%s\0' "$PWD" "${0##*/}" "$@" >"$note.words"
cat >"$note.in"
mkfifo "$note.done"
echo "$note" >"$CALLS/ask"
read -r code <"$note.done"
cat "$note.err" >&2
cat "$note.out" || true  # "| head" reads no further
exit "$code"
"""
_SLURM = {
    "sbatch": r"""#!/bin/bash
set -e
bash -n "$1"
grep -q '^#SBATCH --job-name' "$1"
echo "Submitted batch job 7"
[ -z "$ANSWERING" ] || exit 0
export SLURM_JOB_ID=7 SLURM_JOB_NODELIST=here SLURM_NTASKS=1 SLURM_CPUS_PER_TASK=1 SLURM_PROCID=0 SLURM_LOCALID=0
exec bash "$@"
""",
    "srun": r"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": "#!/bin/bash\necho localhost\n",
}
_WORLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which a process finds the others; here there are none, and a group of one would outlive the page."""

_PREAMBLE = r"""
while read -r -u 9 block; do
    set -e
    source "$block"
    set +e
    echo done >"$CALLS/ask"
done
"""


class Shell:
    """A bash in ``place``, until ``close``.

    Args:
        place: Where it starts.
        calls: An empty folder for what passes between bash and this process.
        environment: Its variables.
        excuse: Why a command cannot be run, given its words; ``None`` where it can. Excused ones do nothing.
        change: What is run in place of a command of ``mcse``, given its words.
        stand_in: Carries out ``stand-in WORDS``.
    """

    def __init__(
        self,
        place: Path,
        *,
        calls: Path,
        environment: Mapping[str, str],
        excuse: Callable[[Sequence[str]], str | None],
        change: Callable[[list[str]], list[str]],
        stand_in: Callable[[Sequence[str]], None],
    ) -> None:
        self._calls, self._excuse, self._change, self._stand_in = calls, excuse, change, stand_in
        self._servers: list[uvicorn.Server] = []
        self.costs: list[tuple[float, str]] = []
        """CPU seconds of each command, and the command."""
        self._blocks = 0
        os.mkfifo(calls / "ask")
        self._ask = os.open(calls / "ask", os.O_RDWR)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MCSE_DATA")}
        reader, self._feed = os.pipe()
        (calls / "preamble").write_text(_PREAMBLE)
        for folder, programs in (("slurm", _SLURM), ("bin", dict.fromkeys(CALLED, _CALL))):
            (calls / folder).mkdir()
            for name, text in programs.items():
                (calls / folder / name).write_text(text)
                (calls / folder / name).chmod(0o755)
        self._own_path = f"{calls / 'slurm'}:{os.environ['PATH']}"
        self._log = (calls / "log").open("wb")
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", f"exec 9<&{reader}; source {shlex.quote(str(calls / 'preamble'))}"],
            cwd=place,
            env={**clean, **environment, "CALLS": str(calls), "PATH": f"{calls / 'bin'}:{self._own_path}"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[reader],
        )
        os.close(reader)

    def run(self, text: str) -> str:
        """Runs a block; returns what it printed.

        Raises:
            AssertionError: A command failed, or the block takes longer than ``SECONDS``.
        """
        before = (self._calls / "log").stat().st_size
        self._blocks += 1
        block = self._calls / f"block{self._blocks}"
        block.write_text(text)
        os.write(self._feed, f"{block}\n".encode())
        deadline = time.monotonic() + SECONDS
        asked, failed = b"", ""
        while True:
            if select.select([self._ask], [], [], 0.5)[0]:
                asked += os.read(self._ask, 4096)
            *notes, asked = asked.split(b"\n")
            for note in notes:
                if note == b"done":
                    assert not failed, f"{failed}\n{self._printed(before)}"
                    return self._printed(before)
                failed = self._answer(note.decode()) or failed
            assert self._bash.poll() is None, f"{failed}\n{text}\n{self._printed(before)}"
            assert time.monotonic() < deadline, f"not done after {SECONDS} s:\n{text}\n{self._printed(before)}"

    def close(self) -> None:
        """Stops its servers and bash."""
        for server in self._servers:
            server.should_exit = True
        os.close(self._feed)
        self._bash.kill()
        self._bash.wait()
        os.close(self._ask)
        self._log.close()

    def _printed(self, since: int) -> str:
        return (self._calls / "log").read_bytes()[since:].decode(errors="replace")

    def _answer(self, note: str) -> str:
        """Does what a call of bash asks for; says what failed."""
        folder, *words = Path(f"{note}.words").read_text().split("\0")[:-1]
        pairs = Path(f"{note}.env").read_text().split("\0")[:-1]
        # A program that this process starts would wait for this process.
        given = dict(pair.split("=", 1) for pair in pairs) | {"ANSWERING": "1", "PATH": self._own_path}
        given = {name: value for name, value in given.items() if name not in _WORLD}
        with (
            Path(f"{note}.in").open() as typed,
            Path(f"{note}.out").open("w") as out,
            Path(f"{note}.err").open("w") as err,
            mock.patch.dict(os.environ, given, clear=True),
            mock.patch.object(sys, "stdin", typed),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            os.chdir(folder)
            before = time.process_time()
            try:
                code = self._carry_out(words)
            except Exception:
                traceback.print_exc()
                code = 70
            self.costs.append((time.process_time() - before, shlex.join(words)))
        Path(f"{note}.done").write_text(f"{code}\n")
        return f"exit code {code}: {shlex.join(words)}" if code else ""

    def _carry_out(self, words: Sequence[str]) -> int:
        if self._excuse(words) is not None:
            return 0
        if words[0] == "stand-in":
            self._stand_in(words[1:])
            return 0
        arguments = mcse_words(words)
        if arguments is None:
            return _python(words)
        arguments = self._change(arguments)
        if arguments[:1] == ["serve"] or arguments[:2] == ["search", "serve"]:
            return self._serve(arguments)
        return call_mcse(arguments, change=self._change)

    def _serve(self, arguments: list[str]) -> int:
        """Serves in a thread until the end of the page, or the next service; returns once it answers."""
        for server in self._servers:
            server.should_exit = True
        while any(server.started for server in self._servers):
            time.sleep(0.01)
        codes: list[int] = []

        def listen(app: object, **settings: object) -> None:
            server = uvicorn.Server(uvicorn.Config(app, **settings))
            self._servers.append(server)
            server.run()
            server.started = False

        before = len(self._servers)
        with mock.patch.object(uvicorn, "run", listen):
            thread = threading.Thread(target=lambda: codes.append(main(arguments)), daemon=True)
            thread.start()
            while thread.is_alive() and not (len(self._servers) > before and self._servers[-1].started):
                time.sleep(0.01)
        return 0 if thread.is_alive() else codes[0]


def mcse_words(words: Sequence[str]) -> list[str] | None:
    """The arguments of ``mcse`` that a command line stands for, whatever launches it; ``None`` if it is no such one."""
    if words[0] == "mcse" or words[:2] == ["make", "demo"]:
        return [*words[1:]]
    for number, word in enumerate(words[1:], start=1):
        if word == "-m" and words[number + 1] == "mcse":
            return [*words[number + 2 :]]
        if word in FRONTS:
            return [FRONTS[word], *words[number + 1 :]]
        if word == "-c":
            return None
    return None


def call_mcse(arguments: Sequence[str], *, change: Callable[[list[str]], list[str]] | None = None) -> int:
    """``mcse`` in this process, and what it starts as processes of its own, too; of those, ``change`` sees demos."""
    here = SimpleNamespace(
        DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT, run=subprocess.run, Popen=partial(_Ended, change=change)
    )
    with one_thread(), mock.patch.multiple(launchers, subprocess=here, _POLL_SECONDS=0.0):
        try:
            return main([*arguments])
        except SystemExit as stop:  # of the parser
            return int(stop.code or 0)


class _Ended:
    """A child, as the launchers of runs start it, that has ended when it is made."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: io.BufferedWriter,
        change: Callable[[list[str]], list[str]] | None,
        **_: object,
    ) -> None:
        said = io.StringIO()
        words = [*command[len(launchers.MCSE) :]]
        with redirect_stdout(said), redirect_stderr(said):
            self.returncode = call_mcse(change(words) if change and words[0] == "demo" else words)
        stdout.write(said.getvalue().encode())
        stdout.flush()
        if self.returncode:
            print(said.getvalue(), file=sys.stderr)  # noqa: T201
        self.pid = os.getpid()

    def poll(self) -> int:
        """Its exit code."""
        return self.returncode


def _python(words: Sequence[str]) -> int:
    """``python FILE``, ``python -m MODULE``, ``python -c CODE`` and ``python - <FILE``."""
    if words[0] != "python":
        raise AssertionError(f"nobody knows how to run {shlex.join(words)}: a stand-in or an excuse is missing")
    if words[1] == "-c":
        exec(compile(words[2], "<string>", "exec"), {"__name__": "__main__"})
    elif words[1:] in (["-"], []):
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    elif words[1] == "-m":
        with mock.patch.object(sys, "argv", list(words[2:])):
            runpy.run_module(words[2], run_name="__main__")
    else:
        with mock.patch.object(sys, "argv", list(words[1:])):
            runpy.run_path(words[1], run_name="__main__")
    return 0


@contextmanager
def opened(shell: Shell, cache: Path) -> Iterator[Shell]:
    """The shell, closed at the end; tokenised text goes to ``cache``, and this process stays where it is."""
    before = Path.cwd()
    try:
        with own_cache(cache):
            yield shell
    finally:
        os.chdir(before)
        shell.close()
