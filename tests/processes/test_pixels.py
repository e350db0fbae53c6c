"""Two processes with an image tower inside the step make the update of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mcse import distributed
from mcse.models.image_tower import ImageTower
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from mcse.types import PairBatch
from tests.fixtures.launch import one_thread, own_cache
from tests.fixtures.processes import run_processes
from tests.fixtures.tiny_run import allowing_equal_views
from tests.recipes.test_pixels import TRAINED, VIT, build, tiny

__all__ = ["tiny"]


def update(tiny, keys, step):
    """One step in float64: the loss, and the parameters afterwards."""
    keys = keys | {"train.batch_size": 16 // distributed.world_size(), "data.captions.per_image": "all"}
    with one_thread(), own_cache(tiny), allowing_equal_views():
        run_, _ = build(tiny, keys)
        if isinstance(run_.model.tower, ImageTower):
            run_.model.tower.register_parameter("unused", nn.Parameter(torch.ones(2)))
        model = start_runtime(precision="fp32", seed=0).accelerator.prepare_model(run_.model.double())
        model.train()
        batch = run_.stream.batch(step)
        if isinstance(batch, PairBatch):
            batch = replace(batch, image_BF=batch.image_BF.double())
        loss = total_loss(run_.step(model, batch), device=torch.device("cpu"))
        loss.backward()
        gradients = {name: p.grad.numpy().copy() for name, p in run_.model.named_parameters() if p.grad is not None}
        # A second step finds out whether DDP was left waiting for a parameter.
        total_loss(run_.step(model, batch), device=torch.device("cpu")).backward()
    return {
        "wrapped": isinstance(model, DistributedDataParallel),
        "paired": isinstance(batch, PairBatch),
        "gradients": gradients,
        "loss": loss.item(),
    }


def updates(tiny):
    cases = [(TRAINED, 0), (TRAINED, 1), (VIT, 0), (VIT, 1)]
    return [update(tiny, keys, step) for keys, step in cases]


def test_two_processes_make_the_update_of_one(tiny):
    (alone,) = [updates(tiny)]
    together = run_processes(updates, 2, tiny)
    for case, one in enumerate(alone):
        two = [process[case] for process in together]
        assert not one["wrapped"]
        assert all(process["wrapped"] for process in two)
        assert one["paired"] == (case % 2 == 0)
        towers = [name for name in one["gradients"] if name.startswith("tower.")]
        assert bool(towers) == (case < 2)
        assert np.mean([process["loss"] for process in two]) == pytest.approx(one["loss"], rel=1e-9)
        for process in two:
            assert process["gradients"].keys() == one["gradients"].keys()
            for name, gradient in one["gradients"].items():
                np.testing.assert_allclose(process["gradients"][name], gradient, rtol=1e-6, atol=1e-9, err_msg=name)
        if case == 0:
            assert sum(np.abs(one["gradients"][name]).max() > 0 for name in towers) > len(towers) / 2
        if case == 1:
            assert all(np.abs(one["gradients"][name]).max() == 0 for name in towers)
