"""``evaluate.py`` on runs that were trained: groups of seeds, clean pairs, kept results, listings, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mcse.commands import evaluated_models
from mcse.commands.main import main
from mcse.evaluation.seen_text import UnknownTrainingTextError, read_run_text
from tests.fixtures.launch import run
from tests.fixtures.senteval import senteval as senteval
from tests.fixtures.tiny_run import build_tiny_run

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def groups(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of each recipe."""
    folder = tmp_path_factory.mktemp("groups")
    for recipe in ("simcse", "mcse"):
        for seed in SEEDS:
            assert run(tiny, recipe, folder / recipe / f"seed{seed}", {"seed": seed}) == 0
    return folder


@pytest.fixture
def pairs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scored pairs, of which the first two hold a training sentence and a training caption."""
    monkeypatch.chdir(tmp_path)
    sentence = (tiny / "sentences.txt").read_text().splitlines()[3]
    caption = (tiny / "captions.csv").read_text().splitlines()[5].split(",")[1]
    rows = [f"4.5\t{sentence.upper()} !\tthe new dog", f"0.5\ta bird sings\t{caption}"]
    rows += (tiny / "dev.tsv").read_text().splitlines()
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_two_groups_of_seeds_are_compared_over_all_and_over_clean_pairs(groups, pairs, capsys) -> None:
    arguments = [str(groups / "mcse"), str(groups / "simcse"), "--compare", "--data", str(pairs), "--output", "out"]
    assert main(["evaluate", *arguments, "--errors", "3", "--contamination"]) == 0
    output = capsys.readouterr().out
    found = read(Path("out/comparison.json"))
    assert [entry["model"] for entry in found["models"]] == arguments[:2]
    entry = found["models"][0]
    scores = [seed["scores"]["sts"]["mine"]["spearman"] for seed in entry["seeds"]]
    assert entry["scores"]["sts"]["mine"]["spearman"] == pytest.approx(sum(scores) / 2)
    assert len(entry["seeds"]) == len(SEEDS)
    by_suite = {score["suite"]: score for score in found["comparison"]["scores"]}
    assert by_suite["sts"]["items"] == 42
    assert by_suite["sts_clean"]["items"] < 42 - 1  # the caption and the sentence, and what the dev pairs share
    assert by_suite["sts"]["low"] <= by_suite["sts"]["difference"] <= by_suite["sts"]["high"]
    assert "2 and 2 seeds" in by_suite["sts"]["test"]
    assert "diff." in output
    assert len(Path("out/errors.jsonl").read_text().splitlines()) == 3
    listed = [json.loads(line) for line in Path("out/contamination.jsonl").read_text().splitlines()]
    mcse = [line["sentence1"] for line in listed if line["model"] == str(groups / "mcse" / "seed0")]
    simcse = [line["sentence1"] for line in listed if line["model"] == str(groups / "simcse" / "seed0")]
    assert "a bird sings" in mcse  # a caption
    assert "a bird sings" not in simcse
    assert any(sentence.endswith("!") for sentence in simcse)
    for name in ("comparison.md", "comparison.tex", "report.html"):
        assert (Path("out") / name).stat().st_size > 200, name


def test_a_second_call_loads_no_model_and_a_changed_file_is_seen(groups, pairs, capsys, monkeypatch) -> None:
    model = str(groups / "simcse" / "seed0")
    assert main(["evaluate", model, "--data", str(pairs), "--no-cache"]) == 0
    first = read(Path(model) / "evaluation" / "results.json")
    assert "evaluating" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(evaluated_models, "load_encoder", lambda *_, **__: pytest.fail("the model was loaded again"))
        assert main(["evaluate", model, "--data", str(pairs)]) == 0
    assert read(Path(model) / "evaluation" / "results.json") == first
    assert "evaluating" not in capsys.readouterr().err
    assert main(["evaluate", model, "--data", str(pairs), "--no-cache"]) == 0
    assert "evaluating" in capsys.readouterr().err
    pairs.write_text(pairs.read_text() + "2.0\tthe dog sleeps\tthe cat sleeps\n")
    assert main(["evaluate", model, "--data", str(pairs)]) == 0
    assert read(Path(model) / "evaluation" / "results.json")["scores"]["sts"]["mine"]["pairs"] == 43


def test_the_models_card_takes_the_seven_tasks_and_nothing_less(groups, pairs, senteval) -> None:
    model = groups / "simcse" / "seed1"
    before = (model / "best" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert main(["evaluate", str(model), "--data", str(pairs)]) == 0
    front, after = (model / "best" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1:]
    assert after == before
    assert "name: mine" in front  # beside its front matter, which takes every score
    assert main(["evaluate", str(model), "--data", str(senteval)]) == 0
    scores = read(model / "evaluation" / "results.json")["scores"]["sts"]
    score = scores["average"]["spearman"]
    assert scores["mine"]["pairs"] == 42  # of the same weights, so it stays
    card = (model / "best" / "README.md").read_text(encoding="utf-8")
    assert f"{score:.2f}" in card
    assert card.count("## Scores") == card.count("## Use") == 1
    assert "## Configuration" in card


def test_a_library_behind_a_run_does_not_hide_what_it_was_trained_on(groups, pairs) -> None:
    model = str(groups / "mcse" / "seed0")
    asked = ["evaluate", model, "--data", str(pairs), "--no-cache", "--output"]
    assert main([*asked, "plain"]) == main([*asked, "torch", "--backend", "torch"]) == 0
    assert read(Path("torch/results.json"))["scores"] == read(Path("plain/results.json"))["scores"]
    assert "sts_clean" in read(Path("plain/results.json"))["scores"]


def test_evaluating_leaves_the_generators_alone(groups, pairs) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert main(["evaluate", str(groups / "simcse" / "seed0"), "--data", str(pairs), "--no-cache"]) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_training_text_is_found_again_or_it_is_said_why_not(groups, tiny, tmp_path) -> None:
    model = groups / "mcse" / "seed0"
    text = read_run_text(model)
    sentences = (tiny / "sentences.txt").read_text().splitlines()
    captions = [line.split(",")[1] for line in (tiny / "captions.csv").read_text().splitlines()[1:]]
    assert text == {"".join(sentence.split()) for sentence in (*sentences, *captions)}
    for change, message in (
        (lambda run: (run / "run.json").unlink(), "does not say what it was trained on"),
        (_forget_text, "is said to hold training text"),
        (lambda run: _record(run, digest="0" * 16), "has changed since"),
        (lambda run: _record(run, path="/nowhere/sentences.txt"), "is gone"),
    ):
        copy = tmp_path / message.replace(" ", "_")
        copy.mkdir()
        for name in ("config.yaml", "run.json"):
            (copy / name).write_bytes((model / name).read_bytes())
        change(copy)
        with pytest.raises(UnknownTrainingTextError, match=message):
            read_run_text(copy)


def _forget_text(folder: Path) -> None:
    run_json = read(folder / "run.json")
    run_json["data"] = [file | {"text": None} for file in run_json["data"]]
    (folder / "run.json").write_text(json.dumps(run_json))


def _record(folder: Path, **change: str) -> None:
    run_json = read(folder / "run.json")
    run_json["data"][0] |= change
    (folder / "run.json").write_text(json.dumps(run_json))


def test_wrong_calls_are_refused(groups, pairs, capsys) -> None:
    for arguments, message in (
        (["a", "--compare"], "--compare takes exactly two models"),
        (["a", "b", "c", "--errors", "3"], "one model or two"),
        (["a", "--errors", "0"], "a number from 1"),
    ):
        assert main(["evaluate", *arguments]) == 2
        assert message in capsys.readouterr().err
    other = pairs.with_name("two")
    other.mkdir()
    assert main(["evaluate", str(groups), "--data", str(pairs)]) == 2
    assert "mcse evaluate: " in capsys.readouterr().err
