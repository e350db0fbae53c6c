"""What a whole run shows: in a log, on a terminal, and when told to be quiet; its numbers are the same."""

from __future__ import annotations

import pytest

from mcse import progress
from tests.fixtures.launch import assert_same_run, run
from tests.fixtures.tiny_run import build_tiny_run

KEYS = {"train.eval_steps": 3, "train.log_steps": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def shown(tiny, tmp_path, capsys, monkeypatch):
    """Trains, and gives what was on stderr, in which the clock decides nothing, unless the test lets it."""
    monkeypatch.setattr(progress, "PATIENCE", 1000.0)
    monkeypatch.setattr(progress, "SECONDS", 1000.0)

    def train(name, *flags):
        capsys.readouterr()
        assert run(tiny, "mcse", tmp_path / name, KEYS, *flags) == 0
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    return train


def test_a_log_says_what_is_trained_how_it_goes_how_it_ended_and_what_to_do_next(shown, tmp_path):
    said = shown("log")
    assert "\r" not in said
    assert "\x1b" not in said
    lines = said.splitlines()
    assert lines[0] == "mcse train"
    facts = dict(line.split(maxsplit=1) for line in lines[1:] if line.startswith("  "))
    assert facts["recipe"] == "mcse, seed 42"
    assert facts["losses"] == "contrast at temperature 0.05, image × 0.5"
    assert facts["where"] == "cpu (1 thread), 1 process, fp32"
    assert facts["folder"] == str(tmp_path / "log")
    steps = [line.split()[1:3] for line in lines if line.startswith("step ")]
    assert steps == [
        ["2/6", "loss"],
        ["3/6", "loss"],
        ["3/6", "dev.spearman"],
        ["6/6", "loss"],
        ["6/6", "dev.spearman"],
    ]
    assert lines[-2].startswith("finished 6 steps in 0:")
    assert "; best dev.spearman " in lines[-2]
    assert lines[-1] == f"next: mcse evaluate {tmp_path / 'log'}"


def test_what_is_shown_changes_no_number_and_no_weight(shown, tmp_path, monkeypatch):
    assert shown("log")
    assert shown("quiet", "--quiet") == ""
    monkeypatch.setattr(progress, "is_log", lambda: False)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    drawn = shown("terminal")
    assert "\r" in drawn
    assert "dev evaluation" in drawn
    for name in ("quiet", "terminal"):
        assert_same_run(tmp_path / "log", tmp_path / name)


@pytest.mark.parametrize(
    ("recipe", "keys", "said"),
    [
        ("simcse", {"data.sentences": "sentences.txt"}, "sentences.txt: the first example: sentence = 'the "),
        ("simcse", {"data.sentences": "nli.csv"}, "nli.csv: the first example: query = 'the "),
        ("mcse", {}, ", image = '0000.png'"),
        ("tables", {}, ": the first example: "),
    ],
)
def test_the_first_example_is_shown_as_it_was_read(recipe, keys, said, tiny, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert run(tiny, recipe, tmp_path / "run", {"train.max_steps": 1, **keys}, "--dry-run") == 0
    shown = [record.getMessage() for record in caplog.records if "the first example" in record.getMessage()]
    assert [line for line in shown if said in line]
    sentence = (tiny / "sentences.txt").read_text().splitlines()[0]
    assert any(sentence in line for line in shown) == (recipe != "tables" and keys.get("data.sentences") != "nli.csv")
