"""Every file of ``configs/`` builds and takes two steps on small stand-ins in the formats that it names: simcse, mcse.

Only the encoder's name, the data folder and the output folder are replaced; batch sizes, too, are the published ones.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

from mcse.config import build_config, merge, read_overrides, read_yaml
from mcse.recipes import config_class, method
from mcse.recipes.launch import load_config
from mcse.training.config import count_steps
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch
from tests.fixtures.config_files import CONFIGS, hub_file, name_of, published_data, resolved_of, stand_in_encoders

FILES = sorted(path for recipe in ("simcse", "mcse") for path in (CONFIGS / recipe).rglob("*.yaml"))
# Those of terms after SimCSE have tests of their own.
FILES = [path for path in FILES if path.stem not in ("bert_base_plus_plus", "bert_base_repetition")]
PUBLISHED = [path for path in FILES if not path.stem.startswith("minilm_")]
REPLACED = {"encoder.name_or_path", "data.root", "output_dir"}

BATCH_OF_FOUR_PROCESSES = 128
# Learning rate, global batch, epochs: SimCSE's table of hyperparameters, and the scripts that MCSE released.
SIMCSE_TABLE = {
    "bert_base_unsup": (3e-5, 64, 1),
    "bert_large_unsup": (1e-5, 64, 1),
    "roberta_base_unsup": (1e-5, 512, 1),
    "roberta_large_unsup": (3e-5, 512, 1),
    "bert_base_sup": (5e-5, 4 * BATCH_OF_FOUR_PROCESSES, 3),
    "bert_large_sup": (1e-5, 4 * BATCH_OF_FOUR_PROCESSES, 3),
    "roberta_base_sup": (5e-5, 4 * BATCH_OF_FOUR_PROCESSES, 3),
    "roberta_large_sup": (1e-5, 4 * BATCH_OF_FOUR_PROCESSES, 3),
}
MCSE_SETTINGS = {"wiki_flickr30k": (0.01, 3), "wiki_coco": (0.01, 3), "flickr30k": (0.05, 6), "coco": (0.05, 3)}
MCSE_ENCODERS = {"bert": (3e-5, 64), "roberta": (1e-5, 128)}


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


def resolve(path, *, root, encoders, output):
    tree = read_yaml(path)
    overrides = {
        "encoder.name_or_path": encoders[tree["encoder"]["name_or_path"]],
        "data.root": root,
        "output_dir": output,
    }
    assert overrides.keys() == REPLACED
    flags = [text for key, value in overrides.items() for text in (f"--{key}", str(value))]
    return build_config(config_class(tree["recipe"]), merge(tree, read_overrides(flags)), source=str(path))


def test_all_published_runs_have_a_config():
    assert len(FILES) == 27
    settings = {f"{setting}_{encoder}" for setting in MCSE_SETTINGS for encoder in MCSE_ENCODERS}
    expected = {f"simcse/{name}" for name in (*SIMCSE_TABLE, *settings)} | {f"mcse/{name}" for name in settings}
    assert {name_of(path) for path in PUBLISHED} == expected


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_builds_and_takes_two_steps(path, root, encoders, tmp_path):
    config = resolve(path, root=root, encoders=encoders, output=tmp_path / "run")
    runtime = start_runtime(precision="fp32", seed=config.seed)  # fp16 has no CPU kernels; the config keeps its own
    run = method(config.recipe).build(config, runtime)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.model.train()
    for step in (0, 1):
        batch = run.stream.batch(step)
        rows = batch.caption if isinstance(batch, PairBatch) else batch.query
        assert len(rows.input_ids_BT) == config.train.batch_size
        has_negatives = not isinstance(batch, PairBatch) and batch.negative is not None
        assert has_negatives == path.stem.endswith("_sup")
        terms = run.step(run.model, batch)
        loss = total_loss(terms, device=runtime.device)
        assert torch.isfinite(loss)
        assert loss > 0
        run.optimizer.zero_grad()
        loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in run.model.parameters())
        run.optimizer.step()
        check_terms(config, terms, batch, step=step)
    moved = [not torch.equal(old, new) for old, new in zip(before, run.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert config.train.select_by in run.metrics
    heads = config.image.head_learning_rate if config.recipe == "mcse" else None
    rates = {config.optim.learning_rate, heads} - {None}
    assert {group["lr"] for group in run.optimizer.param_groups} == rates
    assert count_steps(config.train, steps_per_epoch=run.stream.steps_per_epoch) >= 2


def check_terms(config, terms, batch, *, step):
    """Which loss terms a batch has; both mixed and caption-only runs begin with captions."""
    mixed = config.data.sentences is not None and config.data.captions is not None
    paired = config.recipe == "mcse" and (step == 0 or not mixed)
    assert isinstance(batch, PairBatch) == paired
    assert set(terms) == ({"text_text", "text_image"} if paired else {"text_text"})
    if paired:
        assert terms["text_image"].weight == config.loss.image_weight


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_config_says_where_it_comes_from(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    assert resolved_of(path)["output_dir"] == f"runs/{path.parent.name}_{path.stem}"


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_constants(path):
    resolved = resolved_of(path)
    recipe, name = path.parent.name, path.stem
    fixed = {"train.eval_steps": 125, "data.max_length": 32, "loss.temperature": 0.05, "optim.max_grad_norm": 1.0}
    if name in SIMCSE_TABLE:
        rate, batch, epochs = SIMCSE_TABLE[name]
        is_supervised = name.endswith("_sup")
        fixed |= {"train.precision": "fp16", "encoder.pooling": "cls_with_head" if is_supervised else "cls"}
        fixed |= {"data.captions": None, "mix": None}
        fixed |= (
            {"data.sentences.table.path": hub_file("nli")}
            if is_supervised
            else {"data.sentences.file": hub_file("wiki1m")}
        )
        encoder, size, _ = name.split("_")
        batch = BATCH_OF_FOUR_PROCESSES if is_supervised else batch
    else:
        setting, _, encoder = name.rpartition("_")
        size, images = "base", setting.removeprefix("wiki_")
        weight, epochs = MCSE_SETTINGS[setting]
        rate, batch = MCSE_ENCODERS[encoder]
        fixed |= {"train.precision": "fp32", "encoder.pooling": "cls", "seed": 0}
        mixed = {"data.sentences.file": hub_file("wiki1m"), "mix.schedule": "mcse"}
        fixed |= mixed if setting.startswith("wiki_") else {"data.sentences": None, "mix": None}
        fixed |= {"data.captions.file": f"{images}/captions.csv", "data.captions.per_image": "one"}
        fixed |= {"data.captions.images": f"{images}/train_images.txt"}
        if recipe == "mcse":
            fixed |= {"data.images.features": f"{images}/resnet50", "loss.image_reduction": "mean"}
            fixed |= {"loss.image_weight": weight, "loss.image_temperature": 0.05, "loss.joint_dim": 256}
    fixed |= {"optim.learning_rate": rate, "train.batch_size": batch, "train.epochs": epochs}
    fixed |= {"optim.weight_decay": 0.0, "optim.schedule": "linear", "optim.warmup_steps": 0}
    # MCSE's release pins transformers 4.8.2 and takes its AdamW with the defaults of that.
    optimizer, epsilon = ("adamw", 1e-8) if name in SIMCSE_TABLE else ("adamw_hf", 1e-6)
    fixed |= {"optim.optimizer": optimizer, "optim.beta1": 0.9, "optim.beta2": 0.999, "optim.epsilon": epsilon}
    assert {key: resolved.get(key) for key in fixed} == fixed
    assert resolved["encoder.name_or_path"] in (
        f"google-bert/{encoder}-{size}-uncased",
        f"FacebookAI/{encoder}-{size}",
    )


@pytest.mark.parametrize("encoder", MCSE_ENCODERS)
@pytest.mark.parametrize("setting", MCSE_SETTINGS)
def test_the_caption_baseline_differs_from_mcse_in_the_images_alone(setting, encoder):
    ours = resolved_of(CONFIGS / "mcse" / f"{setting}_{encoder}.yaml")
    baseline = resolved_of(CONFIGS / "simcse" / f"{setting}_{encoder}.yaml")
    differing = {key for key in ours.keys() | baseline.keys() if ours.get(key) != baseline.get(key)}
    of_images = {key for key in ours if key.startswith(("data.images.", "image.", "loss.image_"))}
    of_images |= {"loss.joint_dim", "controls.images", "controls.wrong_images"}
    assert differing == of_images - {"image.head_learning_rate"} | {"recipe", "output_dir", "loss.hard_negative_weight"}
    assert (ours["image.head_learning_rate"], ours["controls.images"]) == (None, True)
    assert baseline["loss.hard_negative_weight"] == 0.0


# --- launching

LAUNCHES = {"cpu": 1, "cpu_two_processes": 2, "one_gpu": 1, "several_gpus": 4, "several_nodes": 8, "fsdp": 4}


def test_launch_files_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    files = {path.stem: path for path in (CONFIGS / "accelerate").glob("*.yaml")}
    assert {name: load_config_from_file(str(path)).num_processes for name, path in files.items()} == LAUNCHES
    for path in files.values():
        assert f"configs/accelerate/{path.name}" in path.read_text(), f"{path.name}: no command in its header"
        assert yaml.safe_load(path.read_text())["mixed_precision"] == "no"  # train.precision alone decides


def test_the_config_that_readme_names_is_the_run_of_readmes_row():
    name = "configs/mcse/minilm_wiki_flickr8k_cpu.yaml"
    commands = (CONFIGS.parent / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    (command,) = (line for line in commands if name in line and "runs/real/mcse/seed" in line)
    given = command.replace("$seed", "0").partition(f"--config {name}")[2].split()
    row = load_config(CONFIGS.parent / name, given)
    assert replace(row, output_dir=None) == replace(load_config(CONFIGS.parent / name, []), output_dir=None)
