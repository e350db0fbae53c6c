"""``mcse sweep`` around the training: plans, children, signals, Slurm, the table. A script stands in for mcse train."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import statistics
import subprocess
import sys

import pytest

from mcse.commands import launchers
from mcse.commands.launchers import Task, child_environment, last_line, run_locally
from mcse.commands.main import main
from mcse.commands.sweep import make_plan, parse_seeds, parse_settings
from mcse.config import ConfigError, read_yaml, to_yaml
from mcse.files import claimed
from mcse.recipes.launch import load_config
from tests.fixtures.launch import flags_of
from tests.fixtures.tiny_run import tiny_keys

STAND_IN = """
import json, os, shutil, signal, sys, time
from pathlib import Path
import yaml

config = yaml.safe_load(Path(sys.argv[2]).read_text())
folder, seed = Path(config["output_dir"]), config["seed"]
rate, steps = float(config["optim"]["learning_rate"]), config["train"]["max_steps"]
print("starts", flush=True)
if rate == 13:
    print("mcse train: no luck at 13", file=sys.stderr)
    sys.exit(1)
if rate == 7 and seed == 1:
    os.kill(os.getpid(), signal.SIGKILL)
folder.mkdir(parents=True, exist_ok=True)
shutil.copy(sys.argv[2], folder / "config.yaml")
(folder / "run.json").write_text(json.dumps({"facts": {"steps": steps}}))


def save(step):
    for part in ("best", "last", f"state/step-{step:08d}"):
        (folder / part).mkdir(parents=True, exist_ok=True)


if rate == 4:
    (folder / "run.json").write_text("{")
    sys.exit(0)
if rate in (5, 6):
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    os.kill(os.getppid(), signal.SIGINT)
    while not asked:
        time.sleep(0.02)
    if rate == 6:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    line = {"step": 1, "dev.spearman": 1.0, "higher_is_better": {"dev.spearman": True}}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + chr(10))
    save(1)
    sys.exit(130)
