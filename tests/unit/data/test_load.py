"""What ``data`` keys find: captions with their images or features, what is left out, and what is refused."""

from __future__ import annotations

import logging

import datasets
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mcse.data.config import DataConfig
from mcse.data.controls_config import ControlsConfig
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.data.images.pixels import PixelRows
from mcse.data.images.sources import HubImages, find_bad_images
from mcse.data.images.sources import SkippedImage as Skipped
from mcse.data.load import load_caption_table, load_dev_pairs, load_features, load_pairs, open_pixels
from mcse.data.load_sentences import load_sentences
from mcse.data.source_variants import (
    FileCaptions,
    FileSentences,
    PairedFeatures,
    PairedFolder,
    ScoredTable,
    TableFile,
    TableSentences,
)
from mcse.images import BadImageError
from mcse.models.text_loading import load_tokenizer
from tests.fixtures.image_folder import image
from tests.fixtures.tiny_models import build_tiny_bert

NAMES = tuple(f"{row}.png" for row in range(8))
ABSENT = {
    "sentences": "data.sentences: no file at",
    "captions": "data.captions: no file at",
    "features": "data.images.features: nothing at",
    "images": "data.captions.images: no file at",
    "folder": "data.images.folder: no folder at",
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


def config(root, *, captions="captions.csv", images=None, per_image="all", **changes):
    table = FileCaptions(file=captions, images=images, per_image=per_image)
    return DataConfig(root=root, captions=table, **changes)


def pixels_of(config, look=grey, *, folder="images", on_bad="error", **keys):
    return open_pixels(config, PairedFolder(folder=folder, tower="grey", on_bad=on_bad), look, **keys)


def store_of(config, features="store", *, on_bad="error"):
    return load_features(config, PairedFeatures(features=features, on_bad=on_bad))


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
    pixels = pixels_of(config(root))
    pairs = pairs_of(config(root), tokenizer, images=pixels)
    assert len(pairs.captions) == 16
    assert (pairs.num_images, pairs.num_left_out) == (8, 0)
    levels = pixels.rows(pairs.image_of_caption)
    assert levels.shape == (16, 3, 1, 1)
    assert levels.dtype == np.float32
    assert levels[:, 0, 0, 0].tolist() == [20.0 * int(text.split()[-1][0]) for text in pairs.texts]


def test_a_image_that_stands_twice_in_a_batch_is_read_once(root, monkeypatch):
    read = []
    pixels = pixels_of(config(root), lambda image: read.append(1) or grey(image))
    rows = pixels.rows(np.asarray([3, 0, 3, 3, 5]))
    assert rows[:, 0, 0, 0].tolist() == [60, 0, 60, 60, 100]
    assert len(read) == 3


@pytest.mark.parametrize("spoil", [damage, lambda root, name: (root / "images" / "below" / name).unlink()])
def test_bad_images_are_named_or_lose_their_captions(root, tokenizer, caplog, spoil):
    for name in ("2.png", "5.png"):
        spoil(root, name)
    with pytest.raises(
        ValueError, match=r"2 of 8 images are missing or cannot be read, first: image .*2\.png.*; data\.images\.on_bad"
    ):
        pairs_of(config(root), tokenizer, images=pixels_of(config(root)))
    pixels = pixels_of(config(root), on_bad="skip")
    with caplog.at_level(logging.WARNING):
        pairs = pairs_of(config(root), tokenizer, images=pixels)
    assert "left out 2 images of" in caplog.text
    assert "2.png, 5.png" in caplog.text
    assert (len(pairs.captions), pairs.num_images, pairs.num_left_out) == (12, 6, 2)
    assert pixels.rows(pairs.image_of_caption)[::2, 0, 0, 0].tolist() == [0, 20, 60, 80, 120, 140]


def test_all_images_bad_is_an_error_even_when_skipping(root, tokenizer):
    for name in NAMES:
        damage(root, name)
    with pytest.raises(ValueError, match="none of the 8 images of .* can be read"):
        pairs_of(config(root), tokenizer, images=pixels_of(config(root), on_bad="skip"))


def test_a_image_that_goes_bad_later_is_named(root):
    pixels = pixels_of(config(root))
    damage(root, "4.png")
    with pytest.raises(BadImageError, match=r"4\.png: cannot be read"):
        pixels.rows(np.arange(8))


def test_who_looks_for_bad_images_can_be_chosen(root, tokenizer):
    asked = []

    def find_bad(source, index):
        asked.extend(index)
        return [Skipped("below/6.png", "another process says so")]

    pixels = pixels_of(config(root), on_bad="skip", find_bad=find_bad)
    pairs = pairs_of(config(root), tokenizer, images=pixels)
    assert sorted(asked) == list(range(8))
    assert pairs.num_left_out == 1
    assert not any("6.png" in text for text in pairs.texts)
    assert find_bad_images(pixels.source, range(8)) == []


def test_captions_without_names_cannot_have_pixels(root, tokenizer):
    plain = config(root, captions="plain.txt", per_image="one")
    with pytest.raises(ValueError, match="no image names, so nothing says which image is whose"):
        pairs_of(plain, tokenizer, images=pixels_of(plain))


def test_the_digest_of_images_follows_names_and_every_byte(root):
    pixels = pixels_of(config(root))
    first = pixels.digest(np.asarray([1, 2]))
    assert first == pixels.digest(np.asarray([2, 1])) != pixels.digest(np.asarray([1, 3]))
    path = pixels.source.root / pixels.names[1]
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert pixels.digest(np.asarray([1, 2])) != first
    assert pixels.digest(np.asarray([2, 3])) == pixels_of(config(root)).digest(np.asarray([3, 2]))
    path.write_bytes(whole)
    assert pixels.digest(np.asarray([1, 2])) == first
    damage(root, "1.png")
    assert pixels.digest(np.asarray([1, 2])) != first


@pytest.mark.parametrize("stored", ["bytes", "path"])
def test_the_digest_of_images_of_a_dataset_follows_every_byte(tmp_path, stored):
    def digest(value):
        image(1).save(tmp_path / "0.png")
        image(value).save(tmp_path / "1.png")
        files = [tmp_path / f"{number}.png" for number in range(2)]
        cells = [
            {"bytes": file.read_bytes(), "path": file.name} if stored == "bytes" else {"bytes": None, "path": str(file)}
            for file in files
        ]
        rows = datasets.Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image(decode=False))
        source = HubImages(rows, ["a", "b"], column="image", source="set")
        pixels = PixelRows(source, lambda image: image, origin="set")
        return pixels.digest(np.arange(2))

    assert digest(2) == digest(2)
    assert digest(2) != digest(3)


