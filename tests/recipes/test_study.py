"""``configs/studies/scenes_quick.yaml`` in miniature: real runs, evaluations and comparisons, and one that goes on.

Commands run in this process, one after another, which saves the imports of each.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest

from mcse.commands import study
from mcse.commands.configs import config_path
from mcse.commands.launchers import MCSE, TRAIN, Ending, Failure
from mcse.commands.main import main
from mcse.config import read_yaml
from mcse.run_folder import read_run
from tests.fixtures.launch import assert_same_run, one_thread

SHORT = {"train.max_steps": 12, "train.eval_steps": 6, "optim.warmup_steps": 2}


def in_this_process(tasks, *, jobs, on_end):
    failures, queue = {}, list(tasks)
    while queue:
        task = queue.pop(0)
        assert task.command[: len(MCSE)] == list(MCSE)
        assert task.work or task.command[: len(TRAIN)] == list(TRAIN)
        with one_thread():
            code = main(task.command[len(MCSE) :])
        if code:
            failures[task.folder] = Failure("failed", f"exit code {code}")
        else:
            queue[:0] = task.then
        on_end(task, 1.0, not code)
    return Ending(failures)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    declared = read_yaml(config_path("mcse:studies/scenes_quick"))
    declared |= {"seeds": "0-1", "base": {**declared["base"], **SHORT}}
    declared["prepare"][0]["run"] = declared["prepare"][0]["run"].replace("--seeds 3", "--seeds 2")
    (folder / "quick.yaml").write_text(json.dumps(declared))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "run_locally", in_this_process)
        assert run(folder) == 0
    return folder


def run(folder: Path) -> int:
    return main(["study", str(folder / "quick.yaml"), "--output", str(folder / "out")])


def test_the_example_trains_evaluates_and_compares(finished: Path) -> None:
    found = json.loads((finished / "out" / "results.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["simcse", "mcse", "mcse shuffled", "untrained"]
    for row in found["rows"]:
        folder = finished / "out" / ("references/untrained" if row["is_reference"] else row["name"].replace(" ", "_"))
        files = [folder / f"seed{seed}" / ("pairs" if row["is_reference"] else "evaluation/pairs") for seed in range(2)]
        scores = [json.loads((f / "results.json").read_text())["scores"]["sts"]["test"]["spearman"] for f in files]
        assert row["scores"]["sts.test"]["values"] == scores
        assert row["scores"]["sts.test"]["mean"] == statistics.fmean(scores)
        assert len(set(scores)) == 2
    assert [(one["first"], one["second"]) for one in found["comparisons"]] == [
        ("mcse", "simcse"),
        ("mcse", "mcse shuffled"),
        ("mcse shuffled", "simcse"),
    ]
    assert all(one["p"] <= one["p_holm"] <= 1 and one["items"] == 1000 for one in found["comparisons"])
    assert found["cpu_seconds"]["training"] == 6
    assert found["cpu_seconds"]["evaluation"] == 8
    assert "captions captions.csv (SHA-256" in (finished / "out" / "report.md").read_text()


def test_a_killed_run_goes_on_to_the_same_end_and_is_evaluated_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished / "out"
    before = json.loads((out / "results.json").read_text())
    killed = out / "mcse" / "seed1"
    shutil.copytree(killed, tmp_path / "straight")
    shutil.rmtree(killed / "state" / "step-00000012")
    shutil.rmtree(killed / "last")
    assert read_run(killed).state != "finished"
    shutil.rmtree(killed / "evaluation")
    done: list[str] = []

    def noted(tasks, *, jobs, on_end):
        return in_this_process(
            tasks, jobs=jobs, on_end=lambda task, *rest: (done.append(task.label), on_end(task, *rest))
        )

    monkeypatch.setattr(study, "run_locally", noted)
    assert run(finished) == 0
    assert done == ["mcse seed1", "mcse seed1 pairs"]
    assert_same_run(tmp_path / "straight", killed)
    after = json.loads((out / "results.json").read_text())
    assert after["rows"] == before["rows"]
    assert after["comparisons"] == before["comparisons"]
