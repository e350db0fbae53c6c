"""Configs say what differs from the defaults and what their paper fixes, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import re
from pathlib import Path
from typing import Any

import pytest

from mcse.config import ConfigError, build_config, read_yaml
from mcse.recipes import RECIPES, config_class
from tests.fixtures.config_files import CONFIGS, flat, name_of

FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("accelerate", "studies"))
PAIRED = (
    "encoder.pooling",
    "data.max_length",
    "loss.temperature",
    "loss.image_temperature",
    "loss.joint_dim",
    "train.eval_steps",
)
DALR = (
    *("loss.margin.negative", "loss.image_margin", "loss.list_mle.weight", "loss.list_mle.temperature"),
    *(f"loss.matching.{key}" for key in ("weight", "margin", "shift")),
    *(f"loss.{term}.{key}" for term in ("cross_kl", "similarity_kl") for key in ("weight", "temperature")),
    *(f"loss.{term}.teacher_temperature" for term in ("cross_kl", "similarity_kl")),
)
PLUS_PLUS = (
    *("loss.off_dropout.positive_weight", "loss.dimension_contrast.weight", "loss.dimension_contrast.temperature"),
    *("loss.queue.size", "loss.queue.momentum"),
)
FIXED = {
    "simcse": {"encoder.pooling", "data.max_length", "loss.temperature", "train.eval_steps", *PLUS_PLUS},
    "diffcse": {
        "encoder.pooling",
        "data.max_length",
        "head",
        "generator.mask_share",
        "generator.dropout",
        "loss.temperature",
        "loss.rtd_weight",
        "loss.rtd_reduction",
        "train.eval_steps",
    },
    "mcse": {*PAIRED},
    "unpaired": {
        "encoder.pooling",
        "data.max_length",
        "image.batch_size",
        "image.size",
        "loss.temperature",
        "loss.image_temperature",
        "train.eval_steps",
    },
    "kdmcse": {*PAIRED, "loss.margin.negative", "loss.image_margin"},
    "dalr": {*PAIRED, *DALR},
    "rankcse": {
        "encoder.pooling",
        "data.max_length",
        "loss.temperature",
        "train.eval_steps",
        *(
            f"loss.{key}"
            for key in ("list_mle.weight", "list_mle.temperature", "list_net.weight", "list_net.temperature")
        ),
        *(f"loss.{key}" for key in ("list_net.teacher_temperature", "consistency.weight", "consistency.temperature")),
    },
    "mlm": {"loss.mask_share"},
    "vse": {"encoder.word_dim", "joint.dim", "loss.margin", "loss.negatives", "loss.unit_images"},
    "maf": {
        "data.max_length",
        "loss.tagging_weight",
        "loss.alignment.weight",
        "loss.alignment.temperature",
        "loss.alignment.text_to_image_share",
        "loss.matching.weight",
        "loss.matching.num_swapped",
    },
    "grounded_words": {"model.width", "words.max_words"},
    "elmo": {
        "encoder.cell_dim",
        "encoder.projection_dim",
        "encoder.layers",
        "encoder.dropout",
        "data.unroll",
    },
    "cove": {"encoder.hidden_dim", "encoder.layers", "encoder.dropout", "data.max_length", "data.vocabulary_size"},
    "word_features": set(),
    "tables": set(),
}
"""What papers state, and their configs therefore say although it is the default."""


def without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    left = copy.deepcopy(tree)
    *groups, name = key.split(".")
    below = left
    for group in groups:
        below = below[group]
    del below[name]
    return left


def test_all_recipes_have_configs():
    assert len(FILES) == 84
    assert {read_yaml(path)["recipe"] for path in FILES} == set(RECIPES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_config_says_nothing_that_it_could_leave_out(path: Path):
    tree = read_yaml(path)
    kind = config_class(tree["recipe"])
    whole = build_config(kind, tree, source=str(path))
    explained = set(re.findall(r"^ *(\w+): .* # ", path.read_text(encoding="utf-8"), re.MULTILINE))
    for key in flat(tree):
        if key in FIXED[tree["recipe"]] or key.rpartition(".")[2] in explained:
            continue
        with contextlib.suppress(ConfigError):
            assert build_config(kind, without(tree, key), source=str(path)) != whole, f"{key} is the default"
