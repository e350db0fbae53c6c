"""Controls: other images, fewer pairs."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.config import ControlsConfig
from mcse.data.controls import assign_images, choose_pairs
from mcse.data.streams import Sampler, Share


def test_controls_do_what_they_say() -> None:
    own = np.repeat(np.arange(20), 5)
    shuffled = assign_images(own, "shuffled_images", seed=0)
    assert (shuffled != own).all()
    assert all(len(set(shuffled[own == image].tolist())) == 1 for image in range(20))
    assert sorted(shuffled.tolist()) == sorted(own.tolist())
    parted = assign_images(own, "shuffled_pairs", seed=0)
    assert (parted != own).all()
    assert sorted(parted.tolist()) == sorted(own.tolist())
    assert any(len(set(parted[own == image].tolist())) > 1 for image in range(20))
    drawn = assign_images(own, "random", seed=0)
    assert sorted(drawn.tolist()) != sorted(own.tolist())
    assert assign_images(own, True, seed=0) is own
    for control in ("shuffled_images", "shuffled_pairs", "random"):
        assert (assign_images(own, control, seed=4) == assign_images(own, control, seed=4)).all()
        assert (assign_images(own, control, seed=4) != assign_images(own, control, seed=5)).any()


def test_controls_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="needs two images"):
        assign_images(np.zeros(4, dtype=np.int64), "shuffled_pairs", seed=0)
    with pytest.raises(ValueError, match="more than half the captions"):
        assign_images(np.array([0, 0, 0, 1]), "shuffled_pairs", seed=0)
    with pytest.raises(ValueError, match="5 asked for, but there are only 4 pairs"):
        choose_pairs(4, 5, seed=0)
    with pytest.raises(ValueError, match="controls.num_pairs"):
        ControlsConfig(num_pairs=0)
    assert len(choose_pairs(10, 4, seed=0)) == 4


def test_draws_of_one_seed_have_nothing_in_common() -> None:
    order = [Sampler(40, Share(batch_size=40), seed=3, name="data").index(epoch).tolist() for epoch in range(8)]
    control = assign_images(np.arange(40), "shuffled_images", seed=3).tolist()
    pairs = choose_pairs(40, 20, seed=3).tolist()
    assert all(sum(a == b for a, b in zip(epoch, control, strict=True)) < 10 for epoch in order)
    assert all(sorted(epoch[:20]) != pairs for epoch in order)
