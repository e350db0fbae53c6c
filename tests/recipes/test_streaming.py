"""Training on streamed sentences: the same data seen, epochs refused, stopped and resumed bit for bit."""

from __future__ import annotations

import json

import pytest

from mcse.data import load as training
from mcse.evaluation.seen_text import UnknownTrainingTextError, read_run_text
from tests.fixtures.launch import assert_same_run, entries, losses, run
from tests.fixtures.tiny_run import build_tiny_run
from tests.recipes.test_training import stop_after

STREAMED = {"data.sentences": {"stream": "parts", "window": 20}, "train.log_steps": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    lines = (folder / "sentences.txt").read_text().splitlines()
    (folder / "parts").mkdir()
    for part, (start, end) in enumerate([(0, 40), (40, 47), (47, 96)]):
        (folder / "parts" / f"{part}.txt").write_text("\n".join(lines[start:end]) + "\n")
    return folder


@pytest.mark.parametrize("recipe", ["simcse", "mcse"])
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(recipe, tiny, tmp_path, monkeypatch):
    keys = STREAMED | {"train.max_steps": 17, "train.eval_steps": 3, "train.resume": "auto", "loss.mlm_weight": 0.1}
    keys |= {"train.accumulation_steps": 2}
    assert run(tiny, recipe, tmp_path / "straight", keys) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert run(tiny, recipe, tmp_path / "stopped", keys) == 143
    state = json.loads((tmp_path / "stopped" / "state" / "step-00000005" / "state.json").read_text())
    (place,) = state["stateful"]["stream"]
    assert place["step"] == (10 if recipe == "simcse" else 5)
    assert place["row"] + place["used"] > 0
    assert run(tiny, recipe, tmp_path / "stopped", keys) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    assert len(set(losses(tmp_path / "straight"))) == 17


def test_a_stream_tokenises_nothing_ahead(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "tokenise", lambda *_, **__: pytest.fail("tokenised ahead"))
    assert run(tiny, "simcse", tmp_path / "streamed", STREAMED) == 0
    facts = json.loads((tmp_path / "streamed" / "run.json").read_text())
    assert facts["facts"]["sentences"] == "streamed"
    assert facts["facts"]["steps an epoch"] == "unknown"
    assert len(entries(tmp_path / "streamed")) > 0


def test_training_text_is_read_again(tiny, tmp_path):
    assert run(tiny, "simcse", tmp_path / "streamed", STREAMED | {"train.max_steps": 1}) == 0
    assert run(tiny, "simcse", tmp_path / "table", {"train.max_steps": 1}) == 0
    text = read_run_text(tmp_path / "streamed")
    assert text == read_run_text(tmp_path / "table")
    part = tiny / "parts" / "1.txt"
    before = part.read_text()
    part.write_text(before + "one more\n")
    with pytest.raises(UnknownTrainingTextError, match="has changed since"):
        read_run_text(tmp_path / "streamed")
    part.write_text(before)


@pytest.mark.parametrize(
    ("recipe", "keys", "message"),
    [
        (
            "simcse",
            {"train.max_steps": None, "train.epochs": 1},
            "train.epochs: data.sentences.stream does not count them",
        ),
        ("mcse", {"mix.schedule": "mcse"}, "mix.schedule: 'mcse' needs the number of sentences"),
        ("simcse", {"data.sentences": {"stream": "nli.csv"}}, "nli.csv: only .txt"),
        ("simcse", {"data.sentences": {"stream": "absent/*.txt"}}, "data.sentences: no file at"),
        (
            "simcse",
            {"data.sentences": {"file": "sentences.txt", "window": 3}},
            "unknown key 'data.sentences.window'; it goes with stream, not with file",
        ),
        ("simcse", {"data.sentences.window": 0}, "data.sentences.window: must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_streamed_is_refused(recipe, keys, message, tiny, tmp_path, capsys):
    assert run(tiny, recipe, tmp_path / "run", STREAMED | keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
