"""Training from shards: the same run as from captions and features in files, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mcse import SentenceEncoder
from mcse.evaluation.seen_text import UnknownTrainingTextError, read_run_text
from tests.fixtures.launch import assert_same_run, entries, losses, own_cache, run
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_shards import npy, shards_of_tiny_run, write_tar

SHARDS = {"data.captions": "shards/pairs-{000..003}.tar", "data.images": {"shards": "features"}}
ALL = {"data.captions.per_image": "all", "train.log_steps": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    assert shards_of_tiny_run(folder) == SHARDS["data.captions"]
    return folder


def test_shards_train_what_files_train(tiny, tmp_path):
    assert run(tiny, "mcse", tmp_path / "files", ALL) == 0
    assert run(tiny, "mcse", tmp_path / "shards", ALL | SHARDS) == 0
    assert losses(tmp_path / "shards", "loss.text_image")
    assert_same_run(tmp_path / "files", tmp_path / "shards")
    control = ALL | {"controls.images": "shuffled_images", "controls.num_pairs": 40}
    assert run(tiny, "mcse", tmp_path / "files control", control) == 0
    assert run(tiny, "mcse", tmp_path / "shards control", control | SHARDS) == 0
    assert_same_run(tmp_path / "files control", tmp_path / "shards control")
    assert losses(tmp_path / "shards control") != losses(tmp_path / "shards")
    noise = ALL | {"controls.wrong_images": 0.4, "controls.num_images": 20, "controls.num_pairs": 30}
    assert run(tiny, "mcse", tmp_path / "files noise", noise) == 0
    assert run(tiny, "mcse", tmp_path / "shards noise", noise | SHARDS) == 0
    assert_same_run(tmp_path / "files noise", tmp_path / "shards noise")


def test_captions_of_shards_are_text_for_simcse(tiny, tmp_path):
    for name, captions in (("files", "captions.csv"), ("shards", SHARDS["data.captions"])):
        assert run(tiny, "simcse", tmp_path / name, ALL | {"data.captions": captions, "mix.schedule": "every"}) == 0
    assert_same_run(tmp_path / "files", tmp_path / "shards")


def test_a_tower_reads_the_images_of_shards(tiny, tmp_path):
    seen = {"data.images": {"shards": "images", "tower": "pixels:4"}, "data.captions.window": 20}
    keys = ALL | SHARDS | seen
    assert run(tiny, "mcse", tmp_path / "run", keys) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["facts"]["pairs"] == 96
    assert facts["facts"]["images"] == 48
    assert facts["facts"]["image tower"] == "pixels:4, frozen"
    assert {file["role"] for file in facts["data"]} == {
        *("sentences", "captions", "images", "image tower", "encoder", "dev pairs")
    }
    assert len({file["digest"] for file in facts["data"] if file["role"] in ("captions", "images")}) == 1
    assert losses(tmp_path / "run", "loss.text_image")
    assert SentenceEncoder.from_pretrained(str(tmp_path / "run")).encode(["a dog runs"]).shape == (1, 32)


def test_orders_differ_and_each_resumes(tiny, tmp_path):
    seen = {}
    for name, window in (("global", None), ("shards", 65_536)):
        keys = ALL | SHARDS | {"data.captions.window": window}
        assert run(tiny, "mcse", tmp_path / name, keys) == 0
        seen[name] = losses(tmp_path / name)
    assert seen["global"] != seen["shards"]


def test_unreadable_rows_stop_a_run_or_are_left_out(tiny, tmp_path, capsys):
    bad = npy(np.array([np.nan] * 12, dtype=np.float32))
    write_tar(
        tiny / "bad" / "p-1.tar", {"x.txt": b"the dog runs", "x.npy": bad} | {f"{n}.txt": b"a cat" for n in range(2)}
    )
    (tiny / "bad" / "p-0.tar").write_bytes((tiny / "shards" / "pairs-003.tar").read_bytes())
    keys = SHARDS | {"data.captions": {"shards": "bad"}}
    assert run(tiny, "mcse", tmp_path / "run", keys) == 2
    assert "p-1.tar: 0.txt: its sample has no .npy row; data.captions.on_bad skip" in capsys.readouterr().err
    write_tar(tiny / "bad" / "p-1.tar", {"x.txt": b"the dog runs", "x.npy": bad})
    assert run(tiny, "mcse", tmp_path / "run", keys | {"train.max_steps": 20}) == 2
    assert "p-1.tar: x.npy: NaN or infinity in the row" in capsys.readouterr().err
    skip = keys | {"data.captions.on_bad": "skip"}
    assert run(tiny, "mcse", tmp_path / "skipped", skip) == 0
    facts = json.loads((tmp_path / "skipped" / "run.json").read_text())["facts"]
    assert (facts["pairs"], facts["images left out"]) == (21, 1)


def test_training_text_is_found_again_in_shards(tiny, tmp_path):
    assert run(tiny, "mcse", tmp_path / "files", {"train.max_steps": 1}) == 0
    assert run(tiny, "mcse", tmp_path / "shards", SHARDS | {"train.max_steps": 1}) == 0
    with own_cache(tiny):
        assert read_run_text(tmp_path / "shards") == read_run_text(tmp_path / "files")
        write_tar(tiny / "other" / "pairs-000.tar", {"0.txt": b"a", "0.npy": npy(np.ones(12, dtype=np.float16))})
        run_json = tmp_path / "shards" / "run.json"
        run_json.write_text(run_json.read_text().replace("shards/pairs-{000..003}.tar", "other/pairs-000.tar"))
        with pytest.raises(UnknownTrainingTextError, match="has changed since"):
            read_run_text(tmp_path / "shards")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.images": "features.hdf5"}, "data.captions, data.images: captions in shards have their images beside"),
        (
            {"data.captions.images": "list.txt"},
            "unknown key 'data.captions.images'; it goes with hub, table or file, not with shards",
        ),
        ({"data.captions": "shards/pairs-{000..009}.tar"}, "6 of 10 tars are not there"),
        ({"data.captions": "nowhere-*.tar"}, "no tar fits nowhere-*.tar"),
        ({"data.captions.window": 0}, "data.captions.window: must be 1 or more, got 0"),
        (
            {"data.captions": "captions.csv", "data.images": "features.hdf5", "data.captions.window": 5},
            "unknown key 'data.captions.window'; it goes with shards, not with file",
        ),
    ],
)
def test_what_does_not_fit_shards_is_refused(tiny, tmp_path, capsys, keys, message):
    assert run(tiny, "mcse", tmp_path / "run", SHARDS | keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_says_what_it_reads(tiny, tmp_path):
    assert run(tiny, "mcse", tmp_path / "run", SHARDS) == 0
    assert len(entries(tmp_path / "run")) > 0
    card = (tmp_path / "run" / "best" / "mcse.json").read_text()
    assert "rows of shards" in json.loads(card)["images"]["features"]
