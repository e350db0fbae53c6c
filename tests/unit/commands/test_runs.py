"""``mcse runs``: what it lists, groups and cannot read."""

from __future__ import annotations

import json
import statistics

import pytest

from mcse.commands import runs
from mcse.commands.main import main
from mcse.run_folder import find_runs
from tests.fixtures.run_folders import make_run


def listed(capsys, *arguments, code=0):
    assert main(["runs", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


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


def test_a_column_of_scores_that_no_run_has_is_left_out(tmp_path, capsys):
    make_run(tmp_path / "one", scores=(80.0,))
    assert main(["runs", str(tmp_path)]) == 0
    assert "STS average" not in capsys.readouterr().out
    make_run(tmp_path / "two", seed=1, scores=(80.0,), sts=70.0)
    assert main(["runs", str(tmp_path)]) == 0
    assert "STS average" in capsys.readouterr().out


def test_the_table(tmp_path, capsys):
    for seed in range(2):
        make_run(tmp_path / "mcse" / f"seed{seed}", seed=seed, scores=(80.0 + seed,), sts=70.0 if seed else None)
    make_run(tmp_path / "align", select_by="dev.alignment", higher=False, scores=(0.25,), steps=15, saved=10)
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
    assert "run.json: facts is missing" in reasons["/facts"]
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
    assert find_runs(tmp_path / "runs") == (
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


@pytest.mark.parametrize("name", ["a[/red]b", "a\x1b[31mb", b"a\xffb".decode("utf-8", "surrogateescape"), "<b>\u202ex"])
def test_a_folder_of_an_odd_name_is_shown_and_steers_nothing(name, tmp_path, capsys):
    make_run(tmp_path / name / "seed0", select_by=f"{'dev' if chr(27) in name else '[/dev]'}.spearman")
    make_run(tmp_path / name / "seed1", seed=1)
    make_run(tmp_path / "good")
    (make_run(tmp_path / f"{name}bare") / "config.yaml").unlink()
    assert main(["runs", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "good" in out
    assert not set(out + err) & set("\x1b\u202e\udcff")
    assert "bare: " in err
    assert main(["runs", str(tmp_path / name)]) == 0, "its name stands in the title, too"
    capsys.readouterr()
    found = listed(capsys, tmp_path, code=1)
    assert len(found["runs"]) == 3


def test_whatever_a_folder_holds_the_others_are_listed(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "good")
    make_run(tmp_path / "odd")
    plain = runs.read_run

    def read(folder):
        if folder.name == "odd":
            raise TypeError("not what anybody expected")
        return plain(folder)

    monkeypatch.setattr(runs, "read_run", read)
    found = listed(capsys, tmp_path, code=1)
    assert [run["folder"] for run in found["runs"]] == [str(tmp_path / "good")]
    assert [bad["reason"] for bad in found["unreadable"]] == ["TypeError: not what anybody expected"]
