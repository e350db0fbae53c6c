"""Pairs by retrieval against their definition in loops; what ``mcse pair`` writes, and that runs read it."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from mcse import JointEncoder
from mcse.commands.main import main
from mcse.data.captions.table import load_captions
from mcse.data.images.features import open_features
from mcse.search.pairing import PairingRule, pair_texts
from mcse.search.rows import RowBlocks
from tests.fixtures.launch import own_cache, run
from tests.fixtures.tiny_run import build_tiny_run


def drawn(number, *, seed):
    """Unit rows of which some are equal, so that there are ties."""
    rows = np.random.default_rng(seed).normal(size=(number, 4)).astype(np.float32)
    rows[number // 2] = rows[1]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_loops(text_TH, image_IH, own_T, rule):
    """The definition, text by text."""
    score = np.round(text_TH.astype(np.float64) @ image_IH.T.astype(np.float64), 6)
    allowed = {(t, i) for t in range(len(text_TH)) for i in range(len(image_IH)) if i not in own_T[t]}
    nearest_text = {
        i: min(((-score[t, i], t) for t in range(len(text_TH)) if (t, i) in allowed), default=(0, None))[1]
        for i in range(len(image_IH))
    }
    for t in range(len(text_TH)):
        images = sorted((i for i in range(len(image_IH)) if (t, i) in allowed), key=lambda i: (-score[t, i], i))
        for i in images[: rule.top]:
            if (rule.minimum is None or score[t, i] >= rule.minimum) and (not rule.mutual or nearest_text[i] == t):
                yield t, i


@pytest.mark.parametrize(
    "rule", [PairingRule(), PairingRule(top=3), PairingRule(minimum=0.8), PairingRule(mutual=True)]
)
@pytest.mark.parametrize("size", [7, 40])
def test_pairs_are_those_of_the_definition(rule, size) -> None:
    text_TH, image_IH = drawn(40, seed=0), drawn(15, seed=1)
    generator = np.random.default_rng(2)
    # Several texts have the same own images, one has all but two, and one has all.
    own_T = [set(generator.choice(15, size=t % 4, replace=False).tolist()) for t in range(40)]
    own_T[5], own_T[6] = set(range(13)), set(range(15))
    blocks = [(text_TH[start : start + size], own_T[start : start + size]) for start in range(0, 40, size)]
    found = pair_texts(blocks, RowBlocks(image_IH), rule)
    expected = list(by_loops(text_TH, image_IH, own_T, rule))
    assert list(zip(found.text_P.tolist(), found.image_P.tolist(), strict=True)) == expected
    assert 0 < len(expected) < 40 * 3
    np.testing.assert_allclose(found.score_P, (text_TH[found.text_P] * image_IH[found.image_P]).sum(1), atol=1e-6)


# --- the command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A vse run on images of which two are copies of others, and the store that it was trained on."""
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    photos = folder / "photos"
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    for copied, name in (("dog/0.png", "dog/1.png"), ("cat/0.png", "horse/3.png")):
        (photos / name).write_bytes((photos / copied).read_bytes())
    sentences = (folder / "sentences.txt").read_text().splitlines()
    rows = [("image", "caption"), *((name, sentences[2 * n + k]) for n, name in enumerate(names) for k in range(2))]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "other.csv").write_text("image,caption\nelsewhere.png,the dog runs\n")
    flags = ["--images", str(photos), "--output", str(folder / "store")]
    assert main(["extract-features", "--tower", "pixels:4", *flags]) == 0
    keys = {"data.captions": "photos.csv", "data.images": "store", "data.dev_images": 6, "train.max_steps": 3}
    assert run(folder, "vse", folder / "vse", keys | {"train.eval_steps": 3}) == 0
    return folder


def paired(world, *flags, output="pairs.csv", sources=("photos.csv",)):
    """Exit code of the command, with what it wrote."""
    path = world / output
    path.unlink(missing_ok=True)
    texts = [str(world / source) for source in sources]
    code = main(["pair", str(world / "vse"), "--texts", *texts, "--output", str(path), *flags])
    return code, (list(csv.DictReader(path.open())) if path.exists() else [])


