"""What ``data`` keys find: captions with their images or features, what is left out, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mcse.data.config import ControlsConfig, DataConfig
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.data.images.features import open_features
from mcse.data.images.sources import BadImageError, find_bad_images
from mcse.data.images.sources import SkippedImage as Skipped
from mcse.data.load import load_caption_table, load_dev_pairs, load_features, load_pairs, load_sentences, open_pixels
from mcse.models.text_encoder import load_tokenizer
from tests.fixtures.tiny_models import build_tiny_bert

NAMES = tuple(f"{row}.png" for row in range(8))
ABSENT = {
    "sentences": "data.sentences: no file at",
    "captions": "data.captions: no file at",
    "features": "data.features: nothing at",
    "images": "data.images: no file at",
    "image_folder": "data.image_folder: no folder at",
    "sts": "data.sts: neither a folder nor a file at",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(build_tiny_bert(tmp_path_factory.mktemp("bert"))))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MCSE_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    """Two captions of each of eight images; image n is grey with level 20 n."""
    lines = [f"{name},the {kind} of {name}" for name in NAMES for kind in ("dog", "cat")]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
    (tmp_path / "plain.txt").write_text("\n".join(f"caption {name}" for name in NAMES) + "\n")
    (tmp_path / "images" / "below").mkdir(parents=True)
    for row, name in enumerate(NAMES):
        Image.new("RGB", (6, 4), (20 * row,) * 3).save(tmp_path / "images" / "below" / name)
    return tmp_path


def grey(image):
    """(3, 1, 1): the level of the corner, so that a row says whose image it is."""
    return torch.full((3, 1, 1), float(image.getpixel((0, 0))[0]))


def config(root, **changes):
    given = {"root": root, "captions": "captions.csv", "image_folder": "images", "captions_per_image": "all"}
    return DataConfig(**{**given, **changes})


def pairs_of(config, tokenizer, *, images, seed=0, **controls):
    return load_pairs(config, tokenizer, controls=ControlsConfig(**controls), seed=seed, images=images)


def write_store(folder, *, skipped=()):
    """Features whose one number is the image's row."""
    plan = ExtractionPlan(
        names=NAMES, tower="pixels:1", preprocessing="none", precision="fp32", weights="0123", width=1
    )
    kept = [row for row, name in enumerate(NAMES) if name not in skipped]
    with FeatureWriter(folder, plan) as writer:
        writer.append(
            np.asarray(kept, dtype=np.float32)[:, None], skipped=[Skipped(name, "cut off") for name in skipped]
        )
        writer.finish()
    return folder


def damage(root, name):
    (root / "images" / "below" / name).write_bytes(b"\x89PNG no")


# --- pixels


def test_pixels_are_each_captions_own_image(root, tokenizer):
    pixels = open_pixels(config(root), grey)
    pairs = pairs_of(config(root), tokenizer, images=pixels)
    assert len(pairs.captions) == 16
    assert (pairs.num_images, pairs.num_left_out) == (8, 0)
    levels = pixels.rows(pairs.image_of_caption)
    assert levels.shape == (16, 3, 1, 1)
    assert levels.dtype == np.float32
    assert levels[:, 0, 0, 0].tolist() == [20.0 * int(text.split()[-1][0]) for text in pairs.texts]


def test_a_image_that_stands_twice_in_a_batch_is_read_once(root, monkeypatch):
    read = []
    pixels = open_pixels(config(root), lambda image: read.append(1) or grey(image))
    rows = pixels.rows(np.asarray([3, 0, 3, 3, 5]))
    assert rows[:, 0, 0, 0].tolist() == [60, 0, 60, 60, 100]
    assert len(read) == 3


@pytest.mark.parametrize("spoil", [damage, lambda root, name: (root / "images" / "below" / name).unlink()])
def test_bad_images_are_named_or_lose_their_captions(root, tokenizer, caplog, spoil):
    for name in ("2.png", "5.png"):
        spoil(root, name)
    with pytest.raises(
        ValueError, match=r"2 of 8 images are missing or cannot be read, first: image .*2\.png.*; data\.on"
    ):
        pairs_of(config(root), tokenizer, images=open_pixels(config(root), grey))
    skipping = config(root, on_bad_image="skip")
    pixels = open_pixels(skipping, grey)
    with caplog.at_level(logging.WARNING):
        pairs = pairs_of(skipping, tokenizer, images=pixels)
    assert "left out 2 images of" in caplog.text
    assert "2.png, 5.png" in caplog.text
    assert (len(pairs.captions), pairs.num_images, pairs.num_left_out) == (12, 6, 2)
    assert pixels.rows(pairs.image_of_caption)[::2, 0, 0, 0].tolist() == [0, 20, 60, 80, 120, 140]


def test_all_images_bad_is_an_error_even_when_skipping(root, tokenizer):
    for name in NAMES:
        damage(root, name)
    skipping = config(root, on_bad_image="skip")
    with pytest.raises(ValueError, match="none of the 8 images of .* can be read"):
        pairs_of(skipping, tokenizer, images=open_pixels(skipping, grey))


def test_a_image_that_goes_bad_later_is_named(root):
    pixels = open_pixels(config(root), grey)
    damage(root, "4.png")
    with pytest.raises(BadImageError, match=r"4\.png: cannot be read"):
        pixels.rows(np.arange(8))


