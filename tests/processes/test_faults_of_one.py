"""A run in a process of its own, stopped by a signal or killed; what needs no other process is in tests/recipes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mcse.encoders.sentence_encoder import SentenceEncoder
from tests.fixtures.launch import Pauses, arguments_of, assert_same_run, entries, fork, run
from tests.fixtures.processes import REPOSITORY
from tests.recipes.test_faults import RESUMABLE, lines, states, straight, tiny

__all__ = ["straight", "tiny"]


def wait_for(condition, *, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() if hasattr(process, "is_alive") else process.poll() is None, "ended too early"
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)], ids=str
)
def test_a_signal_saves_and_says_so_and_the_run_goes_on(number, code, tiny, straight, tmp_path):
    output = tmp_path / "run"
    arguments = arguments_of(tiny, "mcse", output, RESUMABLE)
    process = fork(tiny, arguments, log=tmp_path / "log", pauses=Pauses(step=0.1))
    wait_for(lambda: lines(output) >= 4, process=process)
    os.kill(process.pid, number)
    process.join(60)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == code, log
    stopped = int(entries(output)[-1]["step"])
    assert 4 <= stopped < 24
    assert f"stopped after step {stopped} as asked" in log
    assert "Traceback" not in log
    assert states(output)[-1] == f"step-{stopped:08d}"
    assert SentenceEncoder.from_pretrained(str(output / "last")).encode(["the dog runs"]).shape == (1, 32)
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)


def test_train_py_itself_ends_with_the_promised_code(tiny, tmp_path):
    """As a cluster does it: ``python train.py``, SIGUSR1 shortly before the time is up, and the same command again."""
    output = tmp_path / "run"
    keys = {"train.resume": "auto", "train.max_steps": 4000, "train.eval_steps": 4000, "train.log_steps": 1}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments_of(tiny, "simcse", output, keys)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tiny / "cache")}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: lines(output) >= 3, process=process)
    process.send_signal(signal.SIGUSR1)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    assert (output / "last" / "model.safetensors").is_file()
    assert len(states(output)) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_twice_and_resumed_equals_uninterrupted(seed, tiny, straight, tmp_path):
    """At a random moment, and in the middle of saving a state; ``make faults`` does it many more times."""
    draw = random.Random(seed)
    output = tmp_path / "run"
    for saving in (False, True):
        pauses = Pauses(step=0.03, save=0.3 if saving else 0.0)
        process = fork(tiny, arguments_of(tiny, "mcse", output, RESUMABLE), log=tmp_path / "log", pauses=pauses)
        start = lines(output)
        wait_for(lambda start=start: lines(output) > start, process=process)
        if saving:
            wait_for(lambda: list((output / "state").glob("*.partial")), process=process)
            time.sleep(draw.uniform(0, 0.3))
        else:
            time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    (half,) = (output / "state").glob("*.partial")
    assert not (half / "digests.json").exists(), "the kill did not fall into the save"
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)
    leftovers = [p.name for p in (*output.iterdir(), *(output / "state").iterdir()) if p.suffix in (".partial", ".old")]
    assert not leftovers
