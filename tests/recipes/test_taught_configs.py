"""Configs of recipes and terms after MCSE: their constants are the published ones, and each takes two steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcse.config import read_yaml, to_dict
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import flags_of, one_thread, own_cache
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import build_tiny_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WIKI = "hf://datasets/princeton-nlp/datasets-for-simcse/wiki1m_for_simcse.txt"
ALWAYS = {"data.max_length": 32, "train.eval_steps": 125, "loss.temperature": 0.05, "encoder.pooling": "cls"}
PAIRED = {"data.captions.per_image": "all", "loss.image_temperature": 0.05, "loss.joint_dim": 256}
PUBLISHED = {
    "simcse/bert_base_plus_plus": {
        "optim.learning_rate": 3e-5, "train.batch_size": 64, "train.epochs": 1,
        "loss.off_dropout.positive_weight": 1.0, "loss.dimension_contrast.weight": 0.1,
        "loss.dimension_contrast.temperature": 5.0, "loss.queue": None, "data.repetition": 0.0,
    },
    "simcse/bert_base_repetition": {
        "optim.learning_rate": 3e-5, "train.batch_size": 64, "train.epochs": 1,
        "loss.queue.size": 160, "loss.queue.momentum": 0.995, "data.repetition": 0.32, "loss.off_dropout": None,
    },
    "rankcse/bert_base_list_mle": {
        "optim.learning_rate": 3e-5, "train.batch_size": 128, "train.epochs": 1, "loss.list_net": None,
        "loss.list_mle.weight": 1.0, "loss.list_mle.temperature": 0.05, "loss.consistency.weight": 1.0,
    },
    "rankcse/bert_base_list_net": {
        "optim.learning_rate": 3e-5, "train.batch_size": 128, "train.epochs": 1, "loss.list_mle": None,
        "loss.list_net.weight": 1.0, "loss.list_net.temperature": 0.05, "loss.list_net.teacher_temperature": 0.025,
        "loss.consistency.weight": 1.0,
    },
    "kdmcse/wiki_flickr30k_bert": PAIRED | {
        "optim.learning_rate": 3e-5, "train.batch_size": 64, "train.epochs": 3, "loss.image_weight": 0.01,
        "loss.caption_weight": None, "loss.margin.negative": 0.15, "loss.image_margin": 0.15,
        "loss.cross_filter": None, "seed": 1234,
    },
    "kdmcse/wiki_coco_bert": PAIRED | {
        "optim.learning_rate": 3e-5, "train.batch_size": 64, "train.epochs": 3, "loss.image_weight": 0.01,
        "loss.margin.negative": 0.15, "loss.image_margin": 0.15, "loss.cross_filter": None, "seed": 1234,
    },
    "kdmcse/wiki_flickr30k_roberta": PAIRED | {
        "optim.learning_rate": 1e-5, "train.batch_size": 128, "train.epochs": 3, "loss.image_weight": 0.01,
    },
    "dalr/wiki_flickr30k_bert": PAIRED | {
        "optim.learning_rate": 2e-5, "train.batch_size": 128, "train.epochs": 4, "loss.image_weight": 0.1,
        "loss.margin.negative": 0.18, "loss.image_margin": 0.18, "loss.matching.weight": 0.001,
        "loss.matching.margin": 0.2, "loss.matching.shift": 5, "loss.cross_kl.weight": 0.1,
        "loss.cross_kl.temperature": 0.0225, "loss.cross_kl.teacher_temperature": 0.5, "loss.list_mle.weight": 0.2,
        "loss.similarity_kl.weight": 0.2, "loss.teach_sentences": False, "seed": 1,
    },
    "dalr/wiki_coco_bert": PAIRED | {
        "optim.learning_rate": 1e-5, "train.batch_size": 128, "train.epochs": 3, "loss.image_weight": 0.1,
    },
}  # fmt: skip
OURS = ("rankcse/minilm_wiki_cpu", "kdmcse/minilm_wiki_flickr8k_cpu", "dalr/minilm_wiki_flickr8k_cpu")
TERMS = {
    "simcse": {"text_text"},
    "rankcse": {"text_text", "consistency"},
    "kdmcse": {"text_text", "text_image", "text_caption"},
    "dalr": {"text_text", "text_image", "matching", "cross_kl", "list_mle", "similarity_kl"},
}


def flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    with own_cache(folder):
        store_rows(folder)
    return folder


def test_these_are_all() -> None:
    found = {
        f"{path.parent.name}/{path.stem}"
        for name in ("rankcse", "kdmcse", "dalr")
        for path in (CONFIGS / name).iterdir()
    }
    assert found == {name for name in (*PUBLISHED, *OURS) if not name.startswith("simcse")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_constants(name) -> None:
    path = CONFIGS / f"{name}.yaml"
    resolved = flat(to_dict(load_config(path, [])))
    expected = ALWAYS | PUBLISHED[name] | {"data.sentences.file": WIKI}
    assert {key: resolved.get(key) for key in expected} == expected
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    assert resolved["output_dir"] == f"runs/{name.replace('/', '_')}"


@pytest.mark.parametrize(
    ("name", "weights"), [("rankcse/bert_base_list_mle", [0.33, 0.67]), ("dalr/wiki_coco_bert", [0.33, 0.67])]
)
def test_published_teachers(name, weights) -> None:
    assert [teacher.weight for teacher in load_config(CONFIGS / f"{name}.yaml", []).teachers] == weights


@pytest.mark.parametrize("name", [*PUBLISHED, *OURS])
def test_each_builds_and_takes_two_steps(name, tiny, tmp_path) -> None:
    tree = read_yaml(CONFIGS / f"{name}.yaml")
    here = {
        "encoder.name_or_path": tiny / "bert", "data.root": tiny, "data.sts": "dev.tsv", "output_dir": tmp_path / "run",
        "data.sentences": "sentences.txt", "train.batch_size": 8, "train.select_by": "dev.spearman",
    }  # fmt: skip
    if "captions" in tree["data"]:
        here |= {"data.captions.file": "captions.csv", "data.captions.images": None, "data.images": "features.hdf5"}
    if "teachers" in tree:
        teachers = [teacher | {"store": "rows"} for teacher in tree["teachers"] if "store" in teacher]
        live = [teacher | {"encoder": str(tiny / "bert")} for teacher in tree["teachers"] if "encoder" in teacher]
        here["teachers"] = [*teachers, *live]
    with one_thread(), own_cache(tiny):
        config = load_config(CONFIGS / f"{name}.yaml", flags_of(here))
        runtime = start_runtime(precision="fp32", seed=config.seed)
        built = method(config.recipe).build(config, runtime)
    before = [parameter.detach().clone() for parameter in built.model.parameters()]
    built.model.train()
    for step in (0, 1):
        terms = built.step(built.model, built.stream.batch(step))
        assert step or set(terms) >= TERMS[config.recipe]
        loss = total_loss(terms, device=torch.device("cpu"))
        assert torch.isfinite(loss)
        built.optimizer.zero_grad()
        loss.backward()
        built.optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, built.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
