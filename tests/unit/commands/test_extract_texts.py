"""``mcse extract-features --encoder``: texts, each once and found by what it says, and images in a joint space."""

from __future__ import annotations

import csv
import gzip
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mcse.commands import extract_features, extract_texts
from mcse.data.any_texts import read_texts
from mcse.data.images.features import open_features
from mcse.data.teacher_rows import TeacherStore
from mcse.encoders.loading import load_encoder
from tests.fixtures.colour_model import COLOURS, TOWER, build_colour_model, draw_colours
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_shards import write_tar
from tests.unit.commands.test_extract_features import extract

TEXTS = ["a dog runs", "two cats sleep", "a dog runs", "one bird", "the cow eats in the field"]


@pytest.fixture
def bert(tmp_path):
    return build_tiny_bert(tmp_path / "bert", texts=TEXTS)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join([*TEXTS, "", "  one bird "]) + "\n")
    return tmp_path / "t.txt"


def test_every_different_text_is_encoded_once_and_found_by_what_it_says(bert, file, tmp_path, capsys):
    again = tmp_path / "more.txt.gz"
    again.write_bytes(gzip.compress(b"a horse\ntwo cats sleep\n"))
    output = tmp_path / "s"
    flags = ["--encoder", bert, "--pooling", "mean", "--output", output, "--prompt", "it is: ", "--max-length", 6]
    assert extract("--texts", file, again, *flags) == 0
    assert f"{output}: 5 texts, width 32 (float32), encoder {bert}" in capsys.readouterr().out
    store, encoder = TeacherStore(output), load_encoder(str(bert), pooling="mean")
    wanted = ["a horse", *TEXTS]
    expected = encoder.encode([f"it is: {text}" for text in wanted], max_length=6)
    np.testing.assert_allclose(store.rows(store.places(wanted)), expected, atol=1e-5)
    facts = json.loads((output / "meta.json").read_text())
    said = {"encoder": str(bert), "pooling": "mean", "prompt": "it is: ", "length": "6", "dtype": "float32"}
    assert said.items() <= facts.items()
    assert len(facts["weights"]) == 16


def test_a_stopped_extraction_goes_on_and_another_plan_is_refused(bert, file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract_texts, "_ROWS_A_BLOCK", 2)
    flags = ["--texts", file, "--encoder", bert, "--pooling", "cls"]
    assert extract(*flags, "--output", tmp_path / "whole") == 0
    append, calls = extract_texts.FeatureWriter.append, []

    def interrupted(self, rows, **others):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, rows, **others)

    monkeypatch.setattr(extract_texts.FeatureWriter, "append", interrupted)
    assert extract(*flags, "--output", tmp_path / "s") == 130
    assert "stopped after 2 of 4 texts; the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(extract_texts.FeatureWriter, "append", append)
    for other, message in [
        (["--dtype", "float16"], "an unfinished extraction with dtype float32, not float16"),
        (["--untrained", "3"], "with untrained none, not 3"),
        (["--prompt", "x"], "with prompt none, not x"),
        (["--pooling", "mean"], "with pooling cls, not mean"),
    ]:
        with pytest.raises(ValueError, match=message):
            extract(*flags, "--output", tmp_path / "s", *other)
    (tmp_path / "few.txt").write_text("\n".join(TEXTS[:4]) + "\n")
    with pytest.raises(ValueError, match=r"with texts 4 texts, digest .*, not 3 texts"):
        extract("--texts", tmp_path / "few.txt", *flags[2:], "--output", tmp_path / "s")
    assert extract(*flags, "--output", tmp_path / "s") == 0
    for name in ("features.npy", "names.json", "meta.json"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_weights_that_are_drawn_are_those_of_the_seed_and_nobodys_else(bert, file, tmp_path):
    rows = {}
    for name, flags in {
        "own": [],
        "0": ["--untrained", 0],
        "3": ["--untrained", 3],
        "again": ["--untrained", 3],
        "4": ["--untrained", 4],
    }.items():
        assert (
            extract("--texts", file, "--encoder", bert, "--pooling", "mean", "--output", tmp_path / name, *flags) == 0
        )
        store = TeacherStore(tmp_path / name)
        rows[name] = store.rows(store.places(TEXTS))
        assert store.facts.untrained == {"own": "", "again": "3"}.get(name, name)
    np.testing.assert_array_equal(rows["3"], rows["again"])
    for one, other in [("own", "0"), ("own", "3"), ("3", "4")]:
        assert np.abs(rows[one] - rows[other]).max() > 0.01
    vectors = tmp_path / "v.txt"
    vectors.write_text("a 1 2\ndog 3 4\n")
    with pytest.raises(ValueError, match="has no weights to draw anew"):
        extract("--texts", file, "--encoder", vectors, "--output", tmp_path / "v", "--untrained", 1)


def test_a_seed_of_0_is_a_seed(bert, file, tmp_path):
    with pytest.raises(ValueError, match="--untrained: is for --texts"):
        extract("--features", tmp_path, "--encoder", bert, "--output", tmp_path / "s", "--untrained", 0)


def test_a_joint_model_of_drawn_weights_keeps_its_shape(file, tmp_path):
    model = build_colour_model(tmp_path / "model")
    for name, flags in {"own": [], "drawn": ["--untrained", 1]}.items():
        assert extract("--texts", file, "--encoder", model, "--output", tmp_path / name, *flags) == 0
    widths = {name: TeacherStore(tmp_path / name).width for name in ("own", "drawn")}
    assert widths == {"own": 3, "drawn": 3}


def test_images_and_captions_of_a_joint_encoder_are_in_one_space(tmp_path):
    model, images = build_colour_model(tmp_path / "model"), draw_colours(tmp_path / "images")
    captions = [f"{colour} image" for colour in COLOURS]
    (tmp_path / "captions.txt").write_text("\n".join(captions) + "\n")
    assert extract("--images", images, "--tower", TOWER, "--output", tmp_path / "pixels") == 0
    assert extract("--features", tmp_path / "pixels", "--encoder", model, "--output", tmp_path / "a") == 0
    assert extract("--images", images, "--encoder", model, "--output", tmp_path / "b") == 0
    flags = ["--encoder", model, "--output", tmp_path / "texts"]
    assert extract("--texts", tmp_path / "captions.txt", *flags, "--joint") == 0
    texts = TeacherStore(tmp_path / "texts")
    joint = load_encoder(str(model))
    for name in "ab":
        store = open_features(tmp_path / name)
        row_NH = store.rows(np.arange(len(store)))
        np.testing.assert_allclose(np.linalg.norm(row_NH, axis=1), 1, atol=1e-6)
        own = joint.encode_images([images / image for image in store.names])
        np.testing.assert_allclose(row_NH, own, atol=1e-6)
        colour = [image.removesuffix(".png") for image in store.names]
        cosine = row_NH @ texts.rows(texts.places([f"{name} image" for name in colour])).T
        assert cosine.argmax(1).tolist() == list(range(len(colour)))
        assert store.tower == str(model)


def test_what_does_not_go_together_is_refused(bert, file, tmp_path):
    output = ["--output", tmp_path / "s"]
    for flags, message in [
        (["--texts", file], "--encoder with --texts"),
        ([], "give one of --images, --texts and --features"),
        (["--texts", file, "--images", tmp_path, "--encoder", bert], "give one of --images, --texts and --features"),
        (["--texts", file, "--tower", "pixels:1"], "--encoder with --texts"),
        (["--images", tmp_path, "--tower", "pixels:1", "--dtype", "float16"], "--dtype: is for --texts"),
        (["--images", tmp_path, "--tower", "pixels:1", "--pooling", "cls"], "--pooling: is for --encoder"),
        (["--texts", file, "--encoder", bert, "--names", file], "--names: is for --images"),
        (["--texts", file, "--encoder", bert, "--pooling", "cls", "--joint"], "shares no space with images"),
        (["--texts", file, "--encoder", bert, "--precision", "fp16"], "--dtype float16"),
    ]:
        with pytest.raises(ValueError, match=message):
            extract(*flags, *output)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"--texts .*empty.txt: .*is empty"):
        extract("--texts", tmp_path / "empty.txt", "--encoder", bert, "--pooling", "cls", *output)
    with pytest.raises(FileNotFoundError, match=r"--texts .*none.txt"):
        extract("--texts", tmp_path / "none.txt", "--encoder", bert, "--pooling", "cls", *output)


