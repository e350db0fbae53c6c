"""A checkpoint goes to other people: no file of it says where anything lies on the machine that made it."""

from __future__ import annotations

import json

import pytest

from mcse.commands.main import main
from mcse.manifest import without_folders
from tests.fixtures.launch import flags_of, one_thread, own_cache, run
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

SHORT = {"train.max_steps": 1, "train.eval_steps": 1}


@pytest.mark.parametrize(
    "recipe", ["mlm", "simcse", "mcse", "unpaired", "vse", "grounded_words", "elmo", "cove", "word_features"]
)
def test_no_file_of_a_checkpoint_names_this_machine(recipe, tmp_path):
    tiny = build_tiny_run(tmp_path / "tiny")
    keys = {"simcse": {"data.sentences": tiny / "sentences.txt", "data.sts": tiny / "dev.tsv"}}.get(recipe, {})
    keys |= {"encoder.kind": "transformer", "encoder.name_or_path": tiny / "bert"} if recipe == "vse" else {}
    keys |= {"encoder.word_dim": ...} if recipe == "vse" else {}
    output = tmp_path / "run"
    assert run(tiny, recipe, output, SHORT | keys) == 0
    _check(output, tmp_path)


def test_no_file_of_a_tagger_names_this_machine(tmp_path):
    tweets = build_tiny_tweets(tmp_path / "tweets")
    keys = tweet_overrides(tweets, tmp_path / "run") | SHORT
    with one_thread(), own_cache(tmp_path):
        assert main(["train", *flags_of(keys)]) == 0
    _check(tmp_path / "run", tmp_path)


def _check(output, place):
    files = [path for path in (output / "best").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert str(place) in (output / "config.yaml").read_text(), "the run itself does say"
    for path in files:
        assert str(place).encode() not in path.read_bytes(), path
    config = json.loads((output / "best" / "mcse.json").read_text())["config"]
    assert config["output_dir"] == "run"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/data/a.txt", "a.txt"),
        ("/home/me/captions.json::train", "captions.json::train"),
        ("timm:resnet18//home/me/tower.pth", "timm:resnet18/tower.pth"),
        ("vectors:/home/me/v.bin", "vectors:v.bin"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("store (/home/me/features, 12 wide)", "store (features, 12 wide)"),
        *((same, same) for same in ("hf://datasets/org/name/a.txt", "org/name", "../data", "timm:resnet18/a1_in1k")),
        *((same, same) for same in ("https://example.org/a/b", "package:name/model", "x-{000..099}.tar", "RGB / 255")),
    ],
)
def test_folders_are_left_out_and_nothing_else(text, left):
    assert without_folders({"a": [{"b": text}], "c": 1, "d": None}) == {"a": [{"b": left}], "c": 1, "d": None}
