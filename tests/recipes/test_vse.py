"""Tiny whole runs of the recipe vse: what is held out, selected, saved, resumed, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mcse import JointEncoder, SentenceEncoder
from mcse.commands.main import main
from mcse.data.config import JointDataConfig
from mcse.data.controls_config import ControlsConfig
from mcse.data.images.features import open_features
from mcse.data.joint_pairs import load_joint_pairs
from mcse.data.source_variants import FileCaptions, PairedFeatures
from mcse.encoders.loading import encoder_digest, load_encoder
from mcse.evaluation.joint_space import load_captioned_images, pair_ranks
from mcse.evaluation.suite import Subject
from mcse.evaluation.suites.retrieval import score_retrieval
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.config_files import write_store
from tests.fixtures.launch import arguments_of, assert_same_run, entries, losses, one_thread, own_cache, run, tensors
from tests.fixtures.tiny_run import build_tiny_run
from tests.recipes.test_training import stop_after

WORDS = {
    "gru": {"encoder.dropout": 0.2, "joint.feature_dropout": 0.2},
    "lstm": {"encoder.kind": "lstm", "encoder.marks": "both", "loss.negatives": "hardest"},
    "bow": {"encoder.kind": "bow", "loss.kind": "info_nce", "loss.reduction": "mean"},
}
QUERIES = ["the dog runs in the park number 3", "the cat sleeps in the house number 4"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def transformer(tiny):
    return {"encoder.kind": "transformer", "encoder.word_dim": ..., "encoder.name_or_path": str(tiny / "bert")}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One finished run a text side, judged at every second step."""
    folder = tmp_path_factory.mktemp("finished")
    for name, keys in (WORDS | {"transformer": transformer(tiny)}).items():
        assert run(tiny, "vse", folder / name, keys | {"train.eval_steps": 2, "train.log_steps": 1}) == 0
    return folder


def build(tiny, output, keys):
    config = load_config(None, arguments_of(tiny, "vse", output, keys))
    with one_thread(), own_cache(tiny):
        return method("vse").build(config, start_runtime(precision="fp32", seed=config.seed))


def pairs_of(tiny, *, images=None, **keys):
    captions = FileCaptions(file="captions.csv", images=images, per_image="all")
    config = JointDataConfig(root=tiny, captions=captions, images=PairedFeatures(features="features.hdf5"), **keys)
    images = open_features(tiny / "features.hdf5")
    return load_joint_pairs(config, controls=ControlsConfig(), seed=3, images=images)


# --- runs


@pytest.mark.parametrize("name", [*WORDS, "transformer"])
def test_a_run_trains_selects_and_loads(name, tiny, finished):
    folder = finished / name
    assert len(set(losses(folder))) == 6
    total = [sum(entry[f"loss.{term}"] for term in ("image_to_text", "text_to_image")) for entry in trained(folder)]
    scale = 1 if name == "bow" else 8  # the published sum over a batch of 8
    assert losses(folder) == pytest.approx([scale * value for value in total], rel=1e-5)
    judged = [entry for entry in entries(folder) if "retrieval.rsum" in entry]
    assert [entry["step"] for entry in judged] == [2, 4, 6]
    for entry in judged:
        recalls = [value for key, value in entry.items() if "recall@" in key]
        assert len(recalls) == 6
        assert entry["retrieval.rsum"] == pytest.approx(sum(recalls))
        assert 1 <= entry["retrieval.text_to_image.median_rank"] <= 10
    encoder = load_encoder(str(folder))
    assert isinstance(encoder, JointEncoder)
    captions, images = (
        encoder.encode_captions(QUERIES),
        encoder.encode_image_features(np.ones((3, 12), dtype=np.float32)),
    )
    assert captions.shape == (2, 16)
    assert images.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([captions, images]), axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(encoder.encode(QUERIES), captions)
    np.testing.assert_allclose(encoder.encode(QUERIES[0]), captions[0], atol=1e-6)
    assert encoder_digest(str(folder)) is not None


def trained(folder):
    return [entry for entry in entries(folder) if "loss" in entry]


