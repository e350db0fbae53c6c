"""Cheap dropout is dropout: rate, mean, independence, gradient; and one number of PyTorch's generator names a mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mcse.nn.dropout import Dropout, dropout, kept, use_cheap_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_mean(p: float) -> None:
    torch.manual_seed(0)
    mask = kept((1000, 1003), p)
    zero = (mask == 0).double()
    deviation = math.sqrt(p * (1 - p) / zero.numel())
    assert abs(zero.mean().item() - p) < 5 * deviation + 1 / 2**16
    assert mask[mask != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-3)
    assert mask.double().mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))


def test_elements_and_masks_are_independent() -> None:
    """Four elements share a drawn number; nothing of that shows, nor between masks drawn one after the other."""
    torch.manual_seed(1)
    first, second = (kept((400_000,), 0.3).numpy() == 0 for _ in range(2))
    limit = 5 / math.sqrt(len(first))
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < limit
    assert abs(np.corrcoef(first, second)[0, 1]) < limit


def test_a_mask_is_named_by_one_draw_of_pytorchs_generator() -> None:
    torch.manual_seed(2)
    first = kept((50,), 0.5)
    following = torch.rand(3)
    torch.manual_seed(2)
    assert torch.equal(kept((50,), 0.5), first)
    torch.manual_seed(2)
    kept((7, 9), 0.1)
    assert torch.equal(torch.rand(3), following), "however large the mask"
    assert not torch.equal(kept((50,), 0.5), first)


def test_a_mask_is_on_the_device_that_is_asked_for() -> None:
    assert kept((3, 2), 0.5, device=torch.device("meta")).device.type == "meta"
    assert kept((3, 2), 0.5).device.type == "cpu"


def test_the_edges() -> None:
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    assert dropout(x, 0.0) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn where nothing is dropped"
    assert not dropout(x, 1.0).any()
    assert kept((3, 0), 0.5).shape == (3, 0)


def test_gradient_is_the_mask_and_the_type_stays() -> None:
    x = torch.ones(64, 5, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert 0 < (x.grad == 0).double().mean() < 1
    assert dropout(torch.ones(8, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


def test_plain_dropouts_are_replaced_and_others_left() -> None:
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3), nn.AlphaDropout(0.4)), nn.Linear(1, 1))
    use_cheap_dropout(model)
    assert type(model[0]) is Dropout
    assert model[0].p == 0.2
    assert type(model[1][0]) is Dropout
    assert type(model[1][1]) is nn.AlphaDropout
