"""``mcse extract-features``: images and a tower to a store, continued after a kill."""

from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mcse.commands import extract_features
from mcse.commands.main import build_parser, main
from mcse.data.captions.table import load_captions
from mcse.data.images.features import captions_to_features, open_features
from mcse.data.images.sources import open_images
from mcse.images import BadImageError
from mcse.models.image_tower import load_image_tower
from tests.fixtures.image_folder import COUNT, image, image_folder, spoil

SMALL_TIMM = "timm:test_vit.r160_in1k/none"


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "images")


def extract(*arguments):
    """As the command line does it, but errors are raised."""
    options = vars(build_parser().parse_args(["extract-features", *map(str, arguments)]))
    return extract_features.run(**{key: value for key, value in options.items() if key not in ("work", "command")})


def test_extraction_gives_the_towers_rows_under_the_images_names(folder, tmp_path, capsys):
    output = tmp_path / "store"
    assert extract("--images", folder, "--tower", SMALL_TIMM, "--output", output, "--batch-size", 4) == 0
    store, source, tower = open_features(output), open_images(str(folder)), load_image_tower(SMALL_TIMM)
    assert store.names == source.names
    assert (store.tower, store.preprocessing) == (tower.spec, tower.preprocessing)
    with torch.no_grad():
        expected = tower(torch.stack([tower.preprocess(source.load(i)) for i in range(COUNT)])).numpy()
    np.testing.assert_allclose(store.rows(np.arange(COUNT)), expected, rtol=1e-4, atol=1e-5)
    captured = capsys.readouterr()
    assert "11 images, width 64" in captured.out
    assert "11 of 11" in captured.err
    with pytest.raises(ValueError, match="finished feature store"):
        extract("--images", folder, "--tower", SMALL_TIMM, "--output", output)
    assert extract("--images", folder, "--tower", "pixels:2", "--output", output, "--overwrite") == 0
    assert open_features(output).tower == "pixels:2"


def test_lower_precision_is_close_and_stored_as_float32(folder, tmp_path):
    for precision in ("fp32", "bf16"):
        extract("--images", folder, "--tower", SMALL_TIMM, "--output", tmp_path / precision, "--precision", precision)
    full, half = (open_features(tmp_path / name).rows(np.arange(COUNT)) for name in ("fp32", "bf16"))
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.1)


def test_names_select_and_order(folder, tmp_path):
    (tmp_path / "ids.txt").write_text("07\n02\n")
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--names", tmp_path / "ids.txt"]
    assert extract(*arguments) == 0
    assert open_features(tmp_path / "s").names == ("deep/er/07.png", "02.png")
    (tmp_path / "ids.txt").write_text("07\n77\n")
    with pytest.raises(ValueError, match="1 of 2 images are not there, first '77'"):
        extract(*arguments, "--overwrite")


def test_bad_images_stop_the_extraction_or_are_listed(folder, tmp_path, capsys):
    bad = spoil(folder)
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 3]
    with pytest.raises(ValueError, match=r"cut.jpg: cannot be read.*--on-bad-image skip"):
        extract(*arguments)
    assert extract(*arguments, "--on-bad-image", "skip") == 0
    assert "skipped 2 unreadable images" in capsys.readouterr().out
    store = open_features(tmp_path / "s")
    assert [image.name for image in store.skipped] == bad
    assert len(store) == COUNT
    assert not set(bad) & set(store.names)


def test_ctrl_c_keeps_what_is_done_and_says_so(folder, tmp_path, monkeypatch, capsys):
    append, calls = extract_features.FeatureWriter.append, []

    def interrupted(self, rows, *, skipped=()):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, rows, skipped=skipped)

    monkeypatch.setattr(extract_features.FeatureWriter, "append", interrupted)
    arguments = ["--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 4]
    assert extract(*arguments) == 130
    assert "stopped after 4 of 11 images; the same command continues" in capsys.readouterr().err
    assert extract(*arguments) == 0
    assert len(open_features(tmp_path / "s")) == COUNT


def test_a_batch_size_of_zero_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="--batch-size must be positive, got 0"):
        extract("--images", folder, "--tower", "pixels:2", "--output", tmp_path / "s", "--batch-size", 0)


def test_a_hub_dataset_gives_captions_and_images_of_the_same_names(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    files = [folder / "00.png", folder / "00.png", folder / "02.png"]
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files] + [None]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    columns = {"image": cells, "caption": ["a", "b", "c", "d"]}
    (tmp_path / "set").mkdir()
    names = {**columns, "filename": ["x", "x", "y", "z"]}
    features["filename"] = datasets.Value("string")
    datasets.Dataset.from_dict(names, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    source = open_images(str(tmp_path / "set"))
    assert source.names == ("x", "y", "z")
    np.testing.assert_array_equal(np.asarray(source.load(1)), np.asarray(image(2)))
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(source)).load(0)), np.asarray(image(0)))
    with pytest.raises(BadImageError, match="image z of .*set: the cell is empty"):
        source.load(2)
    assert (
        extract(
            "--images", tmp_path / "set", "--tower", "pixels:2", "--output", tmp_path / "s", "--on-bad-image", "skip"
        )
        == 0
    )
    table, store = load_captions(str(tmp_path / "set")), open_features(tmp_path / "s")
    assert table.captions == (("a", "b"), ("c",), ("d",))
    assert store.names == ("x", "y")
    with pytest.raises(ValueError, match="first 'z'"):
        captions_to_features(table, store)


def test_a_file_whose_name_is_no_text_is_counted_and_named_and_the_rest_goes_on(tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", b"odd\xff.png".decode("utf-8", "surrogateescape")):
        Image.new("RGB", (8, 8)).save(folder / name, "png")
    (folder / "bad.png").write_bytes(b"no image")
    arguments = ["--images", str(folder), "--tower", "pixels:4", "--output", str(tmp_path / "store")]
    assert main(["extract-features", *arguments, "--on-bad-image", "skip"]) == 0
    assert r"1 of 4 files are left out, whose names are not UTF-8: 'odd\udcff.png'" in caplog.text
    store = open_features(tmp_path / "store")
    assert store.names == ("a.png", "b.png")
    assert [image.name for image in store.skipped] == ["bad.png"]
