"""A short run on real photographs' features: true pairs are learnt, shuffled pairs stay at chance."""

from __future__ import annotations

import pytest

from mcse.commands.main import main
from tests.fixtures.launch import entries, one_thread, own_cache
from tests.fixtures.processes import REPOSITORY

CHANCE = 2 * (1 + 5 + 10) / 2
"""rsum of a random order of 200 images, each with five captions: image→text has five right ones, of 1,000."""
SHORT = {
    "data.dev_images": 200,
    "controls.num_pairs": 6000,
    "train.batch_size": 128,
    "train.epochs": "null",
    "train.max_steps": 90,
    "train.eval_steps": 90,
    "optim.learning_rate": 3e-3,
}


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["true", "shuffled_pairs"])
def test_pairs_are_learnt_only_where_they_are_true(pairs, real_data, tmp_path):
    keys = SHORT | {"controls.images": pairs, "data.root": real_data, "output_dir": tmp_path / "run"}
    flags = [text for key, value in keys.items() for text in (f"--{key}", str(value))]
    config = REPOSITORY / "configs" / "vse" / "flickr8k_bow_cpu.yaml"
    with one_thread(), own_cache(tmp_path):
        assert main(["train", "--config", str(config), *flags]) == 0
    (rsum,) = [entry["retrieval.rsum"] for entry in entries(tmp_path / "run") if "retrieval.rsum" in entry]
    if pairs == "true":
        assert rsum > 10 * CHANCE
    else:
        assert rsum < 2 * CHANCE
