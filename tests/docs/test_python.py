"""Every Python block of docs runs, page by page and in order, on tiny stand-ins for what it names.

README, tutorials and how-to pages are run with their commands (test_pages.py).

The recipe of docs/adding-a-recipe.md has a test of its own (tests/recipes/test_adding_a_recipe.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from mcse.commands.main import main
from mcse.encoders.tweet_tagger import TweetTagger
from tests.docs.pages import ALL, REPOSITORY, RUN, name_of, read_blocks
from tests.fixtures.launch import flags_of, one_thread
from tests.fixtures.tiny_run import build_tiny_run, tiny_keys
from tests.fixtures.tiny_tweets import build_tiny_tweets, tweet_overrides

PAGES = [
    page for page in map(name_of, ALL) if page not in RUN and any(block.kind == "python" for block in read_blocks(page))
]
PIXELS = "pixels:4"


def train(keys, output):
    with one_thread():
        assert (
            main(["train", *flags_of(keys | {"output_dir": output, "train.max_steps": 2, "train.eval_steps": 2})]) == 0
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with tiny runs, images, features and an index under the names that the pages use."""
    place = tmp_path_factory.mktemp("place")
    data = build_tiny_run(place / "data")
    lines = (data / "captions.csv").read_text().splitlines()
    names = sorted({line.partition(",")[0] for line in lines[1:]})
    colours = [f"{name},the {colour} dog runs" for name in names for colour in ("red", "blue")]
    (data / "captions.csv").write_text("\n".join([*lines, *colours]) + "\n")
    for folder in (data / "images", place / "photos", place / "runs" / "demo" / "world" / "images"):
        folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in names:
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(data / "images" / name)
    for name in ("test_00000.png", "test_00001.png"):
        shutil.copy(data / "images" / names[0], place / "runs" / "demo" / "world" / "images" / name)
    for name in ("car.jpg", "tree.jpg", "sea.jpg"):
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / "photos" / name)
    shutil.copy(place / "photos" / "car.jpg", place / "dog.jpg")
    shutil.copy(place / "photos" / "car.jpg", place / "photo.jpg")
    store = ["--images", str(data / "images"), "--tower", PIXELS, "--output", str(data / "pixels")]
    assert main(["extract-features", *store]) == 0
    runs = place / "runs"
    train(tiny_keys(data, "mcse", runs), runs / "mcse_minilm_wiki_flickr8k")
    train(tiny_keys(data, "mcse", runs) | {"data.images": "pixels"}, runs / "demo" / "mcse" / "seed0")
    embed = ["embed", str(runs / "mcse_minilm_wiki_flickr8k"), "--input", str(place / "texts.csv")]
    (place / "texts.csv").write_text("id,text\n1,the red dog runs\n2,a blue dog\n")
    assert main([*embed, "--output", str(place / "texts.embedded")]) == 0
    train(tiny_keys(data, "vse", runs) | {"data.images": "pixels"}, runs / "vse" / "seed0")
    train(tiny_keys(data, "elmo", runs), runs / "elmo_wiki")
    train(tiny_keys(data, "mlm", runs), runs / "mlm_minilm_own_text")
    tweets = build_tiny_tweets(place / "tweets")
    live = {"data.images": {"folder": "images", "tower": "grid:pixels:16"}}
    train(tweet_overrides(tweets, runs) | live, runs / "maf_twitter2015_bert")
    index = ["--model", str(runs / "vse" / "seed0"), "--output", str(place / "photos.index")]
    assert main(["search", "index", str(place / "photos"), *index]) == 0
    (place / "big" / "flickr8k").mkdir(parents=True)
    with h5py.File(place / "big" / "flickr8k" / "mobilenetv1_features.hdf5", "w") as file:
        file["features"] = draw.normal(size=(100, 12)).astype(np.float32)
    return place


def given(page: str, place: Path) -> dict[str, object]:
    """What a page takes for granted: feature rows as a reader has them."""
    if page == "docs/vse.md":
        return {"features": np.ones((2, 48), dtype=np.float32)}
    if page == "docs/maf.md":
        shape = TweetTagger.from_pretrained(str(place / "runs" / "maf_twitter2015_bert")).model.shape
        return {"region_row": np.ones(shape.regions * shape.region_width, dtype=np.float32)}
    return {}


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/adding-a-recipe.md"])
def test_blocks_run(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MCSE_DATA", str(place / "big"))
    names = given(page, place)
    for block in read_blocks(page):
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.text, REPOSITORY / page, "exec"), names)


def test_all_blocks_are_found():
    """The fences of all pages; those of the pages that are run whole are run by test_pages.py."""
    fences = sum(page.read_text(encoding="utf-8").count("```python\n") for page in ALL)
    assert sum(block.kind == "python" for page in ALL for block in read_blocks(page)) == fences
    assert fences > 8