# --- stores


def test_images_that_an_extraction_skipped_are_named_or_lose_their_captions(root, tokenizer, caplog):
    write_store(root / "store", skipped=("0.png", "7.png"))
    store = store_of(config(root))
    with pytest.raises(ValueError, match=r"skipped 2 of the 8 images of .*captions\.csv as unreadable, first '0\.png'"):
        pairs_of(config(root), tokenizer, images=store)
    with caplog.at_level(logging.WARNING):
        pairs = pairs_of(config(root), tokenizer, images=store_of(config(root), on_bad="skip"))
    assert "left out 2 images" in caplog.text
    assert (len(pairs.captions), pairs.num_left_out) == (12, 2)
    rows = store.rows(pairs.image_of_caption)[:, 0].tolist()
    assert rows == [float(text.split()[-1][0]) for text in pairs.texts]


def test_skipped_images_that_nobody_asks_for_are_no_error(root, tokenizer):
    write_store(root / "store", skipped=("0.png",))
    (root / "some.txt").write_text("3.png\n1.png\n")
    some = config(root, images="some.txt")
    pairs = pairs_of(some, tokenizer, images=store_of(some))
    assert (len(pairs.captions), pairs.num_left_out) == (4, 0)


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_captions_without_names_go_on_matching_by_order(root, tokenizer, on_bad):
    with h5py.File(root / "features.hdf5", "w") as file:
        file["features"] = np.arange(8, dtype=np.float32)[:, None]
    plain = config(root, captions="plain.txt")
    store = store_of(plain, "features.hdf5", on_bad=on_bad)
    pairs = pairs_of(plain, tokenizer, images=store)
    assert store.rows(pairs.image_of_caption)[:, 0].tolist() == [float(text.split()[-1][0]) for text in pairs.texts]


