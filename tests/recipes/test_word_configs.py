"""Every config of ELMo, CoVe and the tasks on their features builds and takes two steps on small stand-ins.

Only folders, batch sizes, numbers of samples and the contextual encoder's name are replaced; models have the sizes
that the files say.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcse.config import build_config, merge, read_overrides, read_yaml
from mcse.recipes import config_class, method
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.config_files import name_of, resolved_of, sentences, write_text, write_word_data
from tests.fixtures.tiny_run import build_tiny_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for recipe in ("elmo", "cove", "word_features") for path in (CONFIGS / recipe).glob("*.yaml"))
PUBLISHED = [path for path in FILES if not path.stem.endswith("_cpu")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = build_tiny_run(tmp_path_factory.mktemp("data"))
    write_text(root / "wiki" / "wiki_sentences_300k.txt.gz", sentences(900, seed=1))
    for shard in range(2):
        write_text(root / "one_billion_word" / "train" / f"news-{shard}", sentences(700, seed=shard))
    write_text(root / "one_billion_word" / "dev.txt", sentences(20, seed=9))
    write_word_data(root, tags=(root / "tags.txt").read_text())
    return root


def resolve(path, root, output):
    tree = read_yaml(path)
    replaced = {"data.root": root, "output_dir": output, "train.batch_size": 2 if "billion" in path.stem else 8}
    if "max_train" in tree["data"]:
        replaced["data.max_train"] = 40
    if path.parent.name == "elmo":
        replaced["loss.samples"] = 12  # of the stand-in's few words
    if path.parent.name == "word_features":
        replaced["features.contextual.encoder"] = root / "elmo"
    flags = [text for key, value in replaced.items() for text in (f"--{key}", str(value))]
    return build_config(config_class(tree["recipe"]), merge(tree, read_overrides(flags)), source=str(path))


def test_there_are_configs_of_each():
    assert {path.parent.name for path in PUBLISHED} == {"elmo", "cove"}
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_config_builds_and_takes_two_steps(path, root, tmp_path):
    config = resolve(path, root, tmp_path / "run")
    run = method(config.recipe).build(config, start_runtime(precision="fp32", seed=config.seed))
    trained = [p for p in run.model.parameters() if p.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    run.model.train()
    for step in (0, 1):
        loss = total_loss(run.step(run.model, run.stream.batch(step)), device=torch.device("cpu"))
        assert torch.isfinite(loss)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, trained, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert config.train.select_by in run.metrics


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_headers_say_where_a_run_comes_from(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("# Table: ", "# Expected: ", "# Hardware: ", "# Data: ", "# Unsure: "):
        assert any(line.startswith(part) for line in header), f"no {part!r} in the header"
    if path in PUBLISHED:
        assert resolved_of(path)["output_dir"] == f"runs/{path.parent.name}_{path.stem}"


def test_published_constants_of_elmo():
    resolved = resolved_of(CONFIGS / "elmo" / "one_billion_word.yaml")
    expected = {
        "encoder.cell_dim": 4096,
        "encoder.projection_dim": 512,
        "encoder.cell_clip": 3.0,
        "encoder.projection_clip": 3.0,
        "encoder.dropout": 0.1,
        "encoder.layers": 2,
        "encoder.highway_layers": 2,
        "encoder.character_dim": 16,
        "encoder.max_characters": 50,
        "optim.schedule": "constant",
        "data.unroll": 20,
        "loss.samples": 8192,
        "optim.optimizer": "adagrad",
        "optim.learning_rate": 0.2,
        "optim.initial_accumulator": 1.0,
        "optim.max_grad_norm": 10.0,
        "train.batch_size": 128,
        "train.epochs": 10,
    }
    assert {key: resolved[key] for key in expected} == expected
    assert sum(count for _, count in resolved["encoder.filters"]) == 2048
    assert resolved["data.vocabulary_size"] + 4 == 793_471
    assert resolved["loss.weight"] == 0.5 * resolved["data.unroll"]


@pytest.mark.parametrize("name", ["multi30k", "wmt17"])
def test_published_constants_of_cove(name):
    resolved = resolved_of(CONFIGS / "cove" / f"{name}.yaml")
    expected = {
        "encoder.hidden_dim": 300,
        "encoder.layers": 2,
        "encoder.dropout": 0.2,
        "loss.mean_over": "sentences",
        "optim.optimizer": "sgd",
        "optim.learning_rate": 1.0,
        "optim.max_grad_norm": 5.0,
        "train.batch_size": 64,
        "data.vocabulary_size": 50_000,
    }
    assert {key: resolved[key] for key in expected} == expected