# --- readers


def sources(folder):
    """A file of each kind, with the texts that the readers of training make of it."""
    (folder / "captions.csv").write_text('image,caption\na.jpg,"one  dog\nruns"\na.jpg,two dogs\nb.jpg,x\n')
    yield "captions.csv", {"one  dog runs", "two dogs", "x"}
    (folder / "sentences.csv").write_text("text\nfirst one\n second  one \n")
    yield "sentences.csv", {"first one", "second one"}
    with (folder / "nli.csv").open("w") as file:
        csv.writer(file).writerows([["sent0", "sent1", "hard_neg"], ["a", "b", "c"], ["d", "e", "f"]])
    yield "nli.csv", set("abcdef")
    (folder / "t.jsonl").write_text('{"left": "one  two", "right": "x"}\n{"left": "three", "right": "y"}\n')
    yield "t.jsonl::left", {"one two", "one  two", "three"}
    parquet.write_table(pa.table({"text": ["p", "q  r"], "number": [1, 2]}), folder / "t.parquet")
    yield "t.parquet", {"p", "q r"}
    (folder / "karpathy.json").write_text(
        json.dumps(
            {
                "images": [
                    {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "in train"}]},
                    {"filename": "b.jpg", "split": "val", "sentences": [{"raw": "in val"}]},
                ]
            }
        )
    )
    yield "karpathy.json::val", {"in val"}
    (folder / "results.token").write_text("a.jpg#0\tA dog .\na.jpg#1\tA cat .\nb.jpg#0\tA cow .\n")
    yield "results.token", {"A dog .", "A cat .", "A cow ."}
    write_tar(folder / "pairs.tar", {"a.txt": b"a caption", "a.jpg": b"0", "b.txt": b"another", "b.jpg": b"0"})
    yield "pairs.tar", {"a caption", "another"}
    (folder / "text").mkdir()
    (folder / "text" / "1.txt").write_text("first part\n")
    (folder / "text" / "2.txt").write_text("second part\n")
    yield "text/*.txt", {"first part", "second part"}


def test_texts_are_those_that_the_readers_of_training_give(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, expected in sources(tmp_path):
        assert set(read_texts(str(tmp_path / name), key="--texts")) == expected, name


def test_the_flags_of_images_alone_stay_as_they_were(tmp_path):
    images = draw_colours(tmp_path / "images")
    assert extract_features.run(str(images), tower=TOWER, output=tmp_path / "s") == 0