# --- the same captions, whether or not images are read


@pytest.mark.parametrize("mode", ["one", "all"])
def test_captions_do_not_depend_on_whether_images_are_read(root, tokenizer, mode):
    write_store(root / "store")
    given = config(root, per_image=mode)
    readers = (None, store_of(given), pixels_of(given))
    texts = [pairs_of(given, tokenizer, images=reader, seed=3, num_pairs=5).texts for reader in readers]
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 5
    assert texts[0] != pairs_of(given, tokenizer, images=None, seed=4, num_pairs=5).texts
    fewer = [pairs_of(given, tokenizer, images=reader, seed=3, num_images=2) for reader in readers]
    assert fewer[0].texts == fewer[1].texts == fewer[2].texts
    assert {pairs.num_images for pairs in fewer} == {2}


def test_how_many_captions_are_used_is_said_where_some_are_not(root, tokenizer):
    for images in (None, store_of(config(root), write_store(root / "store"))):
        found = pairs_of(config(root, per_image="one"), tokenizer, images=images)
        said = "8 of 16, one an image (data.captions.per_image: all takes every one)"
        assert found.facts == {"captions drawn": said}
        # Fewer by a control are no matter of per_image.
        assert pairs_of(config(root, per_image="one"), tokenizer, images=images, num_pairs=5).facts == found.facts
        assert pairs_of(config(root, per_image="all"), tokenizer, images=images).facts == {}
    assert pairs_of(config(root, captions="plain.txt", per_image="one"), tokenizer, images=None).facts == {}


# --- scored pairs


PAIRS = (("a man", "a man plays", 5.0), ("a dog", "the circle", 0.5), ("a  red dog", "a dog runs", 3.0))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ""])
def test_scored_pairs_have_columns_of_any_name(root, suffix):
    table = datasets.Dataset.from_dict(
        {"no": [3, 1, 2], **dict(zip(("left", "right", "stars"), map(list, zip(*PAIRS, strict=True)), strict=True))}
    )
    path = root / f"mine{suffix}"
    write = {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet, "": table.save_to_disk}
    if suffix == ".tsv":
        table.to_csv(str(path), sep="\t")
    else:
        write[suffix](str(path))
    named = ScoredTable(path=path.name, query="left", positive="right", score="stars")
    found = load_dev_pairs(config(root, sts=named))
    (root / "plain.tsv").write_text("".join(f"{score}\t{left}\t{right}\n" for left, right, score in PAIRS))
    plain = load_dev_pairs(config(root, sts="plain.tsv"))
    assert (found.sentence1, found.sentence2) == (plain.sentence1, plain.sentence2)
    assert found.gold.tolist() == plain.gold.tolist() == [5.0, 0.5, 3.0]
    assert found.name == "mine"
    turned = load_dev_pairs(config(root, sts=ScoredTable(path=path.name, query="right", positive="left", score="no")))
    assert (turned.sentence1, turned.gold.tolist()) == (plain.sentence2, [3.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": "lft", "positive": "right", "score": "stars"}, "no column 'lft' for query .* did you mean 'left'"),
        ({"query": "left", "positive": "right", "score": "right"}, "named twice"),
        ({"query": "left"}, "name all three columns, or none"),
        ({}, "no column is called"),
        ({"query": "left", "positive": "stars", "score": "right"}, "score 'a man' is not a finite number"),
    ],
)
def test_wrong_columns_of_scored_pairs_are_named(root, columns, message):
    (root / "mine.csv").write_text("left,right,stars\na dog,a man,3\n")
    with pytest.raises(ValueError, match=message):
        load_dev_pairs(config(root, sts=ScoredTable(path="mine.csv", **columns)))


