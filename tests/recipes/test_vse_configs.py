"""Every file of ``configs/vse`` builds and takes two steps on small stand-ins in the formats that it names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mcse.config import build_config, merge, read_overrides, read_yaml
from mcse.recipes.vse import method
from mcse.recipes.vse.config import Config
from mcse.training.config import count_steps
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.config_files import CONFIGS, resolved_of, sentences, write_store
from tests.fixtures.launch import one_thread

FILES = sorted((CONFIGS / "vse").glob("*.yaml"))
PUBLISHED = [path for path in FILES if not path.stem.endswith("_cpu")]
REPLACED = {"data.root", "output_dir"}
IMAGES = 120
"""Of a stand-in; 200 or 500 of them cannot be held out, so that 20 are."""

# Kind, word width, joint width, batch, rate, epochs, negatives, unit image rows: what each source is known to have.
CODE = ("gru", 300, 1024, 128, 2e-4, 15, "sum", False)
PUBLISHED_SETTINGS = {
    "flickr8k_gru": CODE,
    "flickr30k_gru": CODE,
    "coco_gru": CODE,
    "flickr8k_lstm": ("lstm", 300, 300, 40, 1.0, 15, "sum", True),
    "flickr30k_lstm": ("lstm", 300, 300, 100, 1.0, 15, "sum", True),
    "flickr8k_max_violation": ("gru", 300, 1024, 128, 2e-4, 30, "hardest", True),
    "flickr30k_max_violation": ("gru", 300, 1024, 128, 2e-4, 30, "hardest", True),
    "coco_max_violation": ("gru", 300, 1024, 128, 2e-4, 30, "hardest", True),
}


def name_of(path: Path) -> str:
    return path.stem


def write_karpathy(folder: Path, name: str) -> None:
    """Karpathy's JSON with his splits, and stores of both towers."""
    folder.mkdir()
    splits = {0: "val", 1: "test", 2: "restval"} if name == "coco" else {0: "val", 1: "test"}
    names = [f"{number:012d}.jpg" for number in range(IMAGES)]
    images = [
        {"filename": image, "split": splits.get(number % 8, "train"), "sentences": [{"raw": raw} for raw in raws]}
        for number, image in enumerate(names)
        for raws in [sentences(5, seed=number)]
    ]
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
    for store, width in (("vgg19", 24), ("resnet152", 20)):
        write_store(folder / store, names, width=width)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("flickr8k", "flickr30k", "coco"):
        write_karpathy(root / name, name)
    names = [f"{number:012d}.jpg" for number in range(IMAGES)]
    rows = [f"{image},{text}" for number, image in enumerate(names) for text in sentences(5, seed=number)]
    (root / "flickr8k" / "captions.txt").write_text("image,caption\n" + "\n".join(rows) + "\n")
    (root / "flickr8k" / "train_images.txt").write_text("\n".join(names[:100]) + "\n")
    with h5py.File(root / "flickr8k" / "mobilenetv1_features.hdf5", "w") as file:
        file["features"] = np.random.default_rng(0).normal(size=(IMAGES, 768)).astype(np.float32)
        file["image_names"] = names
    (root / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    (root / "train_images.txt").write_text("\n".join(names[:100]) + "\n")
    write_store(root / "features", names, width=24)
    (root / "wordvec").mkdir()
    words = sorted({word.strip(".").lower() for text in sentences(200, seed=1) for word in text.split()} - {"number"})
    draw = np.random.default_rng(0)
    with gzip.open(root / "wordvec" / "glove.100d.10k.txt.gz", "wt") as file:
        file.writelines(f"{word} {' '.join(f'{x:.3f}' for x in draw.normal(size=100))}\n" for word in words)
    return root


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MCSE_DATA", raising=False)


def resolve(path, *, root, output):
    tree = read_yaml(path)
    overrides = {"data.root": root, "output_dir": output}
    if tree["data"]["dev_images"] in (200, 500):
        overrides["data.dev_images"] = 20
    flags = [text for key, value in overrides.items() for text in (f"--{key}", str(value))]
    return build_config(Config, merge(tree, read_overrides(flags)), source=str(path))


def test_all_published_runs_have_a_config():
    assert {name_of(path) for path in PUBLISHED} == PUBLISHED_SETTINGS.keys()
    assert len(FILES) == len(PUBLISHED) + 4


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_builds_and_takes_two_steps(path, root, tmp_path):
    config = resolve(path, root=root, output=tmp_path / "run")
    with one_thread():
        runtime = start_runtime(precision="fp32", seed=config.seed)
        run = method.build(config, runtime)
        before = [parameter.detach().clone() for parameter in run.model.parameters() if parameter.requires_grad]
        run.model.train()
        for step in (0, 1):
            batch = run.stream.batch(step)
            assert len(batch.caption) == config.train.batch_size
            loss = total_loss(run.step(run.model, batch), device=runtime.device)
            assert torch.isfinite(loss)
            assert loss > 0
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
    after = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert all(moved)
    assert config.train.select_by in run.metrics
    assert run.facts["held-out images"] == (20 if config.data.dev_images == 20 else 15)
    assert count_steps(config.train, steps_per_epoch=run.stream.steps_per_epoch) >= 2


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_headers_and_names(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    parts = ("# Table: ", "# Expected: ", "# Hardware: ")
    for part in (*parts, "# Data: ", "# Unsure: ") if path in PUBLISHED else parts:
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    assert read_yaml(path)["output_dir"] == f"runs/vse_{path.stem.removesuffix('_cpu')}"


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_config_has_the_published_constants(path):
    resolved = resolved_of(path)
    kind, words, dim, batch, rate, epochs, negatives, unit_images = PUBLISHED_SETTINGS[path.stem]
    expected = {
        "encoder.kind": kind,
        "encoder.word_dim": words,
        "joint.dim": dim,
        "joint.image_map": "linear_without_bias" if kind == "lstm" else "linear",
        "joint.unit_features": negatives != "hardest",
        "train.batch_size": batch,
        "optim.learning_rate": rate,
        "train.epochs": epochs,
        "loss.negatives": negatives,
        "loss.unit_images": unit_images,
        "loss.kind": "ranking",
        "loss.margin": 0.2,
        "loss.reduction": "sum",
        "optim.max_grad_norm": 2.0,
        "optim.weight_decay": 0.0,
        "data.captions.per_image": "all",
        "data.max_length": 100,
        "train.select_by": "retrieval.rsum",
    }
    assert {key: resolved[key] for key in expected} == expected
    assert (resolved["optim.optimizer"] == "sgd") == (kind == "lstm")
    assert (resolved["encoder.init_range"] == 0.08) == (kind == "lstm")
    assert (resolved["encoder.min_count"] == 4) == (negatives == "hardest")
