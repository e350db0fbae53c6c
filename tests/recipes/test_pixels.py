"""Training from pixels: a tower inside the step, frozen or trained, and what the checkpoint keeps of it."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mcse import SentenceEncoder
from mcse.commands.main import main
from mcse.config import ConfigError
from mcse.models.image_tower import FrozenTower, load_image_tower
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.search import Question, open_search
from mcse.training.loop import Loop, total_loss
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch
from tests.fixtures.launch import arguments_of, assert_same_run, entries, losses, one_thread, own_cache, run, tensors
from tests.fixtures.tiny_run import build_tiny_run


def seen_by(tower, *, folder="images", **keys):
    """Image files and the tower that reads them."""
    return {"data.images": {"folder": folder, "tower": tower, **keys}}


PIXELS = seen_by("pixels:4")
VIT = seen_by("timm:test_vit/none")
TRAINED = seen_by("timm:test_vit/none", train=True)
NORMED = seen_by("timm:test_resnet/none")
SHORT = {"train.max_steps": 4, "train.eval_steps": 2, "train.log_steps": 1, "train.batch_size": 6}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, equal_views):
    """A tiny run whose 48 images are images; no dropout, so that two routes can be compared."""
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"), dropout=0.0)
    (folder / "images").mkdir()
    draw = np.random.default_rng(0)
    for number in range(48):
        small = Image.fromarray(draw.integers(256, size=(4, 4, 3), dtype=np.uint8))
        small.resize((40, 32), Image.Resampling.NEAREST).save(folder / "images" / f"{number:04d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert run(tiny, "mcse", folder, TRAINED | SHORT) == 0
    return folder


def build(tiny, keys, *, precision="fp32"):
    """The run that ``keys`` describe, and its configuration."""
    config = load_config(None, arguments_of(tiny, "mcse", tiny / "unused", keys))
    return method("mcse").build(config, start_runtime(precision=precision, seed=config.seed)), config


def built(tiny, keys):
    with one_thread(), own_cache(tiny):
        return build(tiny, keys)


def images_of(tiny, *numbers):
    return [tiny / "images" / f"{number:04d}.png" for number in numbers]


# --- frozen


def test_pixels_read_in_training_are_the_stored_features(tiny, tmp_path):
    store = tiny / "pixels4"
    assert (
        main(["extract-features", "--images", str(tiny / "images"), "--tower", "pixels:4", "--output", str(store)]) == 0
    )
    assert run(tiny, "mcse", tmp_path / "live", PIXELS | SHORT) == 0
    assert run(tiny, "mcse", tmp_path / "stored", {"data.images": "pixels4"} | SHORT) == 0
    assert losses(tmp_path / "live", "loss.text_image")
    assert_same_run(tmp_path / "live", tmp_path / "stored")
    # Both checkpoints know the tower, so both take images.
    rows = [
        SentenceEncoder.from_pretrained(str(tmp_path / name)).encode_images(images_of(tiny, 3, 1))
        for name in ("live", "stored")
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert json.loads((tmp_path / "live" / "best" / "mcse.json").read_text())["images"]["tower"] == "pixels:4"


@pytest.mark.parametrize("keys", [VIT, NORMED], ids=["vit", "batch norm"])
def test_a_frozen_tower_stays_as_it_was(tiny, tmp_path, keys):
    before = load_image_tower(keys["data.images"]["tower"]).digest()
    run_, config = built(tiny, keys)
    model = run_.model.train()
    assert isinstance(model.tower, FrozenTower)
    assert not list(model.tower.parameters())
    assert not any(name.startswith("tower") for name in model.state_dict())
    batch = run_.stream.batch(0)
    assert isinstance(batch, PairBatch)
    assert batch.image_BF.shape == (config.train.batch_size, 3, 160, 160)
    with one_thread():
        total_loss(run_.step(model, batch), device=torch.device("cpu")).backward()
        run_.optimizer.step()
        image_BF = load_image_tower(keys["data.images"]["tower"])(batch.image_BF)
    torch.testing.assert_close(model.tower(batch.image_BF), image_BF)
    run_.export(tmp_path / "checkpoint", {})
    assert not (tmp_path / "checkpoint" / "image_tower.safetensors").exists()
    info = json.loads((tmp_path / "checkpoint" / "mcse.json").read_text())
    assert (info["images"]["tower"], info["images"]["weights"]) == (keys["data.images"]["tower"], before)
    encoder = SentenceEncoder.from_pretrained(str(tmp_path / "checkpoint"))
    first = int(batch.image_id_B[0])
    features = encoder.image_features(images_of(tiny, first))
    np.testing.assert_allclose(features[0], image_BF[0].detach().numpy(), rtol=1e-4, atol=1e-5)


# --- trained


def test_a_trained_tower_learns_and_is_stored(tiny, trained):
    info = json.loads((trained / "last" / "mcse.json").read_text())
    assert (info["images"]["tower"], info["images"]["is_trained"]) == ("timm:test_vit/none", True)
    stored = load_file(trained / "last" / "image_tower.safetensors")
    first = load_image_tower("timm:test_vit/none").state_dict()
    assert stored.keys() == first.keys()
    moved = [name for name in stored if not torch.equal(stored[name], first[name])]
    assert len(moved) > len(stored) / 2
    # What was trained is what was stored.
    state = tensors(max((trained / "state").iterdir()))
    assert all(
        torch.equal(tensor, state[key])
        for name, tensor in stored.items()
        for key in state
        if key.endswith(f"model.safetensors:tower.{name}")
    )
    assert sum("model.safetensors:tower." in key for key in state) == len(stored)


def test_images_are_encoded_through_the_stored_tower(tiny, trained):
    encoder = SentenceEncoder.from_pretrained(str(trained / "last"))
    assert encoder.image_tower == "timm:test_vit/none"
    paths = images_of(tiny, 4, 0, 7)
    rows = encoder.encode_images([str(paths[0]), paths[1], Image.open(paths[2])], batch_size=2)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    # By hand, from the files.
    tower = load_image_tower("timm:test_vit/none")
    tower.load_state_dict(load_file(trained / "last" / "image_tower.safetensors"))
    heads = load_file(trained / "last" / "heads.safetensors")
    with torch.no_grad():
        pixels = torch.stack([tower.preprocess(Image.open(path).convert("RGB")) for path in paths])
        joint = torch.tanh(tower(pixels) @ heads["image_head.linear.weight"].T + heads["image_head.linear.bias"])
    expected = nn.functional.normalize(joint, dim=-1).numpy()
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    # The features of that tower are what encode_image_features takes.
    np.testing.assert_allclose(encoder.encode_image_features(encoder.image_features(paths)), rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(paths[1]), rows[1:2], rtol=1e-4, atol=1e-5)
    assert encoder.encode_images([]).shape == (0, rows.shape[1])


def test_images_are_searched_by_an_mcse_run(tiny, trained, tmp_path, capsys):
    index = tmp_path / "index"
    with one_thread(), own_cache(tiny):
        command = ["search", "index", str(tiny / "images"), "--model", str(trained), "--output", str(index)]
        assert main(command) == 0
        search = open_search(index)
        sentence = "the dog runs in the park number 3"
        found = search.ask(Question(text=sentence, plus=("cat",), top=3)).hits
    encoder = SentenceEncoder.from_pretrained(str(trained))
    rows = encoder.encode_images(images_of(tiny, *range(48)))
    query = encoder.encode_captions([sentence])[0] + encoder.encode_captions(["cat"])[0]
    best = np.argsort(-rows @ query, kind="stable")[:3]
    assert [hit.text for hit in found] == [f"{number:04d}.png" for number in best]
    np.testing.assert_allclose([hit.score for hit in found], rows[best] @ query / np.linalg.norm(query), atol=1e-5)


def test_wrong_images_and_features_are_refused_by_name(tiny, trained, tmp_path):
    encoder = SentenceEncoder.from_pretrained(str(trained / "last"))
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match=r"images\[1\], .*no\.png: cannot be read"):
        encoder.encode_images([images_of(tiny, 0)[0], tmp_path / "no.png"])
    with pytest.raises(ValueError, match=r"images\[0\], .*absent\.png: no such file"):
        encoder.encode_images(str(tmp_path / "absent.png"))
    with pytest.raises(ValueError, match=r"images\[0\] is a int, neither a path nor a PIL image"):
        encoder.encode_images([3])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encoder.encode_images(images_of(tiny, 0), batch_size=0)
    with pytest.raises(ValueError, match=r"\(2, 5\); .* was trained on \(N, 64\) features of timm:test_vit/none"):
        encoder.encode_image_features(np.zeros((2, 5), dtype=np.float32))
    plain = SentenceEncoder.from_pretrained(str(tiny / "bert"), pooling="cls")
    with pytest.raises(ValueError, match="no image heads"):
        plain.encode_images(images_of(tiny, 0))
    with pytest.raises(ValueError, match="knows no image tower"):
        plain.image_features(images_of(tiny, 0))


def test_features_that_do_not_say_their_tower_take_no_images(tiny, tmp_path):
    assert run(tiny, "mcse", tmp_path / "run", SHORT | {"train.max_steps": 1, "train.eval_steps": 1}) == 0
    encoder = SentenceEncoder.from_pretrained(str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"mcse\.json names no image tower .*, so give features, not images"):
        encoder.encode_images(images_of(tiny, 0))


def test_a_trained_tower_has_a_rate_of_its_own(tiny):
    run_, config = built(tiny, TRAINED | {"data.images.learning_rate": 1e-5, "optim.weight_decay": 0.1})
    rates = {id(p): group["lr"] for group in run_.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(run_.model.parameters()))
    for name, parameter in run_.model.named_parameters():
        assert rates[id(parameter)] == (1e-5 if name.startswith("tower.") else config.optim.learning_rate), name
    decays = {group["lr"]: group["weight_decay"] for group in run_.optimizer.param_groups if group["weight_decay"]}
    assert decays == {1e-5: 0.1, config.optim.learning_rate: 0.1}
    same, _ = built(tiny, TRAINED)
    assert {group["lr"] for group in same.optimizer.param_groups} == {config.optim.learning_rate}


def test_batch_statistics_of_a_trained_tower_are_trained_and_stored(tiny, tmp_path):
    run_, _ = built(tiny, NORMED | {"data.images.train": True})
    model = run_.model.train()
    with one_thread():
        run_.step(model, run_.stream.batch(0))
    run_.export(tmp_path / "checkpoint", {})
    stored = load_file(tmp_path / "checkpoint" / "image_tower.safetensors")
    first = load_image_tower(NORMED["data.images"]["tower"]).state_dict()
    means = [name for name in stored if name.endswith("running_mean")]
    assert means
    assert all(not torch.equal(stored[name], first[name]) for name in means)


def test_resuming_goes_on_with_the_same_tower(tiny, tmp_path, monkeypatch):
    assert run(tiny, "mcse", tmp_path / "straight", TRAINED | SHORT) == 0
    plain = Loop._step

    def signalled(self, *rest):
        plain(self, *rest)
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", signalled)
        assert run(tiny, "mcse", tmp_path / "broken", TRAINED | SHORT) == 143
    assert run(tiny, "mcse", tmp_path / "broken", TRAINED | SHORT | {"train.resume": "auto"}) == 0
    assert [entry for entry in entries(tmp_path / "broken") if "loss" in entry] == [
        entry for entry in entries(tmp_path / "straight") if "loss" in entry
    ]
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


# --- bad images


@pytest.fixture
def spoilt(tmp_path, equal_views):
    folder = build_tiny_run(tmp_path / "spoilt", dropout=0.0)
    (folder / "images").mkdir()
    for number in range(48):
        Image.new("RGB", (8, 8), (5 * number, 0, 0)).save(folder / "images" / f"{number:04d}.png")
    (folder / "images" / "0005.png").write_bytes(b"\x89PNG")
    (folder / "images" / "0030.png").unlink()
    return folder


def test_a_bad_image_stops_the_run_before_it_begins(spoilt, tmp_path, capsys):
    assert run(spoilt, "mcse", tmp_path / "run", PIXELS | SHORT) == 2
    said = capsys.readouterr().err
    assert "2 of 48 images are missing or cannot be read, first: image" in said
    assert "0005.png: cannot be read" in said
    assert "data.images.on_bad skip" in said
    assert not (tmp_path / "run").exists()


def test_bad_images_are_skipped_counted_and_listed(spoilt, tmp_path, capsys, caplog):
    assert run(spoilt, "mcse", tmp_path / "run", PIXELS | SHORT | {"data.images.on_bad": "skip"}) == 0
    assert "left out 2 images of" in caplog.text
    assert "0005.png, 0030.png" in caplog.text
    run_, _ = built(spoilt, PIXELS | {"data.images.on_bad": "skip"})
    assert (run_.facts["images"], run_.facts["images left out"]) == (46, 2)
    assert run_.facts["image tower"] == "pixels:4, frozen"
    assert [file.role for file in run_.data][:3] == ["sentences", "captions", "images"]


# --- keys

REFUSED = {
    "features and tower": (
        {"data.images.folder": "images", "data.images.tower": "pixels:4"},
        "data.images: given as 'features.hdf5', and by its key 'folder'",
    ),
    "features beside a tower": (
        {"data.images": {"features": "f", "folder": "images", "tower": "pixels:4"}},
        "data.images: features and folder exclude each other; give one of them",
    ),
    "neither": (
        {"data.images": None},
        "data.images: expected one of {features, folder, table, shards: features, shards: images",
    ),
    "tower without images": (
        {"data.images": {"tower": "pixels:4"}},
        "data.images: give one of features, folder, table, shards: features or shards: images; got 'tower'",
    ),
    "images without tower": (
        {"data.images": {"folder": "images"}},
        r"missing key 'data.images.tower' \(As mcse extract-features --tower names it",
    ),
    "training no tower": (
        {"data.images.train": True},
        "unknown key 'data.images.train'; it goes with folder, table or shards: images, not with features",
    ),
    "rate of a frozen tower": (
        PIXELS | {"data.images.learning_rate": 1e-4},
        "data.images.learning_rate: the image encoder is frozen; give data.images.train true",
    ),
    "rate of zero": (TRAINED | {"data.images.learning_rate": 0}, "data.images.learning_rate: must be positive"),
    "mixing captions alone": (
        {"data.sentences": None},
        "mix: would do nothing, since there is no data.sentences to mix",
    ),
    "a beat of the published schedule": (
        {"mix.schedule": "mcse", "mix.pair_every": 3},
        "unknown key 'mix.pair_every'; it goes with schedule: every, not with schedule: mcse",
    ),
    "misspelt": (
        PIXELS | {"data.images.towr": "x"},
        "unknown key 'data.images.towr'; did you mean 'data.images.tower'?",
    ),
    "a tower of its own": ({"image.tower": "x"}, "unknown key 'image.tower'; did you mean 'data.images.tower'"),
    "shards without shards": (
        {"data.images": {"shards": "features"}},
        "data.captions, data.images: captions in shards have their images beside them",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_keys_that_do_not_go_together_are_refused(tiny, case):
    keys, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        load_config(None, arguments_of(tiny, "mcse", tiny / "unused", keys))


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (PIXELS | {"data.images.train": True}, ValueError, "data.images.train: pixels:4 has no weights to train"),
        (seen_by("open_clip:local-dir:/clip", train=True), ValueError, "a checkpoint names its tower by a tag; give"),
        (seen_by("timm:resnet5"), ValueError, "unknown model 'resnet5'"),
        (seen_by("pixels:4", folder="absent"), FileNotFoundError, "data.images.folder: no folder at .*; relative"),
        (seen_by("pixels:4", folder="bert"), ValueError, "no images in it"),
    ],
)
def test_towers_and_images_that_cannot_be_had_are_refused_at_build(tiny, keys, error, message):
    with pytest.raises(error, match=message):
        built(tiny, keys)


CAPTIONS = {"data.captions": "captions.csv"}
SIMCSE_REFUSED = {
    "stored features": (
        CAPTIONS | {"data.images": "f"},
        "unknown key 'data.images'; did you mean 'data.captions.images'",
    ),
    "images": (CAPTIONS | {"data.images.folder": "p"}, "unknown key 'data.images.folder'"),
    "bad images": (
        CAPTIONS | {"data.captions.on_bad": "skip"},
        "unknown key 'data.captions.on_bad'; it goes with shards, not with file",
    ),
    "a list of images": (
        {"data.captions.images": "i.txt"},
        "data.captions: give one of shards, hub, table or file; got 'images'",
    ),
    "captions an image": (
        {"data.captions.per_image": "all"},
        "data.captions: give one of shards, hub, table or file; got 'per_image'",
    ),
    "pairs": ({"controls.num_pairs": 4}, "controls.num_pairs: 4 would do nothing, since there is no data.captions"),
    "shuffled": (CAPTIONS | {"controls.images": "random"}, "unknown key 'controls.images'"),
    "schedule": ({"mix.schedule": "every"}, "mix: would do nothing, since there is no data.captions to mix"),
    "beat": (CAPTIONS | {"mix.pair_every": 3}, "mix: give one of schedule: mcse or schedule: every; got 'pair_every'"),
    "schedule of captions": (
        CAPTIONS | {"data.sentences": None, "mix.schedule": "every"},
        "mix: would do nothing, since there is no data.sentences to mix",
    ),
    "supervised captions": (
        CAPTIONS | {"data.sentences": "nli.csv"},
        "data.sentences, data.captions: a table of hard negatives cannot be mixed with captions",
    ),
    "neither": ({"data.sentences": None}, "data.sentences, data.captions: give at least one of them"),
}


@pytest.mark.parametrize("case", SIMCSE_REFUSED)
def test_simcse_refuses_what_would_do_nothing(tiny, case):
    keys, message = SIMCSE_REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        load_config(None, arguments_of(tiny, "simcse", tiny / "unused", keys))


@pytest.mark.parametrize("keys", [{}, CAPTIONS, CAPTIONS | {"data.sentences": None}], ids=["text", "both", "captions"])
def test_a_hard_negative_weight_needs_hard_negatives(tiny, tmp_path, capsys, keys):
    assert run(tiny, "simcse", tmp_path / "run", keys | {"loss.hard_negative_weight": 0.5}) == 2
    assert (
        "loss.hard_negative_weight: 0.5 would do nothing, since there are no hard negatives" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
