"""Recipe ``unpaired``: without images it is SimCSE, what it exports, what it says at the start and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from mcse.commands.main import main
from mcse.data.images.views import ImagesWithClasses
from mcse.encoders.loading import load_encoder
from mcse.manifest import Manifest
from mcse.reading import read_json
from mcse.recipes.launch import load_config
from mcse.recipes.unpaired.config import LossConfig
from mcse.recipes.unpaired.method import label_images, own_class_share
from tests.fixtures.launch import arguments_of, entries, flags_of, losses, own_cache, run, tensors
from tests.fixtures.tiny_run import build_tiny_run

# Unclipped: a norm sums in another order when the images' zeros stand among the terms, 1e-7 apart.
KEYS = {"train.log_steps": 1, "optim.max_grad_norm": 1e9}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def simcse(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simcse") / "run"
    assert run(tiny, "simcse", folder, KEYS) == 0
    return folder


def same_text(ours, theirs):
    left, right = tensors(ours / "last"), tensors(theirs / "last")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize("contrast", ["supervised", "as_published"])
def test_at_weight_zero_it_is_simcse_bit_for_bit(contrast, tiny, simcse, tmp_path):
    keys = KEYS | {"loss.contrast": contrast, "image.learning_rate": 1e-2}
    assert run(tiny, "unpaired", tmp_path / "dark", keys | {"loss.image_weight": 0}) == 0
    assert losses(tmp_path / "dark") == losses(simcse)
    assert same_text(tmp_path / "dark", simcse)
    assert len(losses(tmp_path / "dark", "loss.image_image")) == 6
    assert run(tiny, "unpaired", tmp_path / "lit", keys) == 0
    assert losses(tmp_path / "lit")[0] != losses(simcse)[0]
    assert not same_text(tmp_path / "lit", simcse)


def test_without_images_it_is_simcse_bit_for_bit_clipping_included(tiny, tmp_path):
    keys = {"train.log_steps": 1, "optim.max_grad_norm": 0.1}
    shutil.copytree(tiny, tmp_path / "data", ignore=shutil.ignore_patterns("photos", "cache"))
    given = {"loss.contrast": "none", "encoder.name_or_path": tiny / "bert"}
    assert run(tmp_path / "data", "unpaired", tmp_path / "none", keys | given) == 0
    assert run(tiny, "simcse", tmp_path / "simcse", keys) == 0
    assert entries(tmp_path / "none") == entries(tmp_path / "simcse")
    assert same_text(tmp_path / "none", tmp_path / "simcse")


def test_the_weight_counts(tiny, tmp_path):
    """One optimizer: a tenth of the weight moves what only images move as far, but the shared layers otherwise."""
    found = {}
    for weight in (0.05, 0.5):
        assert run(tiny, "unpaired", tmp_path / str(weight), KEYS | {"loss.image_weight": weight}) == 0
        found[weight] = tensors(tmp_path / str(weight) / "last")
    name = "model.safetensors:encoder.layer.1.output.dense.weight"
    start = tensors(tiny / "bert")["model.safetensors:bert.encoder.layer.1.output.dense.weight"]
    moved = (found[0.05][name] - start).abs().mean()
    assert (found[0.5][name] - found[0.05][name]).abs().mean() > 0.05 * moved
    terms = [losses(tmp_path / str(weight), "loss.image_image")[0] for weight in found]
    assert terms[0] == pytest.approx(terms[1])


def test_a_checkpoint_is_the_text_encoder_alone(tiny, simcse, tmp_path):
    assert run(tiny, "unpaired", tmp_path / "run") == 0
    best = tmp_path / "run" / "best"
    assert tensors(best).keys() == tensors(simcse / "best").keys()
    assert {path.name for path in best.iterdir()} == {path.name for path in (simcse / "best").iterdir()}
    assert {name for name in tensors(best) if "heads" in name} == {
        name for name in tensors(best) if "text_head" in name
    }
    manifest = read_json(best / "mcse.json", Manifest)
    assert (manifest.recipe, manifest.images) == ("unpaired", None)
    assert load_encoder(str(best)).encode(["the dog runs"]).shape == (1, 32)
    state = tensors(tmp_path / "run" / "state")
    assert any("embeddings.projection" in name for name in state)
    assert any("image_head" in name for name in state)


def test_in_half_precision(tiny, tmp_path):
    assert run(tiny, "unpaired", tmp_path / "run", {"train.precision": "bf16", "train.log_steps": 1}) == 0
    assert run(tiny, "unpaired", tmp_path / "wide", {"train.log_steps": 1}) == 0
    for name in ("loss.text_text", "loss.image_image"):
        found, wanted = (losses(tmp_path / folder, name) for folder in ("run", "wide"))
        assert found[0] == pytest.approx(wanted[0], rel=0.02)
        assert np.isfinite(found).all()


def test_with_adapters_checkpointing_and_a_vits_embeddings(tiny, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    keys = {"image.embeddings": tmp_path / "vit", "image.patch_size": ..., "image.size": 32}
    assert run(tiny, "unpaired", tmp_path / "plain", keys | KEYS) == 0
    assert run(tiny, "unpaired", tmp_path / "again", keys | KEYS | {"encoder.gradient_checkpointing": True}) == 0
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "again"), rel=1e-5)
    adapters = {"encoder.lora": {"rank": 3, "modules": ["query", "value"]}}
    assert run(tiny, "unpaired", tmp_path / "adapters", keys | adapters) == 0


# --- what is said


def test_the_start_says_what_images_there_are(tiny, tmp_path):
    assert run(tiny, "unpaired", tmp_path / "run") == 0
    whole = json.loads((tmp_path / "run" / "run.json").read_text())
    facts = whole["facts"]
    assert (facts["images"], facts["image classes"], facts["views a step"]) == (48, 6, 16)
    # The chance that none of the 7 others is one of the 7 of its class, among 47.
    alone = np.prod([(40 - k) / (47 - k) for k in range(7)])
    assert float(facts["images with a positive of their class"].split()[0]) == pytest.approx(100 * (1 - alone), abs=2)
    (file,) = [file for file in whole["data"] if file["role"] == "images"]
    assert file["path"].endswith("photos")


def test_four_in_a_hundred_published_positives_are_of_their_class():
    """60 classes of 500 images in batches of 48, as VisualCSE trains."""
    classes = np.repeat(np.arange(60), 500)
    assert own_class_share(classes, classes, "as_published", size=48, seed=0) == pytest.approx(0.038, abs=0.006)
    wanted = 1 - np.prod([(29_500 - k) / (29_999 - k) for k in range(47)])
    assert own_class_share(classes, classes, "supervised", size=48, seed=0) == pytest.approx(wanted, abs=0.02)
    assert own_class_share(classes, np.arange(30_000), "simclr", size=48, seed=0) == 0


def images_of(classes):
    rows = np.arange(len(classes))
    return ImagesWithClasses(None, rows, tuple("abc"), np.asarray(classes), origin="here", num_bare=0, num_left_out=0)


def test_random_labels_are_the_classes_dealt_anew_or_drawn():
    images = images_of([0] * 50 + [1] * 30 + [2] * 20)

    def labels(seed, **keys):
        return label_images(images, LossConfig(image_weight=1.0, **keys), seed=seed)

    dealt = labels(3, contrast="random_labels")
    assert np.bincount(dealt).tolist() == [50, 30, 20]
    assert (dealt != images.class_of_image).mean() > 0.4
    assert np.array_equal(dealt, labels(3, contrast="random_labels"))
    assert not np.array_equal(dealt, labels(4, contrast="random_labels"))
    drawn = labels(3, contrast="random_labels", random_classes=7)
    assert set(drawn) == set(range(7))
    assert np.array_equal(labels(3, contrast="supervised"), images.class_of_image)
    assert len(set(labels(3, contrast="simclr"))) == 100


# --- what is refused


def flat_images(tiny, folder):
    folder.mkdir()
    for path in (tiny / "photos").rglob("*.png"):
        shutil.copy(path, folder / f"{path.parent.name}_{path.name}")
    return folder


def test_any_folder_serves_simclr_and_drawn_labels(tiny, tmp_path, capsys):
    keys = {"data.images": flat_images(tiny, tmp_path / "flat")}
    for number, more in enumerate(
        ({"loss.contrast": "simclr"}, {"loss.random_classes": 5, "loss.contrast": "random_labels"})
    ):
        assert run(tiny, "unpaired", tmp_path / str(number), keys | more) == 0
        facts = json.loads((tmp_path / str(number) / "run.json").read_text())["facts"]
        assert "image classes" not in facts
    for contrast in ("supervised", "as_published", "random_labels"):
        assert run(tiny, "unpaired", tmp_path / contrast, keys | {"loss.contrast": contrast}) != 0
        said = capsys.readouterr().err
        assert f"loss.contrast: {contrast} needs a folder for each of at least two classes, but 48 of the 48" in said


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train.cached_chunk_size": 4}, "train.cached_chunk_size: a step has sentences and images"),
        ({"data.captions": "captions.csv"}, "data.captions: the images of this recipe belong to no text"),
        ({"encoder.frozen": True}, "encoder.frozen: true leaves no layers"),
        ({"image.embeddings": "x"}, "image.patch_size: would do nothing"),
        ({"image.size": 20}, "image.size: 20 is no multiple of image.patch_size 8"),
        ({"image.batch_size": 1}, "image.batch_size: 1 image has no other"),
        ({"loss.random_classes": 3}, "loss.random_classes: would do nothing"),
        ({"loss.image_weight": -1}, "loss.image_weight: must be 0 or more"),
        ({"loss.image_temperature": 0}, "loss.image_temperature: must be positive"),
        ({"loss.contrast": "supcon"}, "loss.contrast"),
    ],
)
def test_wrong_keys_are_refused_by_name(keys, message, tiny, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_config(None, arguments_of(tiny, "unpaired", tmp_path / "run", keys))


def test_a_changed_image_stops_a_run_that_would_go_on(tiny, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny, data, ignore=shutil.ignore_patterns("cache"))
    keys = {"train.resume": "auto"}
    assert run(data, "unpaired", tmp_path / "run", keys) == 0
    first, second = sorted((data / "photos" / "cat").iterdir())[:2]
    shutil.copy(first, second)
    assert run(data, "unpaired", tmp_path / "run", keys | {"train.max_steps": 8}) != 0
    said = capsys.readouterr().err
    assert "images" in said
    assert str(data / "photos") in said


def test_a_dry_run_foresees_it(tiny, tmp_path, capsys):
    with own_cache(tiny):
        assert main(["train", *flags_of({}), *arguments_of(tiny, "unpaired", tmp_path / "run"), "--dry-run"]) == 0
    assert "views a step" in capsys.readouterr().out
