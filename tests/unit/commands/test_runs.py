"""``mcse runs``, reading run folders, and finding the seeds of a recipe."""

from __future__ import annotations

import json
import statistics

import pytest
import yaml

from mcse.commands.main import main
from mcse.commands.run_folders import find_run_folders, higher_is_better, read_run
from mcse.encoders.runs import differing_keys, is_run, seed_runs


def make_run(
    folder,
    *,
    seed=0,
    scores=(70.0, 80.0),
    steps=20,
    saved=20,
    parts=("best", "last"),
    sts=None,
    select_by="stsb_dev.spearman",
    **keys,
):
    """A run folder with a score every ten steps; ``saved`` is the step of its state."""
    config = {"recipe": "simcse", "output_dir": str(folder), "seed": seed, "loss": {"temperature": 0.05}, **keys}
    config["train"] = {"max_steps": 20, "select_by": select_by, "log_steps": 10}
    for part in [*parts, f"state/step-{saved:08d}"]:
        (folder / part).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"facts": {"steps": 20}}))
    lines = [{"step": step, "loss": 1.0} for step in range(5, steps + 1, 5)]
    lines += [{"step": 10 * number, select_by: score} for number, score in enumerate(scores, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if "best" in parts:
        (folder / "best" / "mcse.json").write_text(json.dumps({"recipe": "simcse", "config": config}))
    if sts is not None:
        (folder / "evaluation").mkdir()
        results = {"scores": {"sts": {"STS12": {"spearman": 1.0}, "average": {"spearman": sts}}}}
        (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    return folder


def listed(capsys, *arguments, code=0):
    assert main(["runs", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_run_says_its_best_score_and_where(tmp_path):
    run = read_run(make_run(tmp_path / "a", scores=(70.0, 81.5, 80.0), seed=3))
    assert run.best == (20, 81.5)
    assert (run.recipe, run.seed, run.steps, run.total_steps, run.state) == ("simcse", 3, 30, 20, "finished")


@pytest.mark.parametrize(
    ("score", "higher"),
    [("stsb_dev.spearman", True), ("dev.accuracy", True), ("dev.alignment", False), ("dev.uniformity", False)],
)
def test_which_way_scores_are_better(tmp_path, score, higher):
    assert higher_is_better(score) is higher
    run = read_run(make_run(tmp_path / "a", scores=(0.2, 0.9, 0.4), select_by=score))
    assert run.best == ((20, 0.9) if higher else (10, 0.2))


@pytest.mark.parametrize(
    ("keys", "state"),
    [
        ({}, "finished"),
        ({"steps": 10, "saved": 10, "scores": (70.0,)}, "stopped"),
        ({"steps": 15, "saved": 10, "scores": (70.0,)}, "running or killed"),
        ({"steps": 10, "saved": 10, "scores": (70.0,), "parts": ("best",)}, "running or killed"),
        ({"parts": ("last",)}, "stopped"),
    ],
)
def test_states(tmp_path, keys, state):
    assert read_run(make_run(tmp_path / "a", **keys)).state == state


def test_a_finished_run_whose_state_was_deleted_is_finished(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "state" / "step-00000020").rmdir()
    assert read_run(folder).state == "finished"


def test_a_run_that_has_just_begun(tmp_path):
    folder = make_run(tmp_path / "a", parts=())
    (folder / "run.json").unlink()
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.steps, run.total_steps, run.best, run.state) == (0, None, None, "running or killed")


def test_a_line_cut_short_by_a_kill_is_no_damage_but_one_in_the_middle_is(tmp_path):
    path = make_run(tmp_path / "a") / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 25, "stsb_dev.sp')
    assert read_run(tmp_path / "a").best == (20, 80.0)
    path.write_text('{"step": 5, "lo\n' + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: no JSON"):
        read_run(tmp_path / "a")


def test_scores_that_were_undefined_are_passed_over(tmp_path):
    folder = make_run(tmp_path / "a", scores=(None, 60.0, None))
    assert read_run(folder).scores == ((20, 60.0),)


def test_groups_of_seeds_and_single_runs(tmp_path, capsys):
    scores, averages = (80.0, 83.0, 81.0), (70.0, None, 74.0)
    for seed, (score, average) in enumerate(zip(scores, averages, strict=True)):
        make_run(tmp_path / "mcse" / f"seed{seed}", seed=seed, scores=(score,), sts=average)
    make_run(tmp_path / "mcse" / "seed3", seed=3, scores=(99.0,), steps=10, saved=10)
    make_run(tmp_path / "mcse" / "other", seed=4, loss={"temperature": 0.1})
    make_run(tmp_path / "alone" / "seed0")
    found = listed(capsys, tmp_path)
    assert len(found["runs"]) == 6
    assert found["unreadable"] == []
    (group,) = found["groups"]
    assert [folder.rsplit("/", 1)[1] for folder in group["runs"]] == ["seed0", "seed1", "seed2", "seed3"]
    # The stopped run is listed, but its number may still change.
    assert group["finished"] == 3
    assert group["dev_score_mean"] == pytest.approx(statistics.fmean(scores))
    assert group["dev_score_sd"] == pytest.approx(statistics.stdev(scores))
    assert group["sts_average_mean"] == pytest.approx(72.0)
    assert group["sts_average_sd"] == pytest.approx(2**1.5)
    by_folder = {run["folder"]: run for run in found["runs"]}
    first = by_folder[str(tmp_path / "mcse" / "seed0")]
    assert (first["state"], first["dev_score"], first["dev_step"], first["sts_average"]) == ("finished", 80.0, 10, 70.0)
    assert by_folder[str(tmp_path / "mcse" / "seed3")]["state"] == "stopped"


def test_the_same_seed_again_is_no_further_seed(tmp_path, capsys):
    for name, seed in (("first", 0), ("again", 0), ("second", 1)):
        make_run(tmp_path / name, seed=seed)
    (group,) = listed(capsys, tmp_path)["groups"]
    assert len(group["runs"]) == 2
    assert str(tmp_path / "second") in group["runs"]


def test_the_table(tmp_path, capsys):
    for seed in range(2):
        make_run(tmp_path / "mcse" / f"seed{seed}", seed=seed, scores=(80.0 + seed,), sts=70.0 if seed else None)
    make_run(tmp_path / "align", select_by="dev.alignment", scores=(0.25,), steps=15, saved=10)
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "best stsb_dev.spearman" in out
    assert "best dev.alignment" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any("simcse 2 seeds 2 of 2 finished 80.50 ± 0.71 70.00 (of 1)" in line for line in lines)
    assert "seed0 simcse 0 20/20 finished 80.00 @10 –" in lines
    assert any(line.startswith("align simcse 0 15/20 running or killed, last number 0 s ago") for line in lines)


def test_unreadable_folders_are_named_and_the_others_listed(tmp_path, capsys):
    make_run(tmp_path / "good")
    (make_run(tmp_path / "cut") / "config.yaml").write_text("recipe: [simcse\n")
    (make_run(tmp_path / "bare") / "config.yaml").unlink()
    (make_run(tmp_path / "facts") / "run.json").write_text("{}")
    (make_run(tmp_path / "judged", sts=70.0) / "evaluation" / "results.json").write_text("[1]")
    found = listed(capsys, tmp_path, code=1)
    reasons = {bad["path"].removeprefix(str(tmp_path)): bad["reason"] for bad in found["unreadable"]}
    assert list(reasons) == ["/bare", "/cut", "/facts", "/judged/evaluation/results.json"]
    assert "no config.yaml" in reasons["/bare"]
    assert "config.yaml, line " in reasons["/cut"]
    assert "run.json: damaged" in reasons["/facts"]
    assert [run["folder"] for run in found["runs"]] == [str(tmp_path / name) for name in ("good", "judged")]
    assert found["runs"][1]["sts_average"] is None
    assert main(["runs", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "good" in out
    assert err.count("mcse runs: cannot read ") == 4


def test_links_are_followed_once_and_runs_are_not_entered(tmp_path, capsys):
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "elsewhere" / "b")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    make_run(tmp_path / "runs" / "a" / "state" / "inner")
    assert find_run_folders(tmp_path / "runs") == (
        [tmp_path / "runs" / "a", tmp_path / "runs" / "linked" / "b"],
        {},
    )
    found = listed(capsys, tmp_path / "runs", tmp_path / "runs" / "a")
    assert len(found["runs"]) == 2


def test_an_absent_folder_is_an_error_and_an_empty_one_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "no folder at runs" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["runs"]) == 0
    assert "no run folders below runs" in capsys.readouterr().out


def test_differing_keys_leave_out_what_changes_no_number():
    left = {"seed": 1, "output_dir": "a", "train": {"log_steps": 1, "max_steps": 2}, "encoder": {"name": "e/seed1"}}
    right = {"seed": 2, "output_dir": "b", "train": {"log_steps": 9, "max_steps": 2}, "encoder": {"name": "e/seed2"}}
    assert differing_keys(left, right, across_seeds=True) == []
    assert differing_keys(left, right) == ["seed", "encoder.name"]
    right["train"]["max_steps"] = 3
    right["loss"] = {"temperature": 1.0}
    assert differing_keys(left, right, across_seeds=True) == ["train.max_steps", "loss.temperature"]


def test_seed_runs_are_found_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 2, 0):
        make_run(tmp_path / f"seed{seed}", seed=seed)
    (tmp_path / "seed0.log").write_text("")
    (tmp_path / "notes").mkdir()
    assert seed_runs(tmp_path) == [tmp_path / f"seed{seed}" for seed in (0, 2, 10)]
    assert [is_run(path) for path in (tmp_path, tmp_path / "seed0", tmp_path / "notes")] == [False, True, False]


def test_checkpoints_of_another_make_are_let_through(tmp_path):
    for name in ("seed0", "seed1"):
        (tmp_path / name / "best").mkdir(parents=True)
    assert [path.name for path in seed_runs(tmp_path)] == ["seed0", "seed1"]


def test_seed_runs_refuses_what_is_no_parent_of_seeds(tmp_path):
    with pytest.raises(ValueError, match="no folder at"):
        seed_runs(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no runs directly below$"):
        seed_runs(tmp_path)
    make_run(tmp_path / "cells" / "lr" / "seed0")
    with pytest.raises(ValueError, match="its folders lr do, name one of them"):
        seed_runs(tmp_path / "cells")
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="is a run itself and holds no other runs"):
        seed_runs(run)
    make_run(run / "seed0")
    with pytest.raises(ValueError, match="is a run itself and holds the runs seed0"):
        seed_runs(run)


def test_seed_runs_refuses_runs_that_are_no_seeds_of_one_recipe(tmp_path):
    make_run(tmp_path / "a" / "seed0", seed=0)
    make_run(tmp_path / "a" / "seed1", seed=1, loss={"temperature": 0.1})
    with pytest.raises(ValueError, match="no seeds of one recipe: loss.temperature is 0.05 and 0.1"):
        seed_runs(tmp_path / "a")
    make_run(tmp_path / "b" / "seed0", seed=0)
    make_run(tmp_path / "b" / "copy", seed=0)
    with pytest.raises(ValueError, match="have the same seed 0"):
        seed_runs(tmp_path / "b")
    make_run(tmp_path / "c" / "seed0", seed=0)
    make_run(tmp_path / "c" / "seed1", seed=1, parts=("last",))
    with pytest.raises(ValueError, match="seed1 is a run without best/ so far"):
        seed_runs(tmp_path / "c")
    (tmp_path / "b" / "seed0" / "best" / "mcse.json").write_text("{")
    with pytest.raises(ValueError, match=r"mcse.json: damaged"):
        seed_runs(tmp_path / "b")
