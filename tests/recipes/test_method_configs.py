"""Files of ``configs/`` for diffcse, mlm and unpaired build and take two steps on stand-ins, with their constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from mcse.config import read_yaml
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.fixtures.config_files import (
    CONFIGS,
    hub_file,
    name_of,
    published_data,
    resolved_of,
    sentences,
    stand_in_encoders,
    take_two_steps,
)
from tests.fixtures.launch import flags_of
from tests.fixtures.tiny_models import build_tiny_bert


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return published_data(tmp_path_factory)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return stand_in_encoders(tmp_path_factory)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MCSE_DATA", raising=False)


# --- diffcse

DIFFCSE_FILES = sorted((CONFIGS / "diffcse").glob("*.yaml"))
# Encoder, generator, learning rate, share of masked words. RoBERTa's last two are from memory of the paper.
DIFFCSE_TABLE = {
    "bert_base": ("google-bert/bert-base-uncased", "distilbert/distilbert-base-uncased", 7e-6, 0.3),
    "roberta_base": ("FacebookAI/roberta-base", "distilbert/distilroberta-base", 1e-5, 0.2),
}


def test_diffcse_has_its_configs():
    assert {path.stem for path in DIFFCSE_FILES} == set(DIFFCSE_TABLE)


@pytest.mark.parametrize("path", DIFFCSE_FILES, ids=name_of)
def test_diffcse_config_builds_and_takes_two_steps(path, root, encoders, tmp_path):
    model = encoders[DIFFCSE_TABLE[path.stem][0]]
    keys = {"encoder.name_or_path": model, "generator.name_or_path": model, "data.root": root}
    config = load_config(path, flags_of(keys | {"output_dir": tmp_path / "run"}))
    run = method("diffcse").build(config, start_runtime(precision="fp32", seed=config.seed))
    for terms in take_two_steps(run):
        assert set(terms) == {"text_text", "rtd", "rtd_replaced"}
    assert config.train.select_by in run.metrics


@pytest.mark.parametrize("path", DIFFCSE_FILES, ids=name_of)
def test_diffcse_config_has_its_constants(path):
    resolved = resolved_of(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Source: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    encoder, generator, rate, masked = DIFFCSE_TABLE[path.stem]
    fixed = {"encoder.name_or_path": encoder, "encoder.pooling": "cls", "head": "batch_norm"}
    fixed |= {"generator.name_or_path": generator, "generator.dropout": True, "generator.mask_share": masked}
    fixed |= {"loss.temperature": 0.05, "loss.rtd_weight": 0.005, "loss.rtd_reduction": "all"}
    fixed |= {"loss.stop_gradient": False, "data.sentences.file": hub_file("wiki1m"), "data.max_length": 32}
    fixed |= {"optim.learning_rate": rate, "optim.optimizer": "adamw", "optim.schedule": "linear"}
    fixed |= {"optim.weight_decay": 0.0, "optim.warmup_steps": 0, "optim.max_grad_norm": 1.0, "optim.epsilon": 1e-8}
    fixed |= {"train.batch_size": 64, "train.epochs": 2, "train.eval_steps": 125, "train.precision": "fp16"}
    assert {key: resolved.get(key) for key in fixed} == fixed


# --- mlm

MLM_FILES = sorted((CONFIGS / "mlm").glob("*.yaml"))


@pytest.mark.parametrize("path", MLM_FILES, ids=name_of)
def test_mlm_config_builds_and_takes_two_steps(path, root, encoders, tmp_path):
    keys = {"data.sentences": root / "wiki" / "wiki_sentences_300k.txt.gz", "output_dir": tmp_path / "run"}
    tree = read_yaml(path)
    if name := tree["encoder"].get("name_or_path"):
        keys |= {"encoder.name_or_path": encoders[name], "data.max_length": 64}
    config = load_config(path, flags_of(keys | {"data.dev_share": 0.1}))
    run = method("mlm").build(config, start_runtime(precision="fp32", seed=config.seed))
    take_two_steps(run)
    assert config.train.select_by in run.metrics


def test_mlm_configs_have_their_constants():
    resolved = {path.stem: resolved_of(path) for path in MLM_FILES}
    assert set(resolved) == {"wiki_mini_cpu", "minilm_own_text_cpu", "roberta_base_dapt"}
    masks = {"loss.mask_share": 0.15, "loss.whole_word": False, "train.select_by": "dev.perplexity"}
    for own in resolved.values():
        assert {key: own[key] for key in masks} == masks
    sizes = {"vocabulary_size": 8000, "layers": 4, "width": 256, "heads": 4, "inner_width": 1024, "positions": 128}
    wiki = {f"encoder.scratch.{key}": value for key, value in sizes.items()}
    wiki |= {"encoder.packing": "auto", "encoder.pooling": "mean", "data.max_length": 128, "encoder.dropout": None}
    assert {key: resolved["wiki_mini_cpu"].get(key) for key in wiki} == wiki
    fixed = {"optim.learning_rate": 5e-4, "optim.weight_decay": 0.01, "optim.warmup_steps": 750, "optim.beta1": 0.9}
    fixed |= {"optim.beta2": 0.98, "optim.epsilon": 1e-6, "optim.schedule": "linear", "train.max_steps": 12_500}
    fixed |= {"encoder.name_or_path": "FacebookAI/roberta-base", "data.max_length": 512}
    dapt = resolved["roberta_base_dapt"]
    assert {key: dapt.get(key) for key in fixed} == fixed
    assert dapt["train.batch_size"] * dapt["train.accumulation_steps"] == 2048


# --- unpaired

UNPAIRED_FILES = sorted((CONFIGS / "unpaired").glob("*.yaml"))
# Encoder, its rate and batch, weight of images: run_unsup_example.sh and the README's two commands.
UNPAIRED_TABLE = {
    "bert_base": ("google-bert/bert-base-uncased", 3e-5, 64, 0.05),
    "roberta_base": ("FacebookAI/roberta-base", 2e-5, 128, 0.2),
}


@pytest.fixture(scope="module")
def image_root(root):
    """Images as the configs of ``unpaired`` name them: class folders, photographs, and the picture world's."""
    draw = np.random.default_rng(0)
    for folder, count in (
        ("sampled-Imagenet/n1", 25),
        ("sampled-Imagenet/n2", 25),
        ("flickr8k/images", 50),
        ("images", 50),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            colour_HW3 = draw.integers(0, 256, (18, 24, 3), dtype=np.uint8)
            Image.fromarray(colour_HW3).save(root / folder / f"{number}.png")
    (root / "train_images.txt").write_text("".join(f"{number}.png\n" for number in range(48)))
    (root / "sentences.txt").write_text("\n".join(sentences(200, seed=21)) + "\n")
    (root / "sts").mkdir()
    pairs = zip(sentences(20, seed=22), sentences(20, seed=23), strict=True)
    (root / "sts" / "dev.tsv").write_text(
        "".join(f"{row % 6}\t{left}\t{right}\n" for row, (left, right) in enumerate(pairs))
    )
    return root


def test_unpaired_has_its_configs():
    assert {path.stem for path in UNPAIRED_FILES} == {*UNPAIRED_TABLE, "minilm_wiki_flickr8k_cpu", "scenes_cpu"}


@pytest.mark.parametrize("path", UNPAIRED_FILES, ids=name_of)
def test_unpaired_config_builds_and_takes_two_steps(path, image_root, encoders, tmp_path):
    """A published run's ViT is as wide as the stand-in of its encoder; its views, 224 wide, are the published ones."""
    resolved = resolved_of(path)
    name = resolved["encoder.name_or_path"]
    encoder = encoders[name] if name in encoders else build_tiny_bert(tmp_path / "bert", texts=sentences(100, seed=0))
    keys = {"encoder.name_or_path": encoder, "data.root": image_root, "output_dir": tmp_path / "run"}
    if resolved["image.embeddings"] is not None:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
        ViTModel(ViTConfig(**sizes, image_size=224, patch_size=16)).save_pretrained(tmp_path / "vit")
        keys["image.embeddings"] = tmp_path / "vit"
    config = load_config(path, flags_of(keys))
    run = method("unpaired").build(config, start_runtime(precision="fp32", seed=config.seed))
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    for step in range(2):
        batch = run.stream.batch(step)
        assert len(batch.text.query.input_ids_BT) == config.train.batch_size
        assert batch.images.pixel_V3HW.shape == (2 * config.image.batch_size, 3, config.image.size, config.image.size)
    for terms in take_two_steps(run):
        assert set(terms) == {"text_text", "image_image"}
        assert terms["image_image"].weight == config.loss.image_weight
    assert sum(not torch.equal(*pair) for pair in zip(before, run.model.parameters(), strict=True)) > len(before) / 2
    assert config.train.select_by in run.metrics
    rates = {config.optim.learning_rate, config.image.learning_rate} - {None}
    assert {
        group["initial_lr"] if "initial_lr" in group else group["lr"] for group in run.optimizer.param_groups
    } == rates


@pytest.mark.parametrize("name", UNPAIRED_TABLE)
def test_published_unpaired_config_has_its_constants(name):
    path = CONFIGS / "unpaired" / f"{name}.yaml"
    resolved, text = resolved_of(path), path.read_text()
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert part in text
    for defect in ("the rank of an image's class for the place of its positive", "does not see a loss's weight"):
        assert defect in text.replace("\n# ", " ")
    encoder, rate, batch, weight = UNPAIRED_TABLE[name]
    fixed = {"encoder.name_or_path": encoder, "encoder.pooling": "cls", "data.max_length": 32}
    fixed |= {"optim.learning_rate": rate, "train.batch_size": batch, "loss.image_weight": weight, "train.epochs": 1}
    fixed |= {"loss.contrast": "as_published", "loss.temperature": 0.05, "loss.image_temperature": 0.07}
    fixed |= {"image.batch_size": 48, "image.size": 224, "image.embeddings": "google/vit-base-patch16-224-in21k"}
    fixed |= {"image.learning_rate": None, "optim.weight_decay": 0.0, "optim.max_grad_norm": 1.0}
    fixed |= {"optim.schedule": "linear", "optim.warmup_steps": 0, "optim.optimizer": "adamw", "optim.epsilon": 1e-8}
    fixed |= {"train.eval_steps": 125, "train.precision": "fp16", "data.sentences.file": hub_file("wiki1m")}
    assert {key: resolved.get(key) for key in fixed} == fixed
    header = (line for line in text.splitlines() if line.startswith("#"))
    assert {"bert_base": "77.50", "roberta_base": "77.87"}[name] in "".join(header)
