"""The job files of ``configs/slurm``: what they ask for, and that they run, stop, requeue and go on.

There is no Slurm here. Scripts stand in for ``srun`` and ``scontrol`` and do what their manuals say of the options that
the job files use. Signals are sent as ``--signal`` without ``B:`` sends them, to the processes of the step.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
import torch

from tests.fixtures.launch import arguments_of, entries, start_two
from tests.fixtures.processes import REPOSITORY
from tests.fixtures.tiny_run import build_tiny_run

FOLDER = REPOSITORY / "configs" / "slurm"
FILES = ("one_gpu", "one_node", "several_nodes")

SRUN = f"""#!{sys.executable}
import os, subprocess, sys
arguments = sys.argv[1:]
while arguments[0].startswith("--"):
    assert arguments[0] in ("--wait=60", "--cpus-per-task=1"), arguments[0]
    arguments.pop(0)
children = []
for number in range(int(os.environ["SLURM_NTASKS"])):
    # One task a node: each is the first of its own.
    own = {{"SLURM_PROCID": str(number), "SLURM_LOCALID": "0"}}
    children.append(subprocess.Popen(arguments, env=os.environ | own))
with open(os.environ["STAND_IN"] + "/tasks", "w") as stream:
    stream.write(" ".join(str(child.pid) for child in children))
codes = [child.wait() for child in children]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") printf '127.0.0.1\\nanother\\n' ;;
  "requeue "*) echo "$2" >> "$STAND_IN/requeued" ;;
  *) exit 1 ;;
esac
"""


def text_of(name):
    return (FOLDER / f"{name}.sbatch").read_text()


def directives(name):
    found = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text_of(name), flags=re.MULTILINE))
    assert len(found) == text_of(name).count("#SBATCH"), "a directive that is not understood"
    return found


def body(name):
    return text_of(name).split("#SBATCH --output=mcse-%j.log\n")[1]


def test_there_is_one_for_each_size_and_the_documentation_names_them():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.sbatch" for name in FILES}
    documentation = (REPOSITORY / "docs" / "how-to" / "slurm.md").read_text()
    assert all(f"configs/slurm/{name}.sbatch" in documentation for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_what_a_job_file_asks_for(name):
    assert subprocess.run(["bash", "-n", FOLDER / f"{name}.sbatch"], check=False).returncode == 0
    assert text_of(name).startswith("#!/bin/bash\n")
    asked = directives(name)
    # Slurm reads directives up to the first command only.
    assert "#SBATCH" not in body(name)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"], "one process on each GPU"
    assert {"one_gpu": "1", "one_node": "1"}.get(name, "2") == asked["nodes"]
    # To the processes of the step: the batch shell (B:) would not hand it on.
    number, seconds = asked["signal"].split("@")
    assert number == "USR1"
    assert int(seconds) >= 180
    assert "requeue" in asked
    assert asked["open-mode"] == "append", "the log of the start before must stay"
    for config in re.findall(r"--config (\S+)", text_of(name)):
        assert (REPOSITORY / config).is_file()


def test_one_node_and_several_run_the_same_commands():
    """So that running one of them below is running both."""
    assert body("one_node") == body("several_nodes")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def free_port():
    """Among those that the job files make of a job's number."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


class Cluster:
    """Starts job files as sbatch would, with stand-ins for Slurm's commands on PATH."""

    def __init__(self, folder, tiny):
        self.folder, self.tiny = folder, tiny
        for name, content in (
            ("srun", SRUN),
            ("scontrol", SCONTROL),
            ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n'),
        ):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.job = str(free_port() - 20000)

    def submit(self, name, arguments, *, tasks, restarts=0):
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "STAND_IN": str(self.folder),
            "SLURM_JOB_ID": self.job,
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NTASKS": str(tasks),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_RESTART_COUNT": str(restarts),
            "HF_DATASETS_CACHE": str(self.tiny / "cache"),
        }
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                ["bash", FOLDER / f"{name}.sbatch", *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def signal_step(self, number):
        for process in (self.folder / "tasks").read_text().split():
            os.kill(int(process), number)

    @property
    def requeued(self):
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []

    @property
    def log(self):
        return (self.folder / "log").read_text()


def wait_for_steps(output, steps, job, cluster):
    limit = time.monotonic() + 300
    path = output / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < steps:
        assert job.poll() is None, cluster.log
        assert time.monotonic() < limit, cluster.log
        time.sleep(0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes GPUs where there are some")
def test_two_processes_are_stopped_by_slurm_requeued_once_and_go_on(tiny, tmp_path):
    cluster, output = Cluster(tmp_path, tiny), tmp_path / "run"
    keys = {"train.batch_size": 4, "train.max_steps": 400, "train.eval_steps": 400, "train.log_steps": 1}
    arguments = arguments_of(tiny, "simcse", output, keys)
    job = cluster.submit("several_nodes", arguments, tasks=2)
    wait_for_steps(output, 3, job, cluster)
    cluster.signal_step(signal.SIGUSR1)
    assert job.wait(180) == 143, cluster.log
    assert cluster.requeued == [cluster.job]
    stopped = int(entries(output)[-1]["step"])
    assert 3 <= stopped < 400
    assert json.loads((output / "run.json").read_text())["world_size"] == 2
    # As Slurm starts it again, but for seconds of imports. The run is made shorter to end soon.
    shorter = keys | {"train.resume": "auto", "train.max_steps": stopped + 2}
    for process in start_two(tiny, "simcse", output, shorter, log=tmp_path / "again"):
        process.join(300)
        assert process.exitcode == 0
    assert f"resumed after step {stopped} of {stopped + 2}" in (tmp_path / "again.0").read_text()
    assert int(entries(output)[-1]["step"]) == stopped + 2


def test_one_process_that_slurm_preempts_is_requeued_but_not_for_ever(tiny, tmp_path):
    cluster, output = Cluster(tmp_path, tiny), tmp_path / "run"
    keys = {"train.max_steps": 4000, "train.eval_steps": 4000, "train.log_steps": 1}
    job = cluster.submit("one_gpu", arguments_of(tiny, "simcse", output, keys), tasks=1, restarts=99)
    wait_for_steps(output, 2, job, cluster)
    cluster.signal_step(signal.SIGTERM)
    assert job.wait(180) == 143, cluster.log
    assert cluster.requeued == [cluster.job]
    assert (output / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(143, 99, 1), (138, 0, 1), (143, 100, 0), (2, 0, 0), (1, 0, 0), (0, 1, 0)]
)
@pytest.mark.parametrize("name", FILES)
def test_only_a_run_that_was_asked_to_stop_is_requeued(name, code, restarts, requeued, tiny, tmp_path):
    cluster = Cluster(tmp_path, tiny)
    (tmp_path / "bin" / "python").write_text(f'#!/bin/bash\necho "$RANK of $WORLD_SIZE: $@"\nexit {code}\n')
    given = ["--config", "a file.yaml", "--seed", "3"]
    assert cluster.submit(name, given, tasks=1, restarts=restarts).wait(60) == code
    assert len(cluster.requeued) == requeued
    assert "-m mcse train --train.resume auto --config a file.yaml --seed 3" in cluster.log