def test_who_looks_for_bad_images_can_be_chosen(root, tokenizer):
    asked = []

    def find_bad(source, index):
        asked.extend(index)
        return [Skipped("below/6.png", "another process says so")]

    skipping = config(root, on_bad_image="skip")
    pairs = pairs_of(skipping, tokenizer, images=open_pixels(skipping, grey, find_bad=find_bad))
    assert sorted(asked) == list(range(8))
    assert pairs.num_left_out == 1
    assert not any("6.png" in text for text in pairs.texts)
    assert find_bad_images(open_pixels(skipping, grey).source, range(8)) == []


def test_captions_without_names_cannot_have_pixels(root, tokenizer):
    plain = config(root, captions="plain.txt", captions_per_image="one")
    with pytest.raises(ValueError, match="no image names, so nothing says which image is whose"):
        pairs_of(plain, tokenizer, images=open_pixels(plain, grey))


def test_the_digest_of_images_follows_names_and_sizes(root):
    pixels = open_pixels(config(root), grey)
    first = pixels.digest(np.asarray([1, 2]))
    assert first == pixels.digest(np.asarray([2, 1])) != pixels.digest(np.asarray([1, 3]))
    damage(root, "1.png")
    assert pixels.digest(np.asarray([1, 2])) != first


# --- stores


def test_images_that_an_extraction_skipped_are_named_or_lose_their_captions(root, tokenizer, caplog):
    write_store(root / "store", skipped=("0.png", "7.png"))
    strict = config(root, image_folder=None, features="store")
    store = load_features(strict)
    with pytest.raises(ValueError, match=r"skipped 2 of the 8 images of .*captions\.csv as unreadable, first '0\.png'"):
        pairs_of(strict, tokenizer, images=store)
    with caplog.at_level(logging.WARNING):
        pairs = pairs_of(replace(strict, on_bad_image="skip"), tokenizer, images=store)
    assert "left out 2 images" in caplog.text
    assert (len(pairs.captions), pairs.num_left_out) == (12, 2)
    rows = store.rows(pairs.image_of_caption)[:, 0].tolist()
    assert rows == [float(text.split()[-1][0]) for text in pairs.texts]


def test_skipped_images_that_nobody_asks_for_are_no_error(root, tokenizer):
    write_store(root / "store", skipped=("0.png",))
    (root / "some.txt").write_text("3.png\n1.png\n")
    strict = config(root, image_folder=None, features="store", images="some.txt")
    pairs = pairs_of(strict, tokenizer, images=load_features(strict))
    assert (len(pairs.captions), pairs.num_left_out) == (4, 0)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_captions_without_names_go_on_matching_by_order(root, tokenizer, on_bad_image):
    with h5py.File(root / "features.hdf5", "w") as file:
        file["features"] = np.arange(8, dtype=np.float32)[:, None]
    plain = config(root, captions="plain.txt", features="features.hdf5", image_folder=None, on_bad_image=on_bad_image)
    store = open_features(root / "features.hdf5")
    pairs = pairs_of(plain, tokenizer, images=store)
    assert store.rows(pairs.image_of_caption)[:, 0].tolist() == [float(text.split()[-1][0]) for text in pairs.texts]


# --- the same captions, whether or not images are read


@pytest.mark.parametrize("mode", ["one", "all"])
def test_captions_do_not_depend_on_whether_images_are_read(root, tokenizer, mode):
    write_store(root / "store")
    given = config(root, features="store", captions_per_image=mode)
    readers = (None, load_features(given), open_pixels(given, grey))
    texts = [pairs_of(given, tokenizer, images=reader, seed=3, num_pairs=5).texts for reader in readers]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 5
    assert texts[0] != pairs_of(given, tokenizer, images=None, seed=4, num_pairs=5).texts


# --- paths


def ask_for(key, config, tokenizer):
    if key == "sentences":
        load_sentences(config, tokenizer)
    elif key == "features":
        load_features(config)
    elif key == "image_folder":
        open_pixels(config, grey)
    elif key == "sts":
        load_dev_pairs(config)
    else:
        load_caption_table(config)


@pytest.mark.parametrize("key", ABSENT)
def test_a_missing_relative_path_says_where_relative_paths_start(root, tokenizer, monkeypatch, key):
    monkeypatch.chdir(root)
    lost = config(None, **{key: "lost/there.txt/x"})
    with pytest.raises(FileNotFoundError, match=ABSENT[key]) as unset:
        ask_for(key, lost, tokenizer)
    assert "relative paths start at data.root = . (neither data.root nor MCSE_DATA is set)" in str(unset.value)
    with pytest.raises(FileNotFoundError) as given:
        ask_for(key, replace(lost, root=root), tokenizer)
    assert str(given.value).endswith(f"relative paths start at data.root = {root}")
    monkeypatch.setenv("MCSE_DATA", str(root))
    with pytest.raises(FileNotFoundError) as environment:
        ask_for(key, lost, tokenizer)
    assert str(environment.value).endswith(f"data.root = {root} (from the environment variable MCSE_DATA)")
    with pytest.raises(FileNotFoundError) as absolute:
        ask_for(key, replace(lost, **{key: str(root / "lost/there.txt/x")}), tokenizer)
    assert "relative paths" not in str(absolute.value)


def test_absent_dev_pairs_say_where_they_were_looked_for(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(FileNotFoundError, match=r"data\.sts: .*no STS/ or SICK/ in \.,.* start at data\.root = \."):
        load_dev_pairs(config(None))
