"""A run goes on with nothing but what it read before: all of that stands in ``run.json`` with its digest."""

from __future__ import annotations

import json
import re
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.fixtures.hub import forget_commits
from tests.fixtures.launch import run
from tests.fixtures.senteval import write_senteval
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys

GOES_ON = {"train.resume": "auto", "train.max_steps": 2, "train.eval_steps": 2}


@pytest.fixture
def tiny(tmp_path):
    folder = build_tiny_run(tmp_path / "tiny")
    write_senteval(folder / "tests")
    draw_images(folder)
    return folder


def draw_images(folder):
    """Of the captions, uncompressed: a byte can change and nothing else."""
    (folder / "images").mkdir()
    for number in range(48):
        pixels = np.random.default_rng(number).integers(256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:04d}.bmp")


def of_equal_size(path):
    """Another content of the same length, as a hurried edit leaves it."""
    data = path.read_bytes()
    place = max(match.start() for match in re.finditer(rb"dog|cat|bird|0\.1\b|\.50", data))
    other = {b"dog": b"cat", b"cat": b"dog", b"bir": b"fox", b"0.1": b"0.2", b".50": b".51"}[data[place : place + 3]]
    path.write_bytes(data[:place] + other + data[place + 3 :])


CHANGES = {
    "dev pairs": ("simcse", {}, "dev.tsv", "dev pairs"),
    "the encoder's dropout": ("simcse", {}, "bert/config.json", "encoder"),
    "the encoder's weights": ("simcse", {}, "bert/model.safetensors", "encoder"),
    "the tokenizer": ("simcse", {}, "bert/tokenizer.json", "encoder"),
    "streamed text": ("simcse", {"data.sentences": {"stream": "sentences.txt"}}, "sentences.txt", "sentences"),
    "test sentences left out": (
        "simcse",
        {"data.decontaminate": True, "data.sts": "tests", "train.select_by": "stsb_dev.spearman"},
        "tests/SICK/SICK_test_annotated.txt",
        "test sentences left out",
    ),
    "test sentences left out of tables": (
        "tables",
        {"data.decontaminate": True, "data.sts": "tests", "train.select_by": "stsb_dev.spearman"},
        "tests/SICK/SICK_test_annotated.txt",
        "test sentences left out",
    ),
    "an image read as pixels": (
        "mcse",
        {"data.images": {"folder": "images", "tower": "pixels:4"}},
        "images/0007.bmp",
        "images",
    ),
    "word similarity": ("grounded_words", {}, "similarity.tsv", "word pairs"),
    "a contextual encoder": ("word_features", {}, "elmo/config.json", "encoder"),
    "held-out text": ("mlm", {"data.dev": "target.txt", "data.dev_share": ...}, "target.txt", "dev"),
    "a tagger's encoder": ("maf", {}, "bert/config.json", "encoder"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resuming_notices(change, tiny, tmp_path, capsys):
    recipe, keys, file, role = CHANGES[change]
    if recipe == "maf":
        keys = {"data.train": "tags.txt", "data.dev": "tags.txt", "train.select_by": "dev.f1"}
        keys |= {"data.sentences": ..., "data.sts": ...}
    output = tmp_path / "run"
    assert run(tiny, recipe, output, GOES_ON | keys) == 0
    assert role in {read["role"] for read in json.loads((output / "run.json").read_text())["data"]}
    assert run(tiny, recipe, output, GOES_ON | keys) == 0, "nothing has changed"
    if change == "the encoder's weights":
        state = load_file(tiny / file)
        name = next(name for name in state if "word_embeddings" in name)
        save_file({**state, name: state[name] + 0.01}, tiny / file, metadata={"format": "pt"})
    elif file.endswith(".bmp"):
        data = (tiny / file).read_bytes()
        (tiny / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif file.endswith("tokenizer.json"):
        rules = json.loads((tiny / file).read_text())
        rules["normalizer"]["lowercase"] = False
        (tiny / file).write_text(json.dumps(rules))
    elif file.startswith("elmo"):
        config = json.loads((tiny / file).read_text())
        (tiny / file).write_text(json.dumps(config | {"dropout": 0.4}))
    else:
        of_equal_size(tiny / file)
    capsys.readouterr()
    assert run(tiny, recipe, output, GOES_ON | keys) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"train.resume: {output} was trained with other files: " in message
    assert f" ({role}) has changed since" in message
    named = (tiny / file).parent if role == "images" else tiny / file
    assert str(named) in message or role == "test sentences left out"


def test_resuming_takes_an_encoder_that_was_moved(tiny, tmp_path):
    assert run(tiny, "simcse", tmp_path / "run", GOES_ON) == 0
    (tiny / "bert").rename(tiny / "moved")
    assert run(tiny, "simcse", tmp_path / "run", GOES_ON | {"encoder.name_or_path": tiny / "moved"}) == 0


def test_a_run_of_a_hub_model_keeps_its_commit(tiny, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    forget_commits()
    first, second = "ab" * 20, "cd" * 20
    for commit in (first, second):
        shutil.copytree(tiny / "bert", cache / "models--org--name" / "snapshots" / commit)
    ref = cache / "models--org--name" / "refs" / "main"
    ref.parent.mkdir()
    ref.write_text(first)
    keys = GOES_ON | {"encoder.name_or_path": "org/name"}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 0
    assert f"org/name at commit {first}" in capsys.readouterr().err
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["facts"]["encoder"] == f"org/name at commit {first}"
    assert ("encoder", first) in {(file["role"], file["digest"]) for file in facts["data"]}
    ref.write_text(second)
    forget_commits()
    assert run(tiny, "simcse", tmp_path / "run", keys) == 2
    assert f"other files: org/name at commit {second} (encoder) has changed since" in capsys.readouterr().err
    forget_commits()
    assert tiny_keys(tiny, "simcse", tmp_path)["encoder.name_or_path"] != "org/name"