values = {"dev.spearman": 100 * rate + seed, "dev.alignment": 1 / rate + seed}
values["dev.perplexity_forward"] = values["dev.alignment"]
ways = {"higher_is_better": {name: name == "dev.spearman" for name in values}}
lines = [{"step": 1, **{name: value / 2 for name, value in values.items()}, **ways}, {"step": 2, "loss": 1.0}]
lines.append({"step": steps, **values, **ways})
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + chr(10) for line in lines))
save(steps)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A complete configuration with its output below the folder; the stand-in trains."""
    script = tmp_path / "stand in" / "train.py"
    script.parent.mkdir()
    script.write_text(STAND_IN)
    monkeypatch.setattr(launchers, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(launchers, "_POLL_SECONDS", 0.02)
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(load_config(None, flags_of(tiny_keys(tmp_path, "simcse", tmp_path / "out")))))
    return path


def sweep(config, *arguments):
    return main(["sweep", str(config), *arguments])


def report(tmp_path):
    return json.loads((tmp_path / "out" / "sweep.json").read_text())


def starts(folder):
    """How often the run was started, by its log."""
    return folder.with_name(folder.name + ".log").read_text().count("\nstarts\n")


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", (0, 1, 2, 3, 4)), ("3", (3,)), ("0,2,5-7", (0, 2, 5, 6, 7)), ("4, 1", (4, 1))]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' in '' is no seed; write 0-4 or 0,2,5"),
        ("0,,1", "'' in '0,,1' is no seed"),
        ("one", "'one' in 'one' is no seed"),
        ("1-", "'1-' in '1-' is no seed"),
        ("1.5", "'1.5' in '1.5' is no seed"),
        ("0..4", "'0..4' in '0..4' is no seed"),
        ("4-0", "'4-0' counts down; write 0-4"),
        ("0-2,1", "1 is given twice in '0-2,1'"),
        ("0-1000", "'0-1000' is more than 1000 seeds"),
    ],
)
def test_wrong_seeds_are_named(text, said):
    with pytest.raises(ValueError, match=f"^--seeds: .*{re.escape(said)}"):
        parse_seeds(text)


def test_settings_keep_each_value_as_it_would_be_typed():
    arguments = ["optim.learning_rate=1e-5,3e-5", "train.trackers=[],[wandb, tensorboard]", 'data.sts="a,b=c"']
    assert parse_settings(arguments) == {
        "optim.learning_rate": ("1e-5", "3e-5"),
        "train.trackers": ("[]", "[wandb, tensorboard]"),
        "data.sts": ("a,b=c",),
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optim.learning_rate"], "'optim.learning_rate' is not KEY=VALUE"),
        (["=3"], "'=3' is not KEY=VALUE"),
        (["a.b="], "a value is missing"),
        (["a.b=1,"], "a value is missing"),
        (["a.b=1,,2"], "a.b=1,,2: no list of values"),
        (["a.b=[1,2"], "a.b=[1,2: no list of values"),
        (["a.b=1,2,1"], "1 is given twice"),
        (["a.b=1", "a.b=2"], "a.b is given twice; write a.b=1,2"),
        (["seed=1,2"], "seed: seeds are given apart"),
        (["output_dir=x"], "output_dir: --output says"),
        (["train.resume=never"], "train.resume: such runs always resume"),
        (["train.select_by=dev.spearman,dev.alignment"], "train.select_by: cells evaluated by different scores"),
    ],
)
def test_wrong_settings_are_named(arguments, said):
    with pytest.raises(ValueError, match=f"^--set: .*{re.escape(said)}"):
        parse_settings(arguments)


def test_a_plan_is_every_combination_and_seed(config, tmp_path):
    settings = {"optim.learning_rate": ("1e-5", "3e-5"), "train.batch_size": ("4",), "loss.temperature": ("0.1", "0.2")}
    plan = make_plan(config, (0, 3), settings=settings, output=None)
    names = [f"optim.learning_rate={rate},loss.temperature={t}" for rate in ("1e-5", "3e-5") for t in ("0.1", "0.2")]
    assert [cell.name for cell in plan.cells] == names
    assert [run.folder for run in plan.runs] == [
        tmp_path / "out" / name / f"seed{seed}" for name in names for seed in (0, 3)
    ]
    assert [(r.config.optim.learning_rate, r.config.loss.temperature, r.config.seed) for r in plan.runs] == [
        (rate, t, seed) for rate in (1e-5, 3e-5) for t in (0.1, 0.2) for seed in (0, 3)
    ]
    assert all(run.config.train.batch_size == 4 for run in plan.runs)
    assert all(run.config.output_dir == run.folder for run in plan.runs)
    assert not (tmp_path / "out").exists()


def test_a_single_cell_has_no_folder_of_its_own(config, tmp_path):
    plan = make_plan(config, (2,), settings={"train.batch_size": ("4",)}, output=tmp_path / "a: b")
    assert [run.folder for run in plan.runs] == [tmp_path / "a: b" / "seed2"]


def test_values_that_are_no_names_make_folders_all_the_same(config, tmp_path):
    values = ("a/b", "a:b", "x" * 200)
    plan = make_plan(config, (0,), settings={"encoder.name_or_path": values}, output=None)
    names = [cell.name for cell in plan.cells]
    assert len(set(names)) == 3
    assert all("/" not in name and len(name) < 200 for name in names)
    assert [run.config.encoder.name_or_path for run in plan.runs] == list(values)


def test_a_wrong_key_is_refused_in_the_words_of_train_before_anything_starts(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "0", "--set", "optim.learnin_rate=1,2") == 2
    said = capsys.readouterr().err
    with pytest.raises(ConfigError) as caught:
        load_config(config, ["--optim.learnin_rate=1"])
    assert said == f"mcse sweep: {caught.value}\n"
    assert "did you mean 'optim.learning_rate'?" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "optim.learning_rate=1,fast"], "optim.learning_rate: input should be a valid number"),
        (["--set", "train.select_by=null"], "train.select_by: null, so that there is no dev score"),
        (["--set", "optim.learning_rate=1e-1,0.1"], "learning_rate=1e-1 and optim.learning_rate=0.1 are the same run"),
        (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_starts(config, tmp_path, capsys, arguments, said):
    assert sweep(config, "--seeds", "0", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_absent_configuration_is_named(config, tmp_path, capsys):
    assert sweep(tmp_path / "absent.yaml", "--seeds", "0") == 2
    assert "absent.yaml" in capsys.readouterr().err
    assert sweep("mcse:simcse/tiny", "--seeds", "0") == 2
    assert "no configuration 'simcse/tiny' comes with mcse" in capsys.readouterr().err


@pytest.mark.slow
def test_cells_are_compared_by_their_means(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "0-2", "--set", "optim.learning_rate=0.1,0.3", "--jobs", "3") == 0
    told = report(tmp_path)
    assert (told["select_by"], told["higher_is_better"], told["seeds"]) == ("dev.spearman", True, [0, 1, 2])
    assert told["selected"]["name"] == "optim.learning_rate=0.3"
    for cell, rate in zip(told["cells"], (0.1, 0.3), strict=True):
        scores = [100 * rate + seed for seed in range(3)]
        assert cell["mean"] == pytest.approx(sum(scores) / 3)
        assert cell["sd"] == pytest.approx(statistics.stdev(scores))
        assert cell["best"] == pytest.approx(max(scores))
        assert [run["score"] for run in cell["runs"]] == pytest.approx(scores)
        assert {run["state"] for run in cell["runs"]} == {"finished"}
    out, err = capsys.readouterr()
    # The terminal breaks lines where it likes.
    assert "learning_rate=0.3 (31.00, 20.00 better than optim.learning_rate=0.1, the next)" in " ".join(out.split())
    assert "31.00 ± 1.00" in out
    assert err.count("started (log:") == 6
    assert err.count(": finished in ") == 6
    markdown = (tmp_path / "out" / "sweep.md").read_text()
    assert "| optim.learning_rate=0.3 | **31.00 ± 1.00** | **32.00** |" in markdown
    assert "| optim.learning_rate=0.1 | 10.00 | 11.00 | 12.00 |" in markdown
    assert "Not finished" not in markdown


@pytest.mark.slow
@pytest.mark.parametrize("score", ["dev.alignment", "dev.perplexity_forward"])
def test_a_score_that_is_better_when_lower_selects_the_lowest(config, tmp_path, score):
    """House review: by ``dev.perplexity_forward`` the worst cell was selected."""
    sets = ["--set", "optim.learning_rate=0.1,0.5,0.2", "--set", f"train.select_by={score}"]
    assert sweep(config, "--seeds", "0,1", "--jobs", "2", *sets) == 0
    told = report(tmp_path)
    assert told["higher_is_better"] is False
    assert told["selected"]["name"] == "optim.learning_rate=0.5"
    # The stand-in's first score is half its last: the lower of them counts.
    assert [cell["mean"] for cell in told["cells"]] == pytest.approx([5.25, 1.25, 2.75])
    assert [cell["best"] for cell in told["cells"]] == pytest.approx([5.0, 1.0, 2.5])


@pytest.mark.slow
def test_failing_runs_are_named_and_do_not_stop_the_others(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "0-1", "--set", "optim.learning_rate=13,7,0.2") == 1
    told = report(tmp_path)
    thirteen, seven, good = told["cells"]
    assert [run["reason"] for run in thirteen["runs"]] == ["exit code 1: mcse train: no luck at 13"] * 2
    # Its one finished seed scores 700, but a cell that fails for a seed is not selected.
    assert (seven["is_complete"], seven["best"], seven["sd"]) == (False, 700.0, None)
    assert seven["runs"][1]["reason"] == "killed by signal 9: starts"
    assert told["selected"]["name"] == good["name"] == "optim.learning_rate=0.2"
    out, err = capsys.readouterr()
    assert "Left out: 2 without a score for every seed." in " ".join(out.split())
    assert err.strip().splitlines()[-3:] == [
        "optim.learning_rate=13 seed0: failed: exit code 1: mcse train: no luck at 13",
        "optim.learning_rate=13 seed1: failed: exit code 1: mcse train: no luck at 13",
        "optim.learning_rate=7 seed1: failed: killed by signal 9: starts",
    ]
    assert "optim.learning_rate=7 (1 of 2 runs) | 700.00 |" in (tmp_path / "out" / "sweep.md").read_text()


@pytest.mark.slow
def test_a_run_that_leaves_a_damaged_folder_does_not_stop_the_others(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "0", "--set", "optim.learning_rate=4,0.2") == 1
    damaged, good = report(tmp_path)["cells"]
    assert (damaged["runs"][0]["state"], good["runs"][0]["state"]) == ("failed", "finished")
    assert "run.json: broken JSON" in damaged["runs"][0]["reason"]
    assert "its folder cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_where_every_cell_lacks_a_seed_none_is_selected(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "0-1", "--set", "optim.learning_rate=7") == 1
    assert report(tmp_path)["selected"] is None
    assert "Selected: none" in capsys.readouterr().out


@pytest.mark.slow
def test_finished_runs_are_skipped_and_failed_ones_tried_again(config, tmp_path, capsys):
    command = (config, "--seeds", "0", "--set", "optim.learning_rate=0.1,13")
    assert sweep(*command) == 1
    capsys.readouterr()
    assert sweep(*command) == 1
    out = tmp_path / "out"
    assert starts(out / "optim.learning_rate=0.1" / "seed0") == 1
    assert starts(out / "optim.learning_rate=13" / "seed0") == 2
    assert "optim.learning_rate=0.1 seed0: finished before, skipped" in capsys.readouterr().err
    assert report(tmp_path)["selected"]["name"] == "optim.learning_rate=0.1"


@pytest.mark.slow
def test_a_run_that_stopped_early_is_not_taken_for_finished(config, tmp_path):
    assert sweep(config, "--seeds", "0") == 0
    folder = tmp_path / "out" / "seed0"
    (folder / "state" / "step-00000006").rename(folder / "state" / "step-00000002")
    assert sweep(config, "--seeds", "0") == 0
    assert starts(folder) == 2


@pytest.mark.slow
def test_a_run_under_other_settings_is_refused_before_anything_starts(config, tmp_path, capsys):
    assert sweep(config, "--seeds", "1") == 0
    capsys.readouterr()
    assert sweep(config, "--seeds", "0-1", "--set", "loss.temperature=0.1") == 2
    assert f"{tmp_path / 'out' / 'seed1'} was trained with loss.temperature = 0.05, not 0.1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "seed0").exists()
    # Where and how often files are written changes no number.
    assert sweep(config, "--seeds", "1", "--set", "train.log_steps=1") == 0
    # Nor does a key that an earlier version did not have yet, at its default.
    path = tmp_path / "out" / "seed1" / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("  repetition: 0.0\n", ""))
    assert path.read_text() != text
    assert sweep(config, "--seeds", "1") == 0
    assert starts(tmp_path / "out" / "seed1") == 1


def test_folders_that_hold_something_else_are_refused(config, tmp_path, capsys):
    taken = tmp_path / "out" / "seed0"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    assert sweep(config, "--seeds", "0") == 2
    assert "seed0 is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]
    (tmp_path / "out" / "config.yaml").write_text("recipe: simcse\n")
    assert sweep(config, "--seeds", "0") == 2
    assert "out is a run; a sweep needs a folder of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_children_get_the_whole_configuration_of_the_moment(config, tmp_path):
    assert sweep(config, "--seeds", "4", "--set", "optim.learning_rate=0.1") == 0
    given = read_yaml(tmp_path / "out" / "seed4.yaml")
    assert (given["seed"], given["optim"]["learning_rate"], given["train"]["resume"]) == (4, 0.1, "auto")
    assert load_config(tmp_path / "out" / "seed4.yaml", []).output_dir == tmp_path / "out" / "seed4"


@pytest.mark.slow
def test_ctrl_c_lets_running_ones_save_and_starts_no_others(config, tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)
    assert sweep(config, "--seeds", "0-2", "--set", "optim.learning_rate=5") == 130
    assert signal.getsignal(signal.SIGINT) is handler
    states = [run["state"] for run in report(tmp_path)["cells"][0]["runs"]]
    assert states == ["stopped", "not started", "not started"]
    assert (tmp_path / "out" / "seed0" / "last").is_dir()
    assert not (tmp_path / "out" / "seed1").exists()
    err = capsys.readouterr().err
    assert "stopping: 1 running save first" in err
    assert "stopped; the same command goes on" in err


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_no_child_behind(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launchers, "_END_SECONDS", 0.5)
    children = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **keys: children.append(popen(*args, **keys)) or children[-1]
    )
    assert sweep(config, "--seeds", "0-1", "--set", "optim.learning_rate=6") == 130
    assert [child.poll() for child in children] == [-signal.SIGKILL]
    assert capsys.readouterr().err.endswith("mcse sweep: stopped\n")


def test_a_second_sweep_of_a_folder_is_refused(config, tmp_path, capsys):
    with claimed(tmp_path / "out"):
        assert sweep(config, "--seeds", "0-1") == 2
    assert f"out is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_not_started_twice(config, tmp_path, capsys):
    log = tmp_path / "out" / "seed0.log"
    log.parent.mkdir()
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sweep(config, "--seeds", "0-1") == 1
    assert log.read_text() == ""
    assert [run["state"] for run in report(tmp_path)["cells"][0]["runs"]] == ["busy", "finished"]
    assert "seed0: busy: another process is training it" in capsys.readouterr().err
    assert sweep(config, "--seeds", "0-1") == 0


@pytest.mark.slow
def test_what_follows_a_task_is_done_after_it_and_not_after_its_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "_POLL_SECONDS", 0.02)
    told = []

    def task(name, code, *then):
        return Task(name, tmp_path / name, (sys.executable, "-S", "-c", code), then)

    busy = "import os, time\nwhile sum(os.times()[:2]) < 0.5: pass"
    tasks = [task("first", busy, task("second", "pass")), task("wrong", "raise SystemExit(3)", task("never", "pass"))]
    ending = run_locally(tasks, jobs=1, on_end=lambda *given: told.append(given))
    assert [(one.label, is_done) for one, _, is_done in told] == [("first", True), ("second", True), ("wrong", False)]
    assert 0.5 <= told[0][1] < 1.5
    assert told[1][1] < 0.5
    assert ending.failures[tmp_path / "wrong"].reason == "exit code 3: it printed nothing"
    assert not (tmp_path / "never.log").exists()


@pytest.mark.slow
def test_slurm_without_sbatch_says_how_to_submit_and_the_script_does_the_runs(config, tmp_path, capsys, monkeypatch):
    output = tmp_path / "it's 100% mine"
    command = (config, "--seeds", "0-1", "--launcher", "slurm", "--output", str(output), "--jobs", "1")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert sweep(*command) == 0
    script = output / "sweep.sbatch"
    said = capsys.readouterr().out
    assert "there is no sbatch here; submit it with: sbatch" in said
    assert "2 of 2 runs are not finished" in said
    text = script.read_text()
    assert "#SBATCH --array=0-1%1\n" in text
    assert "100%% mine" in text
    for number in ("0", "1"):
        done = subprocess.run(["bash", str(script)], env={**os.environ, "SLURM_ARRAY_TASK_ID": number}, check=False)
        assert done.returncode == 0, (output / f"seed{number}.log").read_text()
    assert sweep(*command) == 0
    assert "Selected on dev: tiny" in capsys.readouterr().out
    assert json.loads((output / "sweep.json").read_text())["cells"][0]["mean"] == pytest.approx(0.1 + 0.5)


@pytest.mark.slow
def test_slurm_submits_what_is_not_finished(config, tmp_path, capsys, monkeypatch):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/submitted\necho Submitted batch job 77\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    assert sweep(config, "--seeds", "1") == 0
    capsys.readouterr()
    assert sweep(config, "--seeds", "0-2", "--launcher", "slurm") == 0
    assert "Submitted batch job 77" in capsys.readouterr().out
    script = tmp_path / "out" / "sweep.sbatch"
    assert (tmp_path / "submitted").read_text() == f"{script}\n"
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert f"{tmp_path / 'out' / 'seed1'}\n" not in script.read_text()
    sbatch.write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
    assert sweep(config, "--seeds", "0-2", "--launcher", "slurm") == 1
    assert "invalid partition" in capsys.readouterr().err


def test_slurm_tasks_leave_a_run_that_is_being_trained(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert sweep(config, "--seeds", "0", "--launcher", "slurm") == 0
    with (tmp_path / "out" / "seed0.log").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(["bash", str(tmp_path / "out" / "sweep.sbatch")], env=environment, check=False)
    assert done.returncode == 1
    assert "another process trains" in (tmp_path / "out" / "seed0.log").read_text()
    assert not (tmp_path / "out" / "seed0").exists()


def test_children_share_devices_and_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    slots = [child_environment(slot, jobs=3, devices=["2", "5"]) for slot in range(3)]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["2", "5", "2"]
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert child_environment(0, jobs=3, devices=[])["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert launchers.visible_devices() == ["3", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launchers.visible_devices() == []


def test_the_last_line_is_found_behind_bars_and_blank_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"--- command\n" + b"x" * 200_000 + b"\r 10%\r 20%\nmcse train: wrong \xff\n\n  \n")
    assert last_line(log) == "mcse train: wrong \ufffd"
    log.write_bytes(b"--- command\n 10%\r 20%\r")
    assert last_line(log) == "20%"
    assert last_line(log, start=len(b"--- command\n 10%\r 20%\r")) == ""


@pytest.mark.slow
def test_the_stand_in_is_not_what_users_run(tmp_path):
    (tmp_path / "mcse").mkdir()
    done = subprocess.run([*launchers.TRAIN, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: mcse train [RECIPE]")