def test_a_table_without_scores_is_no_scored_pairs(root):
    (root / "mine.csv").write_text("sentence1,sentence2,label\na dog,a man,1\n")
    with pytest.raises(ValueError, match=r"has no column called score among .*data\.sts\.query"):
        load_dev_pairs(config(root, sts=ScoredTable(path="mine.csv")))


# --- paths


def ask_for(key, name, root, tokenizer):
    """Looks for a file ``name`` that ``key`` gives, below ``root``."""
    if key == "sentences":
        source = FileSentences(file=name)
        load_sentences(DataConfig(root=root, sentences=source), source, tokenizer)
    elif key == "features":
        store_of(config(root), name)
    elif key == "folder":
        pixels_of(config(root), folder=name)
    elif key == "sts":
        load_dev_pairs(config(root, sts=name))
    else:
        given = config(root, **{key: name})
        load_caption_table(given, given.captions)


@pytest.mark.parametrize("key", ABSENT)
def test_a_missing_relative_path_says_where_relative_paths_start(root, tokenizer, monkeypatch, key):
    monkeypatch.chdir(root)
    lost = "lost/there.txt/x"
    with pytest.raises(FileNotFoundError, match=ABSENT[key]) as unset:
        ask_for(key, lost, None, tokenizer)
    assert "relative paths start at data.root = . (neither data.root nor MCSE_DATA is set)" in str(unset.value)
    with pytest.raises(FileNotFoundError) as given:
        ask_for(key, lost, root, tokenizer)
    assert str(given.value).endswith(f"relative paths start at data.root = {root}")
    monkeypatch.setenv("MCSE_DATA", str(root))
    with pytest.raises(FileNotFoundError) as environment:
        ask_for(key, lost, None, tokenizer)
    assert str(environment.value).endswith(f"data.root = {root} (from the environment variable MCSE_DATA)")
    with pytest.raises(FileNotFoundError) as absolute:
        ask_for(key, str(root / lost), None, tokenizer)
    assert "relative paths" not in str(absolute.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (FileSentences(file="nli.csv"), "nli.csv holds triplets; give data.sentences.table"),
        (
            TableSentences(table=TableFile(path="plain.txt")),
            "plain.txt holds sentences alone; give data.sentences.file",
        ),
    ],
)
def test_sentences_of_another_kind_are_refused(root, tokenizer, source, message):
    (root / "nli.csv").write_text("sent0,sent1,hard_neg\na,b,c\n")
    with pytest.raises(ValueError, match=message):
        load_sentences(DataConfig(root=root, sentences=source), source, tokenizer)


def test_a_table_of_sentences_alone_is_a_file(root, tokenizer):
    (root / "alone.jsonl").write_text('{"text": "a"}\n{"text": "b c"}\n')
    source = FileSentences(file="alone.jsonl")
    table = load_sentences(DataConfig(root=root, sentences=source), source, tokenizer).table
    assert (table.columns, len(table)) == (1, 2)


def test_absent_dev_pairs_say_where_they_were_looked_for(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(FileNotFoundError, match=r"data\.sts: .*no STS/ or SICK/ in \.,.* start at data\.root = \."):
        load_dev_pairs(config(None))


def test_captions_of_repeated_rows_are_of_one_image(tmp_path, tokenizer):
    np.save(tmp_path / "f.npy", np.repeat(np.eye(4, dtype=np.float32), 5, axis=0))
    (tmp_path / "captions.txt").write_text("".join(f"caption {number}\n" for number in range(20)))
    plain = config(tmp_path, captions="captions.txt")
    pairs = pairs_of(plain, tokenizer, images=store_of(plain, "f.npy"))
    assert (len(pairs.captions), pairs.num_images, pairs.num_left_out) == (20, 4, 0)
    assert pairs.image_of_caption.tolist() == np.repeat([0, 5, 10, 15], 5).tolist(), "equal ids are no negatives"
    one = config(tmp_path, captions="captions.txt", per_image="one")
    assert len(pairs_of(one, tokenizer, images=store_of(one, "f.npy")).captions) == 4
