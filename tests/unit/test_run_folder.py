"""A run folder: whether a folder is one, its best model, its state, its scores with their direction, and its seeds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mcse.commands.main import main
from mcse.run_folder import (
    best_of,
    differing_keys,
    find_runs,
    is_run,
    model_in,
    read_config,
    read_metrics,
    read_run,
    seed_runs,
)
from tests.fixtures.run_folders import make_run


def test_a_run_says_its_best_score_and_where(tmp_path):
    run = read_run(make_run(tmp_path / "a", scores=(70.0, 81.5, 80.0), seed=3))
    assert run.best == (20, 81.5)
    assert (run.recipe, run.seed, run.steps, run.total_steps, run.state) == ("simcse", 3, 30, 20, "finished")


@pytest.mark.parametrize("higher", [True, False])
def test_which_way_a_score_is_better_is_what_the_run_wrote(tmp_path, higher):
    run = read_run(make_run(tmp_path / "a", scores=(0.2, 0.9, 0.4), select_by="dev.made_up", higher=higher))
    assert run.best == ((20, 0.9) if higher else (10, 0.2))
    assert run.higher_is_better is higher


@pytest.mark.parametrize("lost", ["a line", "the directions, too"])
@pytest.mark.parametrize("higher", [True, False])
def test_the_best_score_is_not_lost_with_the_numbers_that_were_written_down(tmp_path, higher, lost):
    """Red team: after a power cut a sweep selected by 1.27 at step 320 where the state says 15.78 at step 20."""
    folder = make_run(tmp_path / "a", scores=(10.0,), saved=20, higher=higher)
    best = 15.78 if higher else 1.27
    progress = {"progress": {"step": 20, "best_score": best, "best_step": 8}}
    (folder / "state" / "step-00000020" / "state.json").write_text(json.dumps(progress))
    assert (read_run(folder).best, read_run(folder).higher_is_better) == ((8, best), higher)
    if lost != "a line":
        (folder / "metrics.jsonl").write_text("")
        (folder / "best" / "mcse.json").write_text(json.dumps({"higher_is_better": {"stsb_dev.spearman": higher}}))
        assert (read_run(folder).best, read_run(folder).higher_is_better) == ((8, best), higher)
    (folder / "state" / "step-00000020" / "state.json").write_text("{")  # for resuming to refuse
    assert read_run(folder).best == (None if lost != "a line" else (10, 10.0))


def test_the_best_of_an_elmo_run_by_one_direction_is_its_lowest_perplexity(tmp_path, capsys):
    """House review: a run selected by ``dev.perplexity_forward`` 300, 120, 90 was shown as best at 300."""
    make_run(tmp_path / "elmo", scores=(300.0, 120.0, 90.0), select_by="dev.perplexity_forward", higher=False)
    assert read_run(tmp_path / "elmo").best == (30, 90.0)
    assert main(["runs", str(tmp_path)]) == 0
    assert "90.00 @30" in capsys.readouterr().out


def test_a_score_without_a_direction_is_refused_and_never_guessed(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").write_text('{"step": 10, "stsb_dev.spearman": 70.0}\n')
    with pytest.raises(ValueError, match=r"a: metrics.jsonl does not say which way stsb_dev.spearman is better"):
        read_run(run)
    (run / "metrics.jsonl").write_text('{"step": 10, "higher_is_better": true}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: higher_is_better must be an object, got true"):
        read_metrics(run)


def _folder(top, *parts):
    """A folder with files and, where a name ends in a slash, folders."""
    for part in parts:
        path = top / part
        (path if part.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not part.endswith("/"):
            path.write_text("{}")
    return top


@pytest.mark.parametrize(
    ("parts", "is_one", "model"),
    [
        (["config.yaml"], True, None),
        (["run.json"], True, None),
        (["metrics.jsonl"], True, None),
        (["best/mcse.json"], True, "best"),
        (["best/modules.json"], True, "best"),
        (["last/config.json"], True, None),
        (["config.yaml", "best/", "last/"], True, "best"),
        # Folders of these names may be anybody's.
        (["best/photo.jpg"], False, "best"),
        (["notes.txt"], False, None),
        # A checkpoint is itself, whatever lies in it.
        (["mcse.json"], False, ""),
        (["mcse.json", "best/mcse.json"], True, ""),
        (["config.json", "best/mcse.json"], True, ""),
        (["modules.json", "best/mcse.json"], True, ""),
    ],
)
def test_what_a_run_is_and_where_its_model_is_has_one_answer(tmp_path, parts, is_one, model):
    """House review: three places called three different folders a run, and four found its ``best/`` differently."""
    folder = _folder(tmp_path / "a", *parts)
    assert is_run(folder) is is_one
    assert model_in(folder) == (None if model is None else folder / model)
    assert find_runs(tmp_path)[0] == ([folder] if is_one else [])
    if model is not None:
        assert best_of(folder) == folder / model


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["config.yaml", "last/config.json"], "a is a run that has no best/ yet; name .*last to take its last"),
        (["config.yaml"], "a is a run that has no best/ yet: it has saved no checkpoint"),
        (["seed0/best/mcse.json", "seed1/best/mcse.json"], r"a holds several runs \(seed0, seed1\); name one of them"),
        (["notes.txt"], "a holds no model: neither mcse.json, config.json, modules.json nor a run's best/"),
    ],
)
def test_a_folder_without_a_best_model_says_why(tmp_path, parts, said):
    with pytest.raises(ValueError, match=said):
        best_of(_folder(tmp_path / "a", *parts))
    with pytest.raises(ValueError, match="there is no run and no checkpoint at .*gone"):
        best_of(tmp_path / "gone")


def test_a_damaged_configuration_names_its_line(tmp_path):
    run = make_run(tmp_path / "a")
    for text, said in (
        ("recipe: simcse\ntrain: [\n", r"config.yaml, line 3"),
        ("recipe: simcse\ntrain: {select_by: [a]}\n", r"config.yaml: train.select_by must be text, got \['a'\]"),
        ("recipe: [a]\ntrain: {}\n", r"config.yaml: recipe must be text"),
        ("recipe: a\0b\n", r"config.yaml, line 1: the character '.x00' is not allowed"),
        ("{a: 1}: b\n", r"config.yaml, line 1: a key must be a plain text"),
        ("a: &a [1]\nb: *a\n", r"config.yaml, line 2: an alias"),
        ("recipe: " + 3000 * "[", r"config.yaml, line 1: nested too deeply"),
        ("recipe: " + 5000 * "9", r"config.yaml, line 1: a number of too many digits"),
        ("recipe: !!timestamp soon\n", r"config.yaml, line 1: "),
        ("recipe: simcse\n", r"config.yaml: not a run's configuration \(it lacks recipe or train\)"),
    ):
        (run / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_config(run)
    make_run(tmp_path / "b")
    run = tmp_path / "b"
    (run / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run.json must be an object, got a list"):
        read_run(run)


@pytest.mark.slow
def test_run_folders_are_read_without_torch():
    code = "import sys, mcse.run_folder; assert 'yaml' in sys.modules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: broken JSON"):
        read_run(tmp_path / "a")


def test_scores_that_were_undefined_are_passed_over(tmp_path):
    folder = make_run(tmp_path / "a", scores=(None, 60.0, None))
    assert read_metrics(folder).series["stsb_dev.spearman"] == ((20, 60.0),)
    assert read_run(folder).best == (20, 60.0)


def test_differing_keys_leave_out_what_changes_no_number():
    left = {"seed": 1, "output_dir": "a", "train": {"log_steps": 1, "max_steps": 2}, "encoder": {"name": "e/seed1"}}
    right = {"seed": 2, "output_dir": "b", "train": {"log_steps": 9, "max_steps": 2}, "encoder": {"name": "e/seed2"}}
    assert differing_keys(left, right, across_seeds=True) == {}
    assert differing_keys(left, right) == {"seed": (1, 2), "encoder.name": ("e/seed1", "e/seed2")}
    right["train"]["max_steps"] = 3
    right["loss"] = {"temperature": 1.0}
    assert list(differing_keys(left, right, across_seeds=True)) == ["train.max_steps", "loss.temperature"]
    assert list(differing_keys(left, right, across_seeds=True, ignored=["train.max_steps"])) == [
        "output_dir",
        "train.log_steps",
        "loss.temperature",
    ]


def test_seed_runs_are_found_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 2, 0):
        make_run(tmp_path / f"seed{seed}", seed=seed)
    (tmp_path / "seed0.log").write_text("")
    (tmp_path / "notes").mkdir()
    assert seed_runs(tmp_path) == [tmp_path / f"seed{seed}" for seed in (0, 2, 10)]
    assert [is_run(path) for path in (tmp_path, tmp_path / "seed0", tmp_path / "notes")] == [False, True, False]


def test_checkpoints_of_another_make_are_let_through(tmp_path):
    for name in ("seed0", "seed1"):
        _folder(tmp_path / name, "best/config.json")
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
    with pytest.raises(ValueError, match="seed1 is a run that has no best/ yet"):
        seed_runs(tmp_path / "c")
    # Of a run of which only the checkpoint was kept.
    for name in ("seed0", "copy"):
        (tmp_path / "b" / name / "config.yaml").unlink()
    with pytest.raises(ValueError, match="have the same seed 0"):
        seed_runs(tmp_path / "b")
    (tmp_path / "b" / "seed0" / "best" / "mcse.json").write_text("{")
    with pytest.raises(ValueError, match=r"mcse.json: broken JSON"):
        seed_runs(tmp_path / "b")
