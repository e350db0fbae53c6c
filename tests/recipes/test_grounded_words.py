"""Grounded words as whole runs: configs build, resuming is bit for bit, the export grounds words no caption has."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mcse.config import build_config, merge, read_overrides, read_yaml
from mcse.encoders.loading import load_encoder
from mcse.encoders.word_vectors import WordVectorEncoder, load_space
from mcse.recipes import config_class, method
from mcse.recipes.launch import load_config
from mcse.scenes import WorldConfig, build_world
from mcse.scenes.words import CAPTIONS, look_similarity, visible_words, write_word_files
from mcse.text.vocab import SPECIALS, Vocab
from mcse.text.word_map import WordMap
from mcse.text.word_vectors import load_word_vectors
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from mcse.types import MatchBatch
from tests.fixtures.launch import arguments_of, assert_same_run, entries, run, tensors
from tests.fixtures.tiny_run import build_tiny_run

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "grounded_words").glob("*.yaml"))
PUBLISHED = [path for path in CONFIGS if path.stem.endswith("_coco")]
REGRESSION = {"model.objective": "image_regression", "model.state_width": 9}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- configs


def _stand_in(folder: Path, config) -> Path:
    """Files of the names that a config gives: 60 images of 5 captions."""
    draw = np.random.default_rng(0)
    words = ["unknown", *(f"word{number}" for number in range(40))]
    names = [f"{number}.jpg" for number in range(60)]

    def at(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    rows = [f"{name},{' '.join(draw.choice(words, size=6))}" for name in names for _ in range(5)]
    at(config.data.captions.file).write_text("image,caption\n" + "\n".join(rows) + "\n")
    at(config.data.captions.images).write_text("\n".join(names) + "\n")
    features = at(config.data.images.features)
    with h5py.File(features if features.suffix else features.with_suffix(".hdf5"), "w") as file:
        file["features"] = draw.normal(size=(60, 12)).astype(np.float32)
        file["image_names"] = names
    lines = [f"{word} {' '.join(f'{x:.3f}' for x in draw.normal(size=8))}" for word in words]
    given = at(config.words.vectors)
    vectors = given.with_name(given.name.removesuffix(".gz"))
    vectors.write_text("\n".join(lines) + "\n")
    if vectors != given:
        vectors.rename(given)  # a .gz name on plain text is read by its first bytes
    if config.words.similarity is not None:
        target = folder / config.words.similarity
        path = target if target.suffix else target / "EN-MEN-TR-3k.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [f"{a}\t{b}\t{draw.uniform():.3f}" for a, b in itertools.pairwise(words)]
        path.write_text("\n".join(pairs) + "\n")
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_takes_two_steps(path: Path, tmp_path: Path) -> None:
    tree = read_yaml(path)
    published = build_config(config_class("grounded_words"), tree, source=str(path))
    root = _stand_in(tmp_path / "data", published)
    features = published.data.images.features
    flags = ["--data.root", str(root), "--output_dir", str(tmp_path / "run"), "--data.decontaminate", "false"]
    if path in PUBLISHED:
        # Two steps at their 1,024 take ten seconds; the next test has the width.
        flags += ["--model.width", "16"]
    if not Path(features).suffix:
        flags += ["--data.images", f"{features}.hdf5"]
    config = build_config(config_class("grounded_words"), merge(tree, read_overrides(flags)), source=str(path))
    built = method("grounded_words").build(config, start_runtime(precision="fp32", seed=config.seed))
    before = built.model.map_DC.detach().clone()
    built.model.train()
    for step in (0, 1):
        batch = built.stream.batch(step)
        rows = batch.true if isinstance(batch, MatchBatch) else batch
        assert len(rows.image_BF) == config.train.batch_size
        terms = built.step(built.model, batch)
        is_regression = config.model.objective == "image_regression"
        assert set(terms) == ({"image"} if is_regression else {"forward", "backward", "match", "retention"})
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        built.optimizer.zero_grad()
        loss.backward()
        built.optimizer.step()
    assert not torch.equal(before, built.model.map_DC)
    assert built.optimizer.param_groups[0]["lr"] == config.optim.learning_rate


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_configs_have_their_constants_and_say_what_is_unsure(path: Path) -> None:
    assert len(PUBLISHED) == 2
    config = build_config(config_class("grounded_words"), read_yaml(path), source=str(path))
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), part
    for key in ("alpha", "beta", "negatives", "map_start", "dropout", "share_image_layer", "tie_output", "ground"):
        assert key in "\n".join(header), f"{key} is not stated in the article, and the header must say so"
    assert (config.model.objective, config.model.width, config.words.max_words) == ("tasks", 1024, 10000)
    weights = (config.loss.forward_weight, config.loss.backward_weight, config.loss.match_weight)
    assert weights == (1.0, 1.0, 1.0)
    assert (config.optim.learning_rate, config.train.batch_size, config.train.epochs) == (1e-3, 256, 20)
    assert (config.data.captions.per_image, config.data.max_length, config.optim.schedule) == ("all", 64, "constant")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data.images": None}, "data.images: expected group of keys"),
        ({"data.images": ...}, "missing key 'data.images'"),
        ({"data.images": {"folder": "images", "tower": "pixels:4"}}, "unknown key 'data.images.folder'"),
        ({"data.captions": {"shards": "x.tar"}}, "data.captions: give one of hub, table or file; got"),
        ({"data.sentences": "sentences.txt"}, "unknown key 'data.sentences'"),
        ({"data.sts": "sts"}, "unknown key 'data.sts'"),
        ({"words.similarity": None}, "train.select_by: give words.similarity"),
        (
            {"model.state_width": 9},
            "unknown key 'model.state_width'; it goes with objective: image_regression, not with objective: tasks",
        ),
        (REGRESSION | {"loss.beta": 0.5}, "loss: would do nothing, since model.objective is image_regression"),
        (
            REGRESSION | {"model.dropout": 0.1},
            "unknown key 'model.dropout'; it goes with objective: tasks, not with objective: image_regression",
        ),
        (REGRESSION | {"model.ground": "tuned"}, "unknown key 'model.ground'; it goes with objective: tasks"),
        ({"loss.negatives": 0}, "loss.negatives: must be 1 or more"),
        ({"loss.beta": 1.2}, "loss.beta: must lie in"),
        ({"model.dropout": 1.0}, "model.dropout: must lie in"),
        ({"words.min_count": 0}, "words.min_count: must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(keys, message, tiny, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, arguments_of(tiny, "grounded_words", tmp_path / "run", keys))


def test_words_without_a_vector(tiny, tmp_path) -> None:
    """ "the" has none: it starts as "unknown", or is dropped; without "unknown" in the file that is an error."""

    def build(**keys):
        config = load_config(None, arguments_of(tiny, "grounded_words", tmp_path / "run", keys))
        return method("grounded_words").build(config, start_runtime(precision="fp32", seed=0))

    source = load_word_vectors(tiny / "grounding.txt")
    kept, dropped = build(), build(**{"words.without_vector": "drop"})
    tables = [built.model.table.original_VD.numpy() for built in (kept, dropped)]
    unknown_D = source.row_VD[source.index["unknown"]]
    assert [int((table_VD == unknown_D).all(axis=1).sum()) for table_VD in tables] == [1, 0]
    assert len(tables[0]) == len(tables[1]) + 1
    lengths = [built.stream.batch(0).true.caption.attention_mask_BT.sum(1) for built in (kept, dropped)]
    assert torch.equal(lengths[0] - 2, lengths[1])
    assert kept.facts["words without a vector (unknown)"] == 1
    lines = [line for line in (tiny / "grounding.txt").read_text().splitlines() if not line.startswith("unknown ")]
    (tmp_path / "less.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"words.without_vector: 1 words .* neither has 'unknown'"):
        build(**{"words.vectors": str(tmp_path / "less.txt")})


# --- runs


@pytest.mark.parametrize("keys", [{"model.dropout": 0.2, "model.ground": "tuned"}, REGRESSION], ids=["tasks", "images"])
def test_resuming_equals_going_on_bit_for_bit(keys, tiny, tmp_path) -> None:
    long = keys | {"train.resume": "auto", "train.max_steps": 6, "train.eval_steps": 3, "optim.schedule": "constant"}
    assert run(tiny, "grounded_words", tmp_path / "straight", long) == 0
    assert run(tiny, "grounded_words", tmp_path / "cut", long | {"train.max_steps": 3}) == 0
    assert run(tiny, "grounded_words", tmp_path / "cut", long) == 0
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_a_run_exports_every_word_of_the_source(tiny, tmp_path, caplog) -> None:
    output = tmp_path / "run"
    assert run(tiny, "grounded_words", output, {"model.ground": "tuned", "loss.alpha": 0.0}) == 0
    source, grounded = load_word_vectors(tiny / "grounding.txt"), load_space(output)
    assert grounded.words == source.words
    word_map = WordMap.load(output / "best")
    vocab = Vocab.load(output / "best" / "vocab.json")
    assert word_map.tuned is not None
    assert word_map.tuned.words == vocab.words[len(SPECIALS) :]
    for word, seen in (("zebra", False), ("New York", False), ("dog", True)):
        assert (word in vocab) == seen
        wanted = source.row_VD[source.index[word]] @ word_map.map_DC
        assert np.allclose(grounded.row_VD[grounded.index[word]], wanted, rtol=1e-5) != seen
    with caplog.at_level(logging.ERROR):
        encoder = load_encoder(str(output))
    assert isinstance(encoder, WordVectorEncoder)
    assert encoder.dimension == 10
    info = json.loads((output / "best" / "mcse.json").read_text())
    assert (info["kind"], info["details"]["source"]) == ("grounded_words", "grounding.txt")
    assert "wordsim.mean" in (output / "best" / "README.md").read_text()
    scores = [entry["wordsim.mean"] for entry in entries(output) if "wordsim.mean" in entry]
    assert len(scores) == 2
    assert {file["role"] for file in json.loads((output / "run.json").read_text())["data"]} == {
        "captions",
        "features",
        "word vectors",
        "word pairs",
    }


def test_a_checkpoint_may_hold_the_captions_words_alone(tiny, tmp_path) -> None:
    assert run(tiny, "grounded_words", tmp_path / "run", {"words.export": "captions", "train.max_steps": 1}) == 0
    words = load_space(tmp_path / "run").words
    assert "dog" in words
    assert "zebra" not in words
    assert "the" not in words, "it has no text vector"


def test_shuffled_images_are_other_images(tiny, tmp_path) -> None:
    runs = {}
    for control in (True, "shuffled_images"):
        output = tmp_path / str(control)
        keys = {"controls.images": control, "train.max_steps": 2}
        assert run(tiny, "grounded_words", output, keys) == 0
        runs[control] = tensors(output / "last")["word_map.safetensors:map"]
    assert not torch.equal(runs[True], runs["shuffled_images"])


# --- the picture world's words


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    sizes = {"num_train_images": 30, "num_dev_images": 8, "num_test_images": 8, "captions_per_image": 2}
    folder = build_world(
        tmp_path_factory.mktemp("world") / "world", config=WorldConfig(num_sentences=1, num_sts_pairs=1, **sizes)
    )
    write_word_files(folder)
    return folder


def test_held_out_words_are_in_no_caption_and_have_vectors(world) -> None:
    spoken = set((world / CAPTIONS).read_text().replace(",", " ").split())
    vectors = load_word_vectors(world / "word_vectors.txt")
    words = visible_words()
    held_out = {word.text for word in words if word.is_held_out}
    assert len(held_out) == 14
    assert len(words) == 42
    assert not held_out & spoken
    assert not {f"{word}s" for word in held_out} & spoken
    assert {word.text for word in words} <= set(vectors.words)
    assert len(spoken & {word.text for word in words}) > 20


def test_gold_is_the_likeness_of_looks() -> None:
    by_text = {word.text: word for word in visible_words()}
    assert look_similarity(by_text["crimson"], by_text["scarlet"]) == pytest.approx(1)
    assert look_similarity(by_text["red"], by_text["circle"]) == 0
    assert look_similarity(by_text["small"], by_text["huge"]) == pytest.approx(-1)
    ring = by_text["ring"]
    assert look_similarity(ring, by_text["circle"]) > look_similarity(ring, by_text["bar"])
    for left in by_text.values():
        assert -1 - 1e-9 <= look_similarity(left, ring) <= 1 + 1e-9
        assert look_similarity(left, ring) == look_similarity(ring, left)


def test_words_follow_the_seed(world) -> None:
    before = (world / "word_vectors.txt").read_bytes()
    write_word_files(world, seed=1)
    assert (world / "word_vectors.txt").read_bytes() != before
    write_word_files(world)
    assert (world / "word_vectors.txt").read_bytes() == before
