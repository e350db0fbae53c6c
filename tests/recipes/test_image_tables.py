"""Training, features, search and evaluation on images that a table names or holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from mcse.commands.main import main
from mcse.evaluation.seen_text import seen_by
from mcse.recipes.launch import load_config
from mcse.search import Question, open_search
from tests.fixtures.launch import losses, run, tensors
from tests.fixtures.tiny_run import build_tiny_run

SHORT = {"train.max_steps": 4, "train.eval_steps": 2, "train.log_steps": 1, "train.batch_size": 6}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny run whose captions stand in a CSV that names images, and in a parquet file that holds them."""
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    with (folder / "captions.csv").open() as stream:
        rows = [(row["image"], row["caption"]) for row in csv.DictReader(stream)]
    for name in dict.fromkeys(name for name, _ in rows):
        pixels = draw.integers(256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(
            folder / "images" / Path(name).name, "PNG"
        )
    paths = [f"images/{Path(name).name}" for name, _ in rows]
    captions = [caption for _, caption in rows]
    pandas.DataFrame({"file": paths, "words": captions, "id": range(len(rows))}).to_csv(
        folder / "table.csv", index=False
    )
    images = [{"bytes": (folder / path).read_bytes(), "path": path} for path in paths]
    pandas.DataFrame({"image": images, "caption": captions}).to_parquet(folder / "table.parquet")
    return folder


def tabled(path, tower="pixels:4", **columns):
    images = {key: value for key, value in columns.items() if key != "caption"}
    return {
        "data.captions": {"table": {"path": path, **columns}},
        "data.images": {"table": {"path": path, **images}, "tower": tower},
    }


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    keys = tabled("table.csv", image="file", caption="words") | SHORT | {"loss.joint_dim": 16}
    assert run(tiny, "mcse", folder, keys) == 0
    return folder


def test_files_folders_and_tables_train_the_same_model(tiny, trained, tmp_path) -> None:
    files = {"data.images": {"folder": "images", "tower": "pixels:4"}}
    for name, keys in {"folder": files, "bytes": tabled("table.parquet")}.items():
        assert run(tiny, "mcse", tmp_path / name, keys | SHORT | {"loss.joint_dim": 16}) == 0
        assert losses(tmp_path / name, "loss.text_image") == losses(trained, "loss.text_image")
        assert tensors(tmp_path / name).keys() == tensors(trained).keys()
    assert losses(trained, "loss.text_image")


def test_vse_trains_on_a_table_and_holds_images_out(tiny, tmp_path, capsys) -> None:
    keys = tabled("table.parquet") | SHORT | {"data.dev_images": 8, "data.sts": ...}
    assert run(tiny, "vse", tmp_path / "run", keys) == 0
    assert run(tiny, "vse", tmp_path / "split", keys | {"data.dev_images": "::val"}) == 2
    assert "::val is a split, and a table has none" in capsys.readouterr().err


def test_training_captions_of_a_table_are_known_to_evaluation(tiny, trained) -> None:
    seen, why = seen_by(trained)
    assert not why
    with (tiny / "captions.csv").open() as stream:
        assert len(seen) > len({row["caption"] for row in csv.DictReader(stream)})


def test_features_of_a_table_are_those_of_its_files(tiny, tmp_path) -> None:
    from mcse.data.images.features import open_features

    stores = {}
    for name, images in {
        "csv": ["table.csv", "--column", "file"],
        "parquet": ["table.parquet"],
        "files": ["images"],
    }.items():
        command = ["extract-features", "--images", str(tiny / images[0]), *images[1:], "--tower", "pixels:2"]
        assert main([*command, "--output", str(tmp_path / name)]) == 0
        store = open_features(tmp_path / name)
        order = np.argsort([Path(image).name for image in store.names])
        stores[name] = store.rows(order)
    assert len(stores["csv"]) == 48
    np.testing.assert_array_equal(stores["csv"], stores["files"])
    np.testing.assert_array_equal(stores["parquet"], stores["files"])


def test_a_table_is_searched_and_evaluated_as_its_files_are(tiny, trained, tmp_path, capsys) -> None:
    for name, folder in {"table": ["table.csv", "--column", "file"], "files": ["images"]}.items():
        command = ["search", "index", str(tiny / folder[0]), *folder[1:], "--model", str(trained)]
        assert main([*command, "--output", str(tmp_path / name)]) == 0
    found = []
    for name in ("table", "files"):
        answer = open_search(tmp_path / name).ask(Question(text="a dog runs", top=3))
        found.append([(Path(hit.text).name, hit.score) for hit in answer.hits])
    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert (
        main(["search", "index", str(tiny / "table.parquet"), "--model", str(trained), "--output", str(tmp_path / "x")])
        == 2
    )
    assert "holds the images themselves, and mcse search takes files" in capsys.readouterr().err

    scores = []
    suite = ["--suite", "table", "--data", str(tiny / "table.csv"), "--columns", "image=file", "caption=words"]
    for suite_, data in [
        ("table", suite),
        (
            "retrieval",
            ["--suite", "retrieval", "--captions", str(tiny / "captions.csv"), "--images", str(tiny / "images")],
        ),
    ]:
        assert main(["evaluate", str(trained), *data, "--output", str(tmp_path / suite_)]) == 0
        capsys.readouterr()
        assert main(["evaluate", str(trained), *data, "--dims", "30", "--output", str(tmp_path / "cut")]) == 2
        assert "--dims 30: the model's rows of captions and images have a width of" in capsys.readouterr().err
        results = json.loads((tmp_path / suite_ / "results.json").read_text())["scores"][suite_]
        scores.append({task.removeprefix("table."): values for task, values in results.items()})
    assert {*scores[0]} == {*scores[1]}
    for task, values in scores[1].items():
        for metric, value in values.items():
            if not metric.endswith(("_low", "_high")):  # draws are named by suite and task
                assert scores[0][task][metric] == pytest.approx(value), (task, metric)


def test_a_model_of_text_keeps_the_scores_of_other_tables(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MCSE_DATA", raising=False)
    (tmp_path / "v.txt").write_text("the 1 0\ndog 0 1\ncat 1 1\na 0.5 0.1\n")
    (tmp_path / "t.csv").write_text("query,positive,score\nthe dog,a dog,4\nthe cat,a dog,1\na cat,the cat,3\n")
    (tmp_path / "images.csv").write_text("image,caption\na.png,the dog\nb.png,a cat\n")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    tests = [{"name": "rated", "path": str(tmp_path / "t.csv")}]
    tests.append({"name": "shop", "path": str(tmp_path / "images.csv"), "image": "image", "caption": "caption"})
    (tmp_path / "tests.yaml").write_text(json.dumps({"evaluate": tests}))
    command = ["evaluate", str(tmp_path / "v.txt"), "--suite", "table", "--data", str(tmp_path / "tests.yaml")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "spearman" in results["scores"]["table"]["rated"]
    assert "has two different captions" in results["absent"]["table.shop"]


def test_the_recipe_of_texts_says_where_images_are_trained(tiny) -> None:
    with pytest.raises(
        ValueError, match="for images train mcse or vse, with data.captions.table and data.images.table"
    ):
        load_config(
            None,
            [
                "--recipe",
                "tables",
                "--output_dir",
                "x",
                "--encoder.name_or_path",
                "x",
                "--data.table",
                "t.csv",
                "--data.table.image",
                "a",
                "--data.table.caption",
                "b",
            ],
        )
