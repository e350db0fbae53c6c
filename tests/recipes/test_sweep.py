"""Real tiny sweeps: children that train, a cell that fails, finished runs that are kept, and one that goes on."""

from __future__ import annotations

import json
import shutil
import statistics

import pytest

from mcse.commands.main import main
from mcse.config import to_yaml
from mcse.recipes.launch import load_config
from mcse.run_folder import read_run, seed_runs
from tests.fixtures.launch import assert_same_run, entries, flags_of
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys

pytestmark = pytest.mark.slow

GOOD = [f"optim.warmup_steps={steps}" for steps in (1, 2)]
FAILING = "optim.warmup_steps=100"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two cells of two seeds; the folder, the command's exit code, and how to give another one."""
    folder = tmp_path_factory.mktemp("sweep")
    tiny = build_tiny_run(folder / "tiny")
    overrides = [*flags_of(tiny_keys(tiny, "simcse", folder / "out")), "--train.save_total_limit", "2"]
    (folder / "tiny.yaml").write_text(to_yaml(load_config(None, overrides)))

    def sweep(values):
        arguments = ["--seeds", "0-1", "--set", f"optim.warmup_steps={values}", "--jobs", "2"]
        return main(["sweep", str(folder / "tiny.yaml"), *arguments])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        assert sweep("1,2") == 0
        yield folder / "out", sweep


def test_every_run_is_trained_in_its_folder_and_the_table_holds_its_best_dev_score(swept):
    out, _ = swept
    told = json.loads((out / "sweep.json").read_text())
    assert [cell["name"] for cell in told["cells"]] == GOOD
    for cell in told["cells"]:
        runs = seed_runs(out / cell["name"])
        assert [run.name for run in runs] == ["seed0", "seed1"]
        assert [read_run(run).state for run in runs] == ["finished", "finished"]
        scores = [max(entry["dev.spearman"] for entry in entries(run) if "dev.spearman" in entry) for run in runs]
        assert len(set(scores)) == 2, "two seeds must not be the same run"
        assert [run["score"] for run in cell["runs"]] == scores
        assert cell["mean"] == pytest.approx(statistics.fmean(scores))
    means = {cell["name"]: cell["mean"] for cell in told["cells"]}
    assert told["selected"]["name"] == max(means, key=lambda name: means[name])


def test_a_failing_cell_is_named_finished_runs_are_kept_and_an_unfinished_one_goes_on(swept, tmp_path, capsys):
    out, sweep = swept
    run = out / GOOD[0] / "seed1"
    shutil.copytree(run, tmp_path / "straight")
    # As a kill after step 3 leaves it.
    shutil.rmtree(run / "state" / "step-00000006")
    shutil.rmtree(run / "last")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed*/last/model.safetensors")}
    assert len(before) == 3
    assert sweep("1,2,100") == 1
    assert_same_run(tmp_path / "straight", run)
    assert "resumed after step 3 of 6" in run.with_name("seed1.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    err = capsys.readouterr().err
    assert err.count("finished before, skipped") == 3
    for seed in (0, 1):
        assert f"{FAILING} seed{seed}: failed: exit code 2: mcse train: optim.warmup_steps" in err
    told = json.loads((out / "sweep.json").read_text())
    assert [cell["is_complete"] for cell in told["cells"]] == [True, True, False]
    assert told["selected"]["name"] in GOOD