@pytest.mark.parametrize("name", [*WORDS, "transformer"])
def test_best_is_what_was_judged(name, tiny, finished):
    """The loaded checkpoint gives the scores that selected it, on images that were not trained on."""
    judged = [entry for entry in entries(finished / name) if "retrieval.rsum" in entry]
    best = max(judged, key=lambda entry: entry["retrieval.rsum"])
    encoder = JointEncoder.from_pretrained(finished / name)
    config = load_config(finished / name / "config.yaml", [])
    images = open_features(tiny / "features.hdf5")
    seed = config.seed + 1_000_003
    pairs = load_joint_pairs(config.data, controls=config.controls, seed=seed, images=images)
    assert len(pairs.dev) == 10
    assert not set(pairs.dev.row_I) & set(pairs.image_of_caption)
    ranks = pair_ranks(
        encoder.encode_captions(pairs.dev.captions),
        encoder.encode_image_features(images.rows(pairs.dev.row_I)),
        image_C=pairs.dev.image_C,
    )
    recalls = [100 * float((found.rank_Q <= k).mean()) for found in ranks.values() for k in (1, 5, 10)]
    assert sum(recalls) == pytest.approx(best["retrieval.rsum"])


def test_the_vocabulary_is_of_the_training_captions_alone(tiny, finished):
    vocabulary = set(JointEncoder.from_pretrained(finished / "gru").vocabulary)
    config = load_config(finished / "gru" / "config.yaml", [])
    images = open_features(tiny / "features.hdf5")
    pairs = load_joint_pairs(config.data, controls=config.controls, seed=config.seed + 1_000_003, images=images)
    words = {word for caption in pairs.captions for word in caption.split()}
    held_out = {word for caption in pairs.dev.captions for word in caption.split()}
    assert vocabulary - {"<pad>", "<unk>", "<s>", "</s>"} == words
    assert held_out - words, "or this test could not fail"


def test_a_reloaded_model_gives_the_rows_of_the_one_that_was_saved(tiny, tmp_path):
    built = build(tiny, tmp_path / "run", WORDS["lstm"])
    built.export(tmp_path / "checkpoint", {})
    loaded = JointEncoder.from_pretrained(tmp_path / "checkpoint")
    evaluator = built.evaluators[0]
    np.testing.assert_allclose(
        loaded.encode(QUERIES, normalize=False), evaluator._encoder.encode(QUERIES, normalize=False), atol=1e-6
    )
    feature = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    np.testing.assert_allclose(
        loaded.encode_image_features(feature), evaluator._encoder.encode_image_features(feature), atol=1e-6
    )
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert "Not evaluated yet." in card
    assert "JointEncoder.from_pretrained" in card


def test_rows_do_not_depend_on_the_batch(finished):
    encoder = JointEncoder.from_pretrained(finished / "lstm")
    several = [*QUERIES, "dog", "the fox jumps over the river in the field number 7 and the bear sleeps"]
    whole = encoder.encode(several)
    for row, sentence in zip(whole, several, strict=True):
        np.testing.assert_allclose(encoder.encode(sentence), row, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(several, batch_size=1), whole, atol=1e-6)


@pytest.mark.parametrize("name", [*WORDS, "transformer"])
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(name, tiny, tmp_path, monkeypatch):
    keys = {"train.max_steps": 11, "train.eval_steps": 3, "train.log_steps": 1, "train.resume": "auto"}
    keys |= WORDS.get(name) or transformer(tiny)
    assert run(tiny, "vse", tmp_path / "straight", keys) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert run(tiny, "vse", tmp_path / "stopped", keys) == 143
    assert JointEncoder.from_pretrained(tmp_path / "stopped" / "last")
    assert run(tiny, "vse", tmp_path / "stopped", keys) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    assert len(set(losses(tmp_path / "stopped"))) == 11


def test_evaluation_does_not_disturb_training(tiny, tmp_path):
    for name, steps in (("often", 1), ("never", 1000)):
        keys = WORDS["gru"] | {"train.eval_steps": steps, "train.log_steps": 1}
        assert run(tiny, "vse", tmp_path / name, keys) == 0
    assert losses(tmp_path / "often") == losses(tmp_path / "never")


