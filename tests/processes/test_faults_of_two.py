"""Two real processes of which one is killed, hangs or fails, or which are both asked to stop while they are busy."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from tests.fixtures.launch import Pauses, assert_same_run, entries, start_two
from tests.fixtures.tiny_run import build_tiny_run

KEYS = {
    "train.resume": "auto",
    "train.max_steps": 12,
    "train.eval_steps": 4,
    "train.save_steps": 2,
    "train.log_steps": 1,
    "train.batch_size": 4,
    "train.accumulation_steps": 2,
}
BOUND = 180.0
"""Seconds in which a survivor must have ended, on a machine that others use too; alone it takes less than one."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """The run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("straight")
    finish(tiny, folder / "run", folder)
    return folder / "run"


def start(tiny, output, folder, *, keys=KEYS, pauses=None):
    return start_two(tiny, "mcse", output, keys, log=folder / "log", pauses=pauses or Pauses())


def finish(tiny, output, folder):
    processes = start(tiny, output, folder)
    assert end(processes, 400) == [0, 0], said(folder, 0) + said(folder, 1)


def end(processes, seconds):
    """Exit codes; ``None`` of one that had to be killed, since the others waited for it for too long."""
    limit = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def said(folder, rank):
    path = (folder / "log").with_suffix(f".{rank}")
    return path.read_text() if path.exists() else ""


def steps(output):
    path = output / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def wait_for(condition, processes, folder):
    limit = time.monotonic() + 300
    while not condition():
        alive = all(process.is_alive() for process in processes)
        assert alive, f"ended too early: {said(folder, 0)}{said(folder, 1)}"
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_killed_ends_the_other_with_a_message(victim, tiny, straight, tmp_path):
    output = tmp_path / "run"
    processes = start(tiny, output, tmp_path, pauses=Pauses(step=0.1))
    wait_for(lambda: steps(output) >= 5, processes, tmp_path)
    processes[victim].kill()
    begun = time.monotonic()
    codes = end([processes[1 - victim]], BOUND)
    assert time.monotonic() - begun < BOUND
    assert codes == [1]
    last = said(tmp_path, 1 - victim)
    assert f"mcse train: process {1 - victim} of 2 stops, since another one has ended" in last
    assert "Traceback" not in last
    assert len(last.strip().splitlines()[-1]) < 400, "one line, no wall"
    if victim == 0:
        finish(tiny, output, tmp_path)
        assert_same_run(straight, output)


def test_one_process_that_hangs_ends_the_other_after_the_time_out(tiny, tmp_path):
    output = tmp_path / "run"
    keys = KEYS | {"train.timeout_minutes": 0.15, "train.max_steps": 400, "train.eval_steps": 400}
    processes = start(tiny, output, tmp_path, keys=keys)
    wait_for(lambda: steps(output) >= 3, processes, tmp_path)
    os.kill(processes[1].pid, signal.SIGSTOP)
    codes = end([processes[0]], BOUND)
    os.kill(processes[1].pid, signal.SIGCONT)
    end([processes[1]], 0)
    assert codes == [1]
    assert "mcse train: process 0 of 2 stops, since another one did not answer in time" in said(tmp_path, 0)
    assert "Traceback" not in said(tmp_path, 0)


def test_an_error_of_one_process_ends_the_other(tiny, tmp_path):
    """The main process alone writes, so it alone finds the folder gone that it should write into."""
    output = tmp_path / "run"
    processes = start(tiny, output, tmp_path, pauses=Pauses(step=0.1, save=0.05))
    wait_for(lambda: steps(output) >= 1, processes, tmp_path)
    (output / "state").rename(output / "elsewhere") if (output / "state").exists() else None
    (output / "state").touch()
    assert end(processes, BOUND) == [1, 1]
    assert f"{output / 'state'}" in said(tmp_path, 0).strip().splitlines()[-1]
    assert "process 1 of 2 stops, since another one has ended" in said(tmp_path, 1)
    assert "Traceback" not in said(tmp_path, 0) + said(tmp_path, 1)


def test_both_pass_over_a_damaged_state(tiny, straight, tmp_path):
    """The main process looks for damage, and both go on from the same state."""
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    damaged = output / "state" / "step-00000012" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    finish(tiny, output, tmp_path)
    assert said(tmp_path, 0).count(f"train.resume: {damaged} is damaged") == 1
    assert "is damaged" not in said(tmp_path, 1)
    assert all("resumed after step 10 of 12" in said(tmp_path, rank) for rank in range(2))
    assert_same_run(straight, output)


BUSY = {
    "evaluating": (Pauses(evaluation=1.0), lambda output: steps(output) == 4),
    "saving": (Pauses(save=0.2), lambda output: any((output / "state").glob("*.partial"))),
}


@pytest.mark.parametrize(("busy", "number"), [("evaluating", signal.SIGTERM), ("saving", signal.SIGUSR1)])
def test_a_signal_to_both_while_they_are_busy_saves_and_stops(busy, number, tiny, straight, tmp_path):
    """As a batch system sends it, to every process, whatever they are doing."""
    output = tmp_path / "run"
    pauses, is_busy = BUSY[busy]
    processes = start(tiny, output, tmp_path, pauses=pauses)
    wait_for(lambda: is_busy(output), processes, tmp_path)
    for process in processes:
        os.kill(process.pid, number)
    codes = end(processes, BOUND)
    assert codes == [143, 143], said(tmp_path, 0) + said(tmp_path, 1)
    stopped = int(entries(output)[-1]["step"])
    assert f"stopped after step {stopped} as asked" in said(tmp_path, 0)
    # A thread writes the state of step 2, while the next steps are taken.
    assert stopped == 4 if busy == "evaluating" else 2 <= stopped < 12
    assert (output / "last" / "model.safetensors").is_file()
    assert (output / "state" / f"step-{stopped:08d}").is_dir()
    finish(tiny, output, tmp_path)
    assert_same_run(straight, output)
