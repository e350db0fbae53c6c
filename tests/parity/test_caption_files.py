"""Real caption files, feature files and photographs: published counts, matching names, a killed extraction."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from mcse.commands import extract_features
from mcse.commands.main import build_parser
from mcse.data.captions.table import load_captions, select_captions
from mcse.data.images.features import captions_to_features, open_features
from mcse.data.images.names import find_all
from mcse.data.images.sources import open_images
from mcse.models.image_tower import load_image_tower

pytestmark = pytest.mark.parity


def extract(*arguments):
    """As the command line does it, but errors are raised."""
    options = vars(build_parser().parse_args(["extract-features", *map(str, arguments)]))
    return extract_features.run(**{key: value for key, value in options.items() if key not in ("work", "command")})


@pytest.mark.parametrize(("split", "count"), [("train", 6000), ("dev", 1000)])
def test_flickr8k_splits_have_their_published_sizes_and_all_features(real_data, split, count):
    folder = real_data / "flickr8k"
    table = load_captions(str(folder / "captions.txt"), images=folder / f"{split}_images.txt")
    assert len(table) == count
    assert {len(several) for several in table.captions} == {5}
    assert table.image_names == tuple((folder / f"{split}_images.txt").read_text().split())
    store = open_features(folder / "mobilenetv1_features.hdf5")
    rows = captions_to_features(table, store)
    with h5py.File(folder / "mobilenetv1_features.hdf5") as file:
        names = [name.decode() for name in file["image_names"][:]]
        matrix = file["features"][:]
    assert [names[row] for row in rows] == list(table.image_names)
    sample = np.random.default_rng(0).choice(rows, 200)
    np.testing.assert_array_equal(store.rows(sample), matrix[sample])


def test_flickr8ks_first_image_has_its_captions(real_data):
    table = load_captions(str(real_data / "flickr8k" / "captions.txt"))
    assert (len(table), table.num_captions) == (7000, 35000)
    assert table.image_names[0] == "2513260012_03d33305cf.jpg"
    assert table.captions[0][1] == "Black dog chasing brown dog through snow"
    one, image = select_captions(table, mode="one", seed=1)
    assert len(one) == 7000
    assert all(caption in table.captions[i] for caption, i in zip(one, image, strict=True))


def test_batches_of_stored_features_take_milliseconds(real_data):
    store = open_features(real_data / "flickr8k" / "mobilenetv1_features.hdf5")
    generator = np.random.default_rng(0)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        store.rows(generator.integers(0, len(store), 64))
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 0.005


@pytest.mark.parametrize(("split", "images", "captions"), [("train2017", 80, 400), ("val2017", 79, 395)])
def test_coco_json_names_the_photographs(real_data, split, images, captions, tmp_path):
    folder = real_data / "coco_mini"
    table = load_captions(str(folder / f"captions_{split}.json"))
    assert (len(table), table.num_captions) == (images, captions)
    entries = json.loads((folder / f"captions_{split}.json").read_text())
    number = {entry["file_name"]: entry["id"] for entry in entries["images"]}
    for i in (0, images - 1):
        own = [a["caption"].strip() for a in entries["annotations"] if a["image_id"] == number[table.image_names[i]]]
        assert list(table.captions[i]) == own
    source = open_images(str(folder))  # both splits lie in it: matched without the folder's name
    rows = find_all(table.image_names, source.names, where="coco")
    assert all(source.names[row] == f"{split}/{name}" for row, name in zip(rows, table.image_names, strict=True))
    assert source.load(int(rows[0])).mode == "RGB"
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(str(number[name]) for name in table.image_names[5:2:-1]))
    assert load_captions(table.source, images=ids).image_names == table.image_names[5:2:-1]


def test_plain_caption_files_keep_one_line_an_image(real_data):
    table = load_captions(str(real_data / "multi30k" / "train.captions.1.en.gz"))
    assert table.image_names is None
    assert (len(table), table.num_captions) == (29000, 29000)


@pytest.mark.parametrize("tower", ["pixels:8", "timm:mobilenetv3_small_050/none", "open_clip:ViT-S-32-alt/none"])
def test_photographs_become_features_that_captions_find(real_data, tower, tmp_path):
    folder = real_data / "flickr8k"
    held = set(open_images(str(folder / "images")).names)
    chosen = [name for name in (folder / "dev_images.txt").read_text().split() if name in held or f"dev/{name}" in held]
    assert len(chosen) >= 100
    names = tmp_path / "names.txt"
    names.write_text("\n".join(chosen[:40]))
    output = tmp_path / "store"
    assert extract("--images", folder / "images", "--tower", tower, "--output", output, "--names", names) == 0
    table, store = load_captions(str(folder / "captions.txt"), images=names), open_features(output)
    rows = store.rows(captions_to_features(table, store))
    loaded, source = load_image_tower(tower), open_images(str(folder / "images"))
    image = source.load(int(find_all([table.image_names[17]], source.names, where="")[0]))
    expected = loaded(loaded.preprocess(image)[None]).detach().numpy()[0]
    np.testing.assert_allclose(rows[17], expected, rtol=1e-3, atol=1e-4)
    assert rows.std(axis=0).max() > 0


COMMAND = """
import sys
from mcse.commands.main import main
sys.exit(main())
"""


@pytest.mark.slow
def test_an_extraction_killed_from_outside_continues_to_the_same_bytes(real_data, tmp_path):
    arguments = ["--images", str(real_data / "flickr8k" / "images"), "--tower", "pixels:8", "--batch-size", "8"]
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", COMMAND, "extract-features", *arguments, "--output", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    done = 0
    while done < 100 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        if (killed / "progress.json").exists():
            done = json.loads((killed / "progress.json").read_text())["done"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = json.loads((killed / "progress.json").read_text())["done"]
    assert 100 <= done < 1800
    assert extract(*arguments, "--output", killed) == 0
    assert extract(*arguments, "--output", tmp_path / "straight") == 0
    for name in ("features.npy", "names.json", "meta.json"):
        assert (killed / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert len(open_features(killed)) == 1800