def test_evaluate_judges_a_run(tiny, finished, tmp_path, capsys):
    arguments = ["--captions", str(tiny / "captions.csv"), "--features", str(tiny / "features.hdf5"), "--folds", "4"]
    arguments += ["--output", str(tmp_path), "--data", str(tiny / "dev.tsv"), "--suite", "retrieval", "sts"]
    assert main(["evaluate", str(finished / "bow"), *arguments]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    scores = found["scores"]["retrieval"]
    assert scores["image_to_text"]["targets"] == 24
    assert scores["text_to_image"]["targets"] == 12
    recalls = [scores[task][f"recall@{k}"] for task in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert scores["rsum"]["score"] == pytest.approx(sum(recalls))
    assert found["pooling"] == "joint"
    assert "seen" in str(found["protocols"]), "the run's training text was found"
    capsys.readouterr()


# --- a tower inside the step


def test_a_live_tower_gives_images_rows(tiny, tmp_path):
    root = build_tiny_run(tmp_path / "tiny")
    draw = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(48):
        pixels = draw.integers(256, size=(32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number:04d}.png")
    keys = {
        "data.images": {"folder": "images", "tower": "timm:test_vit/none", "train": True},
        "train.max_steps": 2,
    }
    assert run(root, "vse", tmp_path / "run", keys | {"train.eval_steps": 1}) == 0
    encoder = load_encoder(str(tmp_path / "run"))
    paths = sorted((root / "images").iterdir())[:3]
    rows = encoder.encode_images(paths)
    assert rows.shape == (3, 16)
    np.testing.assert_allclose(encoder.encode_image_features(encoder.image_features(paths)), rows, atol=1e-6)
    assert (tmp_path / "run" / "best" / "image_tower.safetensors").is_file()


# --- bad input


def test_unknown_words_alone_are_skipped_in_training_and_refused_as_a_query(tiny, tmp_path, finished):
    root = build_tiny_run(tmp_path / "tiny")
    lines = (root / "captions.csv").read_text().splitlines()
    lines[5] = lines[5].split(",")[0] + ",xyzzy plugh ."
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    assert run(root, "vse", tmp_path / "run", {"encoder.min_count": 2, "data.dev_images": 2}) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["facts"]
    assert facts["captions of unknown words alone"] == 1
    assert facts["pairs"] == 2 * 46 - 1
    encoder = JointEncoder.from_pretrained(finished / "gru")
    assert not encoder.encode("xyzzy plugh").any()
    assert encoder.encode("xyzzy dog").any()
    encoder.check_query("xyzzy dog")
    with pytest.raises(ValueError, match=r"knows no word of 'dogge'; known words like these: dog"):
        encoder.check_query("dogge")
    with pytest.raises(ValueError, match=r"knows no word of ''$"):
        encoder.check_query("")
    with pytest.raises(ValueError, match=r"knows no word of 'xyzzy plugh \.'"):
        encoder.check_query("xyzzy plugh .")
    assert not encoder.encode("xyzzy plugh .").any()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.dev_images": None}, "train.select_by: 'retrieval.rsum' needs images that are held out"),
        ({"data.dev_images": 48}, "data.dev_images: 48 of 48 images with captions leave none to train on"),
        ({"data.dev_images": 1}, "data.dev_images: must be 2 or more, got 1"),
        ({"data.dev_images": "none.txt"}, "data.dev_images: no file at .*none.txt"),
        ({"data.sentences": "sentences.txt"}, "unknown key 'data.sentences'"),
        ({"data.sts": "dev.tsv"}, "unknown key 'data.sts'"),
        ({"data.captions": None}, "data.captions: expected one of {hub, table, file}, got"),
        (
            {"data.captions.file": ..., "data.captions": ...},
            "data.captions: give one of hub, table or file; got 'per_image'",
        ),
        ({"data.captions": {"shards": "x.tar"}}, "data.captions: give one of hub, table or file; got"),
        ({"loss.temperature": 0.1}, "unknown key 'loss.temperature'; it goes with kind: info_nce, not with kind: rank"),
        (
            {"loss.kind": "info_nce", "loss.margin": 0.1},
            "unknown key 'loss.margin'; it goes with kind: ranking, not with kind: info_nce",
        ),
        ({"loss.margin": 0}, "loss.margin: must be positive, got 0"),
        ({"joint.image_map": "none"}, "joint.dim: 16 must be 12, the width of the image features"),
        ({"encoder.word_vectors": "none.txt"}, "encoder.word_vectors: no file at .*none.txt; relative paths start at"),
        ({"encoder.min_count": 1000}, "no word occurs 1000 times or more"),
        ({"train.select_by": "stsb_dev.spearman"}, "train.select_by: 'stsb_dev.spearman' is not among retrieval.rsum"),
    ],
)
def test_wrong_configurations_are_refused(keys, message, tiny, tmp_path, capsys):
    assert run(tiny, "vse", tmp_path / "run", keys) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_images_without_captions_and_the_reverse(tmp_path, capsys):
    root = build_tiny_run(tmp_path / "tiny")
    (root / "images.txt").write_text("0000.png\n0001.png\nnone.png\n")
    assert run(root, "vse", tmp_path / "run", {"data.captions.images": "images.txt"}) == 2
    assert "1 of 3 images have no captions in" in capsys.readouterr().err
    with (root / "captions.csv").open("a") as file:
        file.write("new.png,the dog runs\n")
    assert run(root, "vse", tmp_path / "run", {}) == 2
    assert "1 of 49 images have no features in" in capsys.readouterr().err


def test_features_of_another_tower_width_or_not_finite_are_refused(tiny, tmp_path, finished):
    encoder = JointEncoder.from_pretrained(finished / "gru")
    with pytest.raises(ValueError, match=r"shape \(2, 5\); '.*gru' was trained on \(N, 12\)"):
        encoder.encode_image_features(np.ones((2, 5), dtype=np.float32))
    broken = np.ones((3, 12), dtype=np.float32)
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="row 1 is not finite"):
        encoder.encode_image_features(broken)
    with pytest.raises(ValueError, match="names no image tower"):
        encoder.encode_images([tmp_path / "x.png"])
    names = [f"{number:04d}.png" for number in range(48)]
    write_store(tmp_path / "store", names, width=12)
    assert run(tiny, "vse", tmp_path / "run", {"data.images": str(tmp_path / "store")}) == 0
    other = JointEncoder.from_pretrained(tmp_path / "run")
    assert other.image_tower == "timm:resnet50.tv_in1k"
    meta = tmp_path / "store" / "meta.json"
    meta.write_text(meta.read_text().replace("timm:resnet50.tv_in1k", "timm:other"))
    images = load_captioned_images(str(tiny / "captions.csv"), features=str(tmp_path / "store"))
    with pytest.raises(ValueError, match=r"holds features of timm:other, not of timm:resnet50.tv_in1k"):
        score_retrieval(Subject.of(other), images)


