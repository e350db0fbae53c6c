"""``mcse evaluate`` from the command line to the files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from mcse.commands import evaluated_models
from mcse.commands.main import main
from mcse.commands.own_tables import default_data
from mcse.encoders.loading import encoder_digest
from mcse.evaluation.result_cache import read_items
from mcse.report.evaluation_files import model_folder
from mcse.types import ModelScores, ScoreKey
from tests.fixtures.tiny_models import build_tiny_bert


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    texts = ["a man plays guitar", "a dog runs", "the red square is left of the blue circle"]
    return build_tiny_bert(folder / "one", texts=texts), build_tiny_bert(folder / "two", texts=texts, seed=1)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.tsv"
    path.write_text("5\ta man\ta man plays\n1\ta dog\tthe circle\n3\ta red dog\ta dog runs\n0\tthe square\ta guitar\n")
    return path


def test_evaluate_one_model(encoders, pairs, capsys):
    arguments = [str(encoders[0]), "--pooling", "mean", "--data", str(pairs), "--output", "out"]
    assert main(["evaluate", *arguments]) == 0
    found = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["model"], found["pooling"]) == (1, str(encoders[0]), "mean")
    scores = found["scores"]["sts"]["mine"]
    assert scores["pairs"] == 4
    assert -100 <= scores["spearman"] <= 100
    assert found["protocols"]["sts.mine"]
    assert f"{scores['spearman']:.2f}" in capsys.readouterr().out
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert f"{scores['spearman']:.2f}" in report
    assert "**" not in report  # ways to aggregate are not rivals


def test_a_model_inside_a_package_is_named_beside_its_library(encoders, pairs, monkeypatch, capsys):
    package = pairs.parent / "carried_model"
    shutil.copytree(encoders[0], package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(pairs.parent)
    asked = ["evaluate", "package:carried_model/model", "--data", str(pairs), "--pooling", "mean", "--output", "out"]
    assert main([*asked, "--backend", "torch"]) == 0
    assert "evaluating package:carried_model/model (torch) on" in capsys.readouterr().err


def test_items_are_written_where_they_are_asked_for(encoders, pairs):
    arguments = [str(encoders[0]), "--pooling", "mean", "--data", str(pairs), "--output", "out"]
    assert main(["evaluate", *arguments]) == 0
    assert not Path("out/items").exists()
    assert main(["evaluate", *arguments, "--items"]) == 0
    key = ScoreKey("sts", "mine", "spearman")
    found = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["scores"]["sts"]["mine"]["spearman"]
    assert read_items(Path("out/items"), name="one").get(key) == found


def test_evaluate_puts_reports_where_agreed(encoders, pairs, tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "best").symlink_to(encoders[0])
    assert main(["evaluate", str(encoders[0]), "--pooling", "cls", "--data", str(pairs)]) == 0
    (digest,) = Path("evaluation").iterdir()
    assert (digest / "results.json").is_file()
    assert main(["evaluate", str(encoders[0]), "--pooling", "mean", "--data", str(pairs)]) == 0
    found = [json.loads(path.read_text()) for path in Path("evaluation").glob("*/results.json")]
    assert sorted(result["pooling"] for result in found) == ["cls", "mean"]  # neither replaces the other
    own, other = (ModelScores(name=name, pooling="cls", suites=()) for name in (str(run), "x/y"))
    assert model_folder(own, digest=None, output=None, is_alone=True) == run / "evaluation"
    assert model_folder(other, digest=None, output=Path("out"), is_alone=True) == Path("out")
    assert model_folder(other, digest=None, output=Path("out"), is_alone=False).name.startswith("x-y-")


def test_evaluate_several_models_and_one_that_fails(encoders, pairs, tmp_path, capsys):
    broken = tmp_path / "nothing here"
    models = [str(encoders[0]), str(broken), str(encoders[1])]
    assert main(["evaluate", *models, "--pooling", "mean", "--data", str(pairs), "--output", "out"]) == 2
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if line.startswith("mcse evaluate: ")]
    assert len(errors) == 1
    assert "nothing here" in errors[0]
    assert "Traceback" not in output.err
    compared = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))["models"]
    assert [entry["model"] for entry in compared] == [models[0], models[2]]
    assert len(list(Path("out").glob("*/results.json"))) == 2
    values = [entry["scores"]["sts"]["mine"]["spearman"] for entry in compared]
    best = f"{max(values):.2f}"
    assert f"**{best}**" in Path("out/comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--data", "nowhere"], "neither a folder nor a file at nowhere"),
        (["x", "--data", "mine.tsv", "--batch-size", "0"], "--batch-size must be positive, got 0"),
        (["x", "--data", "bad.tsv"], "bad.tsv, line 1: score 'x' is not a finite number"),
    ],
)
def test_evaluate_says_what_is_wrong_in_one_line(pairs, capsys, arguments, message):
    Path("bad.tsv").write_text("x\ta\tb\n")
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert message in error


def test_evaluate_refuses_processes_that_do_not_know_each_other(pairs, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "x", "--data", str(pairs)]) == 2
    assert "started 2 processes" in capsys.readouterr().err


def test_evaluate_list_names_suites_and_whether_data_is_there(pairs, capsys):
    assert main(["evaluate", "--list", "--data", str(pairs)]) == 0
    assert re.search(r"sts\n  needs .*\n  available: 1 task, 4 pairs", capsys.readouterr().out)
    assert main(["evaluate", "--list", "--data", "nowhere"]) == 0
    assert "not available: --data" in capsys.readouterr().out


def test_evaluate_command_line_errors(capsys):
    for arguments, message in (([], "give at least one MODEL"), (["a", "a"], "given twice")):
        assert main(["evaluate", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_data_of_which_nothing_can_be_evaluated_ends_with_every_reason(encoders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "STS" / "STS12-en-test").mkdir(parents=True)
    assert main(["evaluate", str(encoders[0]), "--data", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "STS12: missing file" in said.err
    assert "STS13: no folder" in said.err
    (tmp_path / "en-mturk-771.txt").write_text("guitar circle 6\nsquare dog 6\n")
    assert main(["evaluate", str(encoders[0]), "--pooling", "mean", "--suite", "wordsim", "--data", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "nothing could be evaluated; RW: none of rw.txt" in said.err
    assert "MTurk-771: " in said.err


def test_whatever_a_model_raises_the_next_one_is_evaluated(encoders, pairs, capsys, monkeypatch):
    plain = evaluated_models.load_encoder
    odd = {"one": KeyError("weights"), "two": RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")}

    def load(name, **options):
        if (error := odd.get(Path(name).name)) is not None:
            raise error
        return plain(name, **options)

    monkeypatch.setattr(evaluated_models, "load_encoder", load)
    good = build_tiny_bert(pairs.parent / "good", seed=2)
    models = [str(encoders[0]), str(encoders[1]), str(good)]
    assert main(["evaluate", *models, "--pooling", "mean", "--data", str(pairs), "--output", "out", "--no-cache"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mcse evaluate: ")]
    assert errors == [
        f"mcse evaluate: {encoders[0]}: KeyError: 'weights'",
        f"mcse evaluate: {encoders[1]}: RuntimeError: DefaultCPUAllocator: can't allocate memory: 9 bytes. "
        "Lower --batch-size",
    ]
    (found,) = Path("out").glob("*/results.json")
    assert json.loads(found.read_text())["model"] == str(good)


def test_a_parent_without_whole_seeds_does_not_take_the_others_with_it(encoders, pairs, capsys):
    (pairs.parent / "parent" / "seed0").mkdir(parents=True)
    (pairs.parent / "parent" / "seed0" / "config.yaml").write_text("recipe: simcse\n")
    arguments = ["parent", str(encoders[0]), "--pooling", "mean", "--data", str(pairs), "--output", "out"]
    assert main(["evaluate", *arguments]) == 2
    assert "parent/seed0 is a run that has no best/ yet" in capsys.readouterr().err
    assert len(list(Path("out").glob("**/results.json"))) == 1


def test_a_model_of_an_odd_name_steers_no_terminal(encoders, pairs, capsys):
    name = "a[/red]<b>\x1b[31m|`b"
    (pairs.parent / name).parent.mkdir()
    (pairs.parent / name).symlink_to(encoders[0])
    (pairs.parent / "also").symlink_to(encoders[1])
    arguments = [name, "also", "\x1b]0;x", "--pooling", "mean", "--data", str(pairs), "--output", "out"]
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\\x1b[31m" in said.out
    report = (Path("out") / "comparison.md").read_text()
    assert "\x1b" not in report
    assert "<b>" not in report.partition("```sh")[0]  # code is shown as it is


def test_names_stand_in_every_report_with_how_it_was_made(encoders, pairs, capsys):
    models = list(map(str, encoders))
    names = ["A_1 & b", "<b>two</b>"]
    arguments = ["evaluate", *models, "--pooling", "mean", "--data", str(pairs), "--compare", "--names", *names]
    assert main([*arguments, "--output", "out"]) == 0
    command = shlex.join(["mcse", *arguments, "--output", "out"])
    said = capsys.readouterr().out
    markdown, latex, page = (
        Path("out", name).read_text() for name in ("comparison.md", "comparison.tex", "report.html")
    )
    for text, first in ((said, "A_1 & b (mean)"), (markdown, "A_1 &amp; b (mean)"), (latex, r"A\_1 \& b (mean)")):
        assert first in text
        assert not [line for line in text.partition("How this was made")[0].splitlines() if models[0] in line]
    assert "&lt;b&gt;two&lt;/b&gt; (mean)" in page
    assert "<b>two" not in page + markdown.partition("```sh")[0]
    assert f"```sh\n{command}\n```" in markdown
    digest = encoder_digest(models[0])
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    for text in (markdown, page):
        for fact in (version("torch"), version("transformers"), digest[:16], revision, "1 task, 4 pairs", "bootstrap"):
            assert fact in text
        assert re.search(r"date\W.*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    for folder in Path("out").glob("*/"):
        assert "How this was made" in (folder / "report.md").read_text()
        assert "How this was made" in (folder / "report.tex").read_text()
    forest = Path("out/differences.svg").read_text()
    assert "A_1" in forest or "not clear" in forest
    assert "differences.svg" in markdown
    assert r"\includesvg[width=\linewidth]{differences}" in latex


def test_names_are_refused_where_they_do_not_fit(encoders, pairs, capsys):
    models = list(map(str, encoders))
    for names, message in (
        (["one"], "--names takes a name for each MODEL: 2, got 1"),
        (["same", "same"], "--names: 'same' is empty or is given twice"),
        (["a", " "], "--names: ' ' is empty or is given twice"),
    ):
        assert main(["evaluate", *models, "--data", str(pairs), "--names", *names]) == 2
        assert message in capsys.readouterr().err


def test_ctrl_c_ends_in_a_line(encoders, pairs, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluated_models, "load_encoder", interrupted)
    arguments = [str(encoders[0]), "also", "--pooling", "mean", "--data", str(pairs), "--output", "out", "--no-cache"]
    assert main(["evaluate", *arguments]) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "mcse evaluate: stopped"
    assert "Traceback" not in said.err


# --- what is evaluated on where nobody says it


def own_run(folder: Path, best: Path, sts: Path | str, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    config = f"recipe: simcse\nseed: {seed}\ntrain: {{}}\ndata: {{root: null, sts: {sts}}}\n"
    (folder / "config.yaml").write_text(config)
    (folder / "best").symlink_to(best)
    return folder


def test_a_run_is_evaluated_on_its_own_pairs_where_nothing_is_asked(encoders, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    run = own_run(tmp_path / "runs" / "seed0", encoders[0], "mine.tsv")
    own_run(tmp_path / "runs" / "seed1", encoders[1], "mine.tsv", seed=1)
    for model in (run, run.parent):
        assert main(["evaluate", str(model), "--pooling", "mean"]) == 0
        told = capsys.readouterr().err
        assert f"test pairs: {pairs}, the run's own data.sts, which also selected its checkpoint" in told
    assert json.loads((run / "evaluation" / "results.json").read_text())["scores"]["sts"]["mine"]["pairs"] == 4


def test_a_run_is_evaluated_on_its_own_pairs_by_their_columns(encoders, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MCSE_DATA", raising=False)
    rows = [line.split("\t") for line in pairs.read_text().splitlines()]
    (tmp_path / "rated.csv").write_text("left,stars,right\n" + "".join(f"{a},{y},{b}\n" for y, a, b in rows))
    (tmp_path / "rated.tsv").write_text(pairs.read_text())
    named = f"{{path: {tmp_path}/rated.csv, query: left, positive: right, score: stars}}"
    found = []
    for name, sts in (("named", named), ("plain", f"{tmp_path}/rated.tsv")):
        run = own_run(tmp_path / name, encoders[0], sts)
        assert main(["evaluate", str(run), "--pooling", "mean"]) == 0
        assert f"test pairs: {tmp_path}/rated." in capsys.readouterr().err
        found.append(json.loads((run / "evaluation" / "results.json").read_text())["scores"])
    assert found[0] == found[1]
    assert found[0]["sts"]["rated"]["pairs"] == 4
    (tmp_path / "rated.csv").unlink()
    assert default_data([str(tmp_path / "named")], None) == (None, "")


def test_a_model_that_is_not_there_is_refused_before_anything_is_announced(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    (tmp_path / "STS").mkdir()
    (tmp_path / "runs").mkdir()
    assert main(["evaluate", "runs/nope"]) == 2
    assert capsys.readouterr().err == "mcse evaluate: there is no run and no checkpoint at runs/nope\n"


@pytest.mark.parametrize("asked", [["--suite", "sts"], ["--data", "other.tsv"]])
def test_whoever_asks_is_given_what_was_asked(asked, encoders, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path / "data"))
    home = tmp_path / "data" / "senteval" / "STS" / "STSBenchmark"
    home.mkdir(parents=True)
    words = ("man", "dog", "guitar", "square", "circle", "plays")
    rows = (f"a\tb\tc\t0\t{row % 5}\ta {word}\tthe {words[row // 2]} runs" for row, word in enumerate(words))
    (home / "sts-test.csv").write_text("\n".join(rows) + "\n")
    Path("other.tsv").write_text(pairs.read_text())
    run = own_run(tmp_path / "run", encoders[0], pairs)
    assert main(["evaluate", str(run), "--pooling", "mean", *asked, "--allow-missing"]) == 0
    (task,) = json.loads((run / "evaluation" / "results.json").read_text())["scores"]["sts"].keys() - {"average"}
    assert task == ("other" if "--data" in asked else "STSBenchmark")
    assert ("MCSE_DATA" in capsys.readouterr().err) == ("--suite" in asked)


def test_the_data_variable_is_the_default_data(encoders, pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    # Models of which none is a run, runs of different pairs, pairs that are gone: nobody's own.
    runs = [
        own_run(tmp_path / name, encoders[0], sts) for name, sts in (("a", "mine.tsv"), ("b", "b.tsv"), ("c", "null"))
    ]
    for models in ([encoders[0]], runs[:2], runs[1:2], runs[2:]):
        assert default_data(list(map(str, models)), None) == (None, "")
    (tmp_path / "SICK").mkdir()
    assert default_data([str(encoders[0])], None) == (
        str(tmp_path),
        f"test data: {tmp_path} (from the environment variable MCSE_DATA)",
    )
    assert default_data([str(runs[0])], ["transfer"])[0] == str(tmp_path)
    assert default_data([str(runs[0])], ["table"]) == (None, "")
