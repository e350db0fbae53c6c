"""Files of ``configs/maf/`` build and take two steps on small stand-ins, with their constants."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.fixtures.config_files import CONFIGS, name_of, resolved_of, sentences, take_two_steps
from tests.fixtures.launch import flags_of
from tests.fixtures.tiny_models import build_tiny_bert


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MCSE_DATA", raising=False)


MAF_FILES = sorted((CONFIGS / "maf").glob("*.yaml"))
MAF_PUBLISHED = [path for path in MAF_FILES if path.stem.startswith("twitter")]
# Epochs of the released scripts; MAF's other constants are one set for both.
MAF_EPOCHS = {"twitter2015": 24, "twitter2017": 23}


@pytest.fixture(scope="module")
def tweet_root(tmp_path_factory):
    """Twitter-2015, Twitter-2017 and the tweet world as the configs name them; both Twitter sets hold one batch."""
    root = tmp_path_factory.mktemp("tweets")
    for name, kinds in (("twitter2015", ("OTHER", "PER")), ("twitter2017", ("MISC", "PER")), (".", ("LOC", "PER"))):
        folder = root / name
        folder.mkdir(exist_ok=True)
        lines = sentences(160, seed=11)
        blocks = []
        for number, words in enumerate(line.removesuffix(".").split() for line in lines):
            tags = ["O"] * len(words)
            tags[1] = f"B-{kinds[number % 2]}"
            rows = "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            blocks.append(f"IMGID:{number}\n{rows}\n")
        for split in ("train", "valid", "dev"):
            (folder / f"{split}.txt").write_text("".join(blocks))
        width, regions = (3072, 16) if name == "." else (49 * 8, 49)
        plan = ExtractionPlan(
            names=tuple(f"{number}.jpg" for number in range(160)),
            tower="grid:timm:resnet152.tv_in1k",
            preprocessing="none",
            precision="fp32",
            weights="none",
            width=width,
            regions=regions,
        )
        with FeatureWriter(folder / "regions", plan) as writer:
            writer.append(np.random.default_rng(0).normal(size=(160, width)).astype(np.float32))
            writer.finish()
    return root


def test_maf_has_its_configs():
    names = {f"{data}_bert{text}" for data in MAF_EPOCHS for text in ("", "_text")}
    assert {path.stem for path in MAF_FILES} == names | {"minilm_twitter2015_text_cpu", "scenes_cpu"}


@pytest.mark.parametrize("path", MAF_FILES, ids=name_of)
def test_maf_config_builds_and_takes_two_steps(path, tweet_root, tmp_path):
    encoder = build_tiny_bert(tmp_path / "bert", texts=sentences(200, seed=0), width=48, heads=4)
    keys = {"encoder.name_or_path": encoder, "data.root": tweet_root, "output_dir": tmp_path / "r"}
    config = load_config(path, flags_of(keys))
    run = method("maf").build(config, start_runtime(precision="fp32", seed=config.seed))
    wanted = {"tagging"} | ({"alignment", "matching"} if config.data.images else set())
    for terms in take_two_steps(run):
        assert set(terms) == wanted
    assert config.train.select_by in run.metrics
    rates = {config.optim.learning_rate, config.tagger.learning_rate or config.optim.learning_rate}
    assert {group["lr"] for group in run.optimizer.param_groups} == rates
    regions = {"scenes_cpu": 16}.get(path.stem, 49) if config.data.images else 0
    assert run.model.shape.regions == regions


@pytest.mark.parametrize("path", MAF_PUBLISHED, ids=name_of)
def test_published_maf_config_has_its_constants(path):
    resolved = resolved_of(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    data = path.stem.split("_")[0]
    fixed = {"train.batch_size": 64, "optim.learning_rate": 5e-5, "optim.weight_decay": 0.01, "data.max_length": 128}
    fixed |= {"train.epochs": MAF_EPOCHS[data], "encoder.name_or_path": "google-bert/bert-base-cased", "seed": 37}
    if path.stem.endswith("_text"):
        fixed |= {"data.images": None, "fusion": None, "loss": None}
    else:
        fixed |= {"data.images.features": f"{data}/regions", "loss.tagging_weight": 0.62}
        fixed |= {"loss.alignment.weight": 0.38, "loss.matching.weight": 0.38, "loss.matching.num_swapped": 16}
        fixed |= {"loss.alignment.temperature": 0.179, "loss.alignment.text_to_image_share": 0.7}
        fixed |= {"fusion.heads": 12, "fusion.pooling": "cls", "fusion.image_row": "project_mean"}
        fixed |= {"fusion.standardise": False, "fusion.image_dropout": 0.0, "loss.matching.threshold": 0.0}
    assert {key: resolved.get(key) for key in fixed} == fixed
    steps = {"twitter2015": 4000, "twitter2017": 3373}[data] // 64 * MAF_EPOCHS[data]
    assert resolved["optim.warmup_steps"] == steps // 10