def test_features_that_are_not_finite_stop_a_run_before_it_begins(tmp_path, capsys):
    root = build_tiny_run(tmp_path / "tiny")
    with h5py.File(root / "features.hdf5", "a") as file:
        file["features"][7, 3] = np.inf
    assert run(root, "vse", tmp_path / "run", {}) == 2
    assert "0007.png" in capsys.readouterr().err


def test_other_loaders_say_what_the_folder_is(finished, tmp_path):
    with pytest.raises(ValueError, match="holds a joint model of captions and images, not .*; mcse.JointEncoder"):
        SentenceEncoder.from_pretrained(str(finished / "gru"))
    with pytest.raises(ValueError, match="pooling 'cls' is not available, only 'joint': a joint model"):
        load_encoder(str(finished / "gru"), pooling="cls")
    (tmp_path / "mcse.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mcse\.json: kind is missing"):
        JointEncoder.from_pretrained(tmp_path)


def _forget_how_it_is_built(folder):
    manifest = json.loads((folder / "mcse.json").read_text())
    (folder / "mcse.json").write_text(json.dumps(manifest | {"details": {}}))


def test_damaged_checkpoints_are_refused(finished, tmp_path):
    for name, change, message in (
        (
            "lacks",
            lambda folder: (folder / "vocab.json").unlink(),
            r"vocab\.json is missing, though",
        ),
        ("weights", lambda folder: (folder / "text.safetensors").write_bytes(b"x" * 64), "safetensors is damaged"),
        ("vocab", lambda folder: (folder / "vocab.json").write_text("{}"), r"vocab\.json is damaged"),
        ("joint", _forget_how_it_is_built, r"mcse\.json: details\.joint is missing"),
        ("heads", lambda folder: (folder / "heads.safetensors").unlink(), r"heads\.safetensors is missing"),
    ):
        shutil.copytree(finished / "gru" / "best", tmp_path / name)
        change(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            JointEncoder.from_pretrained(tmp_path / name)


# --- what is held out


def test_held_out_images_by_number_and_by_file(tiny):
    by_number = pairs_of(tiny, dev_images=10)
    again = pairs_of(tiny, dev_images=10)
    assert by_number.dev.row_I.tolist() == again.dev.row_I.tolist()
    assert len(by_number.captions) == 76
    assert by_number.dev.image_C.tolist() == [image for image in range(10) for _ in range(2)]
    (tiny / "dev.txt").write_text("0003.png\n0001.png\n")
    by_file = pairs_of(tiny, dev_images="dev.txt")
    assert by_file.dev.row_I.tolist() == [3, 1]
    assert not {3, 1} & set(by_file.image_of_caption.tolist())
    assert len(by_file.captions) == 92
    # The list need not be among the images that are trained on.
    (tiny / "some.txt").write_text("0005.png\n0003.png\n0006.png\n")
    apart = pairs_of(tiny, images="some.txt", dev_images="dev.txt")
    assert set(apart.image_of_caption.tolist()) == {5, 6}
    assert apart.dev.row_I.tolist() == [3, 1]


def test_a_split_of_the_captions_is_held_out(tmp_path):
    root = build_tiny_run(tmp_path / "tiny")
    splits = ["train", "train", "val", "test"] * 12
    images = [
        {"filename": f"{number:04d}.png", "split": split, "sentences": [{"raw": f"a dog number {number}"}]}
        for number, split in enumerate(splits)
    ]
    (root / "captions.json").write_text(json.dumps({"images": images}))
    captions, features = FileCaptions(file="captions.json::train"), PairedFeatures(features="features.hdf5")
    config = JointDataConfig(root=root, captions=captions, images=features, dev_images="::val")
    images = open_features(root / "features.hdf5")
    pairs = load_joint_pairs(config, controls=ControlsConfig(), seed=3, images=images)
    assert pairs.dev.row_I.tolist() == list(range(2, 48, 4))
    assert set(pairs.image_of_caption.tolist()) == {n for n in range(48) if n % 4 < 2}
    with pytest.raises(ValueError, match="no split 'none'"):
        load_joint_pairs(replace(config, dev_images="::none"), controls=ControlsConfig(), seed=3, images=images)


def test_controls_leave_the_held_out_images_alone(tiny, tmp_path):
    true, shuffled = (
        build(tiny, tmp_path / "run", {"controls.images": control}) for control in (True, "shuffled_pairs")
    )
    assert true.evaluators[0]._captions == shuffled.evaluators[0]._captions
    np.testing.assert_array_equal(true.evaluators[0]._features(), shuffled.evaluators[0]._features())
    batches = [built.stream.batch(0) for built in (true, shuffled)]
    assert torch.equal(batches[0].caption.input_ids_BT, batches[1].caption.input_ids_BT)
    assert not (batches[0].image_id_B == batches[1].image_id_B).all()


# --- the step


def test_captions_of_one_image_are_no_negatives_of_each_other(tiny, tmp_path):
    built = build(tiny, tmp_path / "run", {"loss.margin": 5.0, "loss.reduction": "mean"})
    batch = built.stream.batch(0)
    same = replace(batch, image_id_B=torch.zeros_like(batch.image_id_B))
    assert total_loss(built.step(built.model, same), device=torch.device("cpu")) == 0
    assert total_loss(built.step(built.model, batch), device=torch.device("cpu")) > 0


def test_the_published_sum_is_the_batch_times_the_mean(tiny, tmp_path):
    values = []
    for reduction in ("sum", "mean"):
        built = build(tiny, tmp_path / "run", {"loss.reduction": reduction})
        batch = built.stream.batch(0)
        values.append(total_loss(built.step(built.model, batch), device=torch.device("cpu")).item())
        rows = built.model(batch)
        caption, image = (torch.nn.functional.normalize(side) for side in (rows.caption_BH, rows.image_BH))
        score = (image @ caption.T).tolist()
        ids = batch.image_id_B.tolist()
        loops = 0.0
        for i in range(8):
            for k in range(8):
                if ids[i] != ids[k]:
                    loops += max(0, 0.2 - score[i][i] + score[i][k]) + max(0, 0.2 - score[i][i] + score[k][i])
        assert values[-1] == pytest.approx(loops / (1 if reduction == "sum" else 8), rel=1e-5)
    assert values[0] == pytest.approx(8 * values[1], rel=1e-6)


def test_frozen_word_vectors_stay_and_bound_the_vocabulary(tiny, tmp_path):
    vectors = {"dog": [1, 0, 0], "cat": [0, 1, 0], "runs": [0, 0, 1], "Park": [1, 1, 0], "bird": [0, 1, 1]}
    lines = [f"{word} {' '.join(map(str, row))}" for word, row in vectors.items()]
    (tiny / "vectors.txt").write_text("\n".join(lines) + "\n")
    keys = {"encoder.kind": "bow", "encoder.word_dim": 3, "encoder.word_vectors": "vectors.txt"}
    keys |= {"encoder.train_words": False, "joint.dim": 12, "joint.image_map": "none"}
    assert run(tiny, "vse", tmp_path / "run", keys) == 0
    encoder = JointEncoder.from_pretrained(tmp_path / "run")
    assert set(encoder.vocabulary[4:]) == {"dog", "cat", "runs", "park", "bird"}
    head = tensors(tmp_path / "run" / "best")["heads.safetensors:text_head.weight"].numpy()
    np.testing.assert_allclose(encoder.encode("dog park", normalize=False), head @ [2, 1, 0], rtol=1e-5)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["facts"]["words with vectors"] == 5
    assert facts["facts"]["captions of unknown words alone"] > 0
    assert "word vectors" in {file["role"] for file in facts["data"]}