@pytest.mark.slow
def test_no_text_gets_its_own_image_nor_a_copy_of_it(world, capsys) -> None:
    store, captions = str(world / "store"), str(world / "photos.csv")
    code, rows = paired(world, "--features", store, "--not-own", captions)
    assert code == 0
    said = capsys.readouterr().out
    assert "2 of 48 images look like others, and count as one with them" in said
    encoder = JointEncoder.from_pretrained(str(world / "vse"))
    features = open_features(world / "store")
    texts = [row["caption"] for row in rows]
    score_TI = encoder.image_similarity(texts, features.rows(np.arange(48)))
    table = load_captions(captions)
    copies = {"dog/1.png": "dog/0.png", "horse/3.png": "cat/0.png"}
    own = {}
    for name, several in zip(table.image_names, table.captions, strict=True):
        for caption in several:
            own.setdefault(caption, set()).add(copies.get(name, name))
    assert texts == list(dict.fromkeys(caption for several in table.captions for caption in several))
    for row, score_I in zip(rows, score_TI, strict=True):
        best = max(
            (round(float(score), 6), -place)
            for place, score in enumerate(score_I)
            if copies.get(features.names[place], features.names[place]) not in own[row["caption"]]
            and features.names[place] not in copies
        )
        assert row["image"] == features.names[-best[1]]
        assert float(row["score"]) == pytest.approx(best[0], abs=2e-6)


@pytest.mark.slow
def test_images_of_which_nothing_is_known_are_given_to_no_text(world, tmp_path, capsys) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    rows = np.load(tmp_path / "store" / "features.npy")
    rows[[3, 7]] = 0
    np.save(tmp_path / "store" / "features.npy", rows)
    lost = {open_features(world / "store").names[place] for place in (3, 7)}
    code, found = paired(world, "--features", str(tmp_path / "store"), "--top", "46")
    assert code == 0
    assert "2 images have features of zeros, and are left out" in capsys.readouterr().out
    assert found
    assert not lost & {row["image"] for row in found}


@pytest.mark.slow
def test_numbers_are_numbers_in_json_lines(world) -> None:
    path = world / "pairs.jsonl"
    flags = ["--texts", str(world / "photos.csv"), "--features", str(world / "store"), "--output", str(path)]
    assert main(["pair", str(world / "vse"), *flags]) == 0
    assert all(isinstance(json.loads(line)["score"], float) for line in path.read_text().splitlines())


@pytest.mark.slow
def test_stores_folders_and_joint_rows_give_the_same_pairs_and_runs_read_them(world, tmp_path) -> None:
    flags = ["--top", "2", "--mutual"]
    wanted = paired(world, "--features", str(world / "store"), *flags)
    joint = ["extract-features", "--encoder", str(world / "vse"), "--features", str(world / "store")]
    assert main([*joint, "--output", str(world / "joint")]) == 0
    for source in (["--features", str(world / "joint")], ["--images", str(world / "photos")]):
        code, rows = paired(world, *source, *flags, output="again.csv")
        assert (code, [(row["image"], row["caption"]) for row in rows]) == (
            0,
            [(row["image"], row["caption"]) for row in wanted[1]],
        )
    pairs = paired(world, "--features", str(world / "store"), output="all.csv", sources=("sentences.txt",))[1]
    assert {row["caption"] for row in pairs} == set((world / "sentences.txt").read_text().splitlines())
    with own_cache(world):
        assert run(world, "mcse", tmp_path / "run", {"data.captions": "all.csv", "data.images": "store"}) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of --images and --features"),
        (["--features", "{world}/store", "--top", "0"], "--top: must be 1 or more"),
        (["--features", "{world}/store", "--minimum", "2"], "--minimum: must be a cosine"),
        (["--features", "{world}/store", "--minimum", "0.9999"], "no text has an image that --minimum"),
        (["--features", "{world}/store", "--column", "image"], "--column: is for --images"),
        (["--features", "{world}/wide.hdf5"], "was trained on (N, 48)"),
        (["--features", "{world}/store", "--not-own", "{world}/sentences.txt"], "--not-own {world}/sentences.txt: has"),
        (["--features", "{world}/store", "--not-own", "{world}/other.csv"], "none of its 1 images is among"),
        (["--features", "{world}/none"], "no such file or folder"),
    ],
)
def test_what_cannot_be_paired_is_said_and_nothing_is_written(world, flags, message, capsys) -> None:
    code, rows = paired(world, *(flag.format(world=world) for flag in flags), output="not.csv")
    assert (code, rows) == (2, [])
    assert message.format(world=world) in capsys.readouterr().err
    assert main(["pair", str(world / "bert"), "--texts", "t", "--features", "f", "--output", str(world / "x.tsv")]) == 2
    assert "x.tsv must end in one of .csv, .jsonl" in capsys.readouterr().err
