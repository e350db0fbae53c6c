"""Five steps of each recipe against recorded losses: whatever moves a number shows here, on purpose or not.

``make golden`` writes them anew; the changelog says why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mcse.nn.dropout import kept
from tests.fixtures.launch import entries, run
from tests.fixtures.tiny_run import build_tiny_run

GOLDEN = Path(__file__).with_name("trajectories.json")
WRITES = os.environ.get("MCSE_WRITE_GOLDEN") == "1"
SHORT = {"train.max_steps": 5, "train.log_steps": 1, "train.eval_steps": 5, "optim.learning_rate": 3e-4}
# Adam divides a vanishing gradient by itself; a wider epsilon keeps another CPU's rounding out of the fifth digit.
STEADY = SHORT | {"optim.epsilon": 1e-5}
CASES = {
    "simcse": ("simcse", {}),
    "simcse in cached chunks of similar length": (
        "simcse",
        {"encoder.length_chunks": 2, "train.cached_chunk_size": 5},
    ),
    "simcse supervised": ("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.5}),
    "simcse with mlm": ("simcse", {"loss.mlm_weight": 0.1}),
    "simcse, every term": (
        "simcse",
        {
            "loss.off_dropout": {"positive_weight": 0.9},
            "loss.dimension_contrast": {"weight": 0.5, "temperature": 10.0},
            "loss.consistency": {"weight": 0.5, "temperature": 0.1},
            "loss.margin": {"negative": 0.2},
        },
    ),
    "simcse with a queue": ("simcse", {"loss.queue": {"size": 20, "momentum": 0.9}}),
    "diffcse": ("diffcse", {}),
    "diffcse, every key its own": (
        "diffcse",
        {
            "generator.dropout": False,
            "generator.mask_share": 0.5,
            "head": "tanh",
            "loss.temperature": 0.1,
            "loss.rtd_weight": 0.5,
            "loss.rtd_reduction": "real",
            "loss.stop_gradient": True,
            "encoder.pooling": "mean",
        },
    ),
    "rankcse": ("rankcse", {"loss.list_mle": {"weight": 0.01}}),
    "kdmcse": ("kdmcse", {"data.captions.per_image": "all"}),
    "dalr": ("dalr", {"data.captions.per_image": "all"}),
    "tables": ("tables", {}),
    "tables by scores, every key its own": (
        "tables",
        {
            "data.table": "scored.csv",
            "data.table.loss": "angle",
            "loss.scale": 10.0,
            "loss.dims": [16, 8],
            "encoder.pooling": "mean",
        },
    ),
    "mcse": ("mcse", {"data.captions.per_image": "all"}),
    "mcse, every key its own": (
        "mcse",
        {
            "loss.temperature": 0.07,
            "loss.image_temperature": 0.2,
            "loss.image_weight": 0.3,
            "loss.image_reduction": "sum",
            "loss.joint_dim": 16,
            "loss.mlm_weight": 0.2,
            "image.head_learning_rate": 5e-3,
            "mix.schedule": "mcse",
            "encoder.pooling": "mean",
            "encoder.packing": True,
            "train.accumulation_steps": 2,
            "optim.warmup_steps": 2,
            "optim.weight_decay": 0.01,
        },
    ),
    "unpaired": ("unpaired", {}),
    "unpaired, every key its own": (
        "unpaired",
        {
            "loss.contrast": "random_labels",
            "loss.random_classes": 3,
            "loss.temperature": 0.07,
            "loss.image_temperature": 0.2,
            "loss.image_weight": 0.3,
            "image.size": 24,
            "image.patch_size": 12,
            "image.batch_size": 10,
            "image.learning_rate": 5e-3,
            "encoder.pooling": "mean",
            "encoder.packing": True,
            "train.accumulation_steps": 2,
        },
    ),
    "unpaired as published": ("unpaired", {"loss.contrast": "as_published"}),
    "mlm": ("mlm", {"encoder.packing": True, "loss.whole_word": True, "loss.mask_share": 0.3}),
    "elmo": ("elmo", {"loss.samples": 20}),
    "cove": ("cove", {}),
    "vse": ("vse", {}),
    "vse, every key its own": (
        "vse",
        {
            "encoder.kind": "lstm",
            "encoder.layers": 2,
            "encoder.dropout": 0.1,
            "encoder.marks": "both",
            "encoder.min_count": 2,
            "encoder.init_range": 0.3,
            "joint.image_map": "linear_without_bias",
            "joint.unit_features": False,
            "joint.feature_dropout": 0.1,
            "loss.margin": 0.3,
            "loss.negatives": "hardest",
            "loss.reduction": "mean",
            "loss.unit_images": False,
            "image.head_learning_rate": 5e-3,
            "controls.images": "shuffled_pairs",
            "optim.decay_steps": 2,
            "optim.decay_factor": 0.5,
        },
    ),
    "grounded words": ("grounded_words", {"loss.alpha": 0.5, "loss.negatives": 2}),
    # At the usual rate what the words keep is float32's rounding of 1 − cosine for the first five steps.
    "grounded words that move": (
        "grounded_words",
        {"loss.alpha": 0.5, "loss.negatives": 2, "optim.learning_rate": 0.1},
    ),
    "grounded words by images": ("grounded_words", {"model.objective": "image_regression", "model.state_width": 9}),
    "mcse on shuffled images": ("mcse", {"data.captions.per_image": "all", "controls.images": "shuffled_images"}),
}
RELATIVE, ABSOLUTE = 1e-5, 5e-7
"""Tolerances: of a term's largest value, since CPUs add up in different orders, and four steps of float32 near 1."""
DROPOUT = {"without dropout": 0.0, "with dropout": 0.1}


def draws() -> str:
    """Which elements dropout keeps here: PyTorch and NumPy promise their generators' numbers for a version alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return "".join(str(int(element)) for element in kept((64,), 0.5) > 0)


@pytest.fixture(scope="module", params=DROPOUT)
def prepared(request, tmp_path_factory, equal_views):
    return request.param, build_tiny_run(tmp_path_factory.mktemp("tiny"), dropout=DROPOUT[request.param])


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_recorded(case, prepared, tmp_path):
    name, tiny = prepared
    recipe, keys = CASES[case]
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if not WRITES and name == "with dropout" and recorded["draws"] != draws():
        pytest.skip("this PyTorch build draws other dropout masks than the one that recorded")
    assert run(tiny, recipe, tmp_path / "run", STEADY | keys) == 0
    found: dict[str, list[float]] = {}
    for entry in entries(tmp_path / "run"):
        for key, value in entry.items():
            if key.startswith("loss") or key == "grad_norm":
                found.setdefault(key, []).append(value)
    assert len(found["loss"]) == 5
    if WRITES:
        recorded |= {"draws": draws(), f"{case}, {name}": found}
        GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")
        return
    expected = recorded[f"{case}, {name}"]
    assert found.keys() == expected.keys()
    for key, values in found.items():
        tolerance = max(RELATIVE * max(map(abs, expected[key])), ABSOLUTE)
        assert values == pytest.approx(expected[key], rel=RELATIVE, abs=tolerance), key


def test_nothing_is_recorded_that_no_case_checks():
    recorded = json.loads(GOLDEN.read_text())
    assert recorded.keys() == {"draws"} | {f"{case}, {name}" for case in CASES for name in DROPOUT}
