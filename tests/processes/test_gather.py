"""The one gather: exact gradients over processes, unequal rows refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcse import distributed
from mcse.losses.contrastive import info_nce, unit_rows
from mcse.training.loop import total_loss
from mcse.types import LossTerm
from tests.fixtures.processes import run_processes
from tests.processes.test_bytes import Counted


def _toy(total: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(total, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return rows, weight


def _gradient(gather: str, total: int) -> list[list[float]]:
    """The process-averaged gradient of the weights, as DDP computes it."""
    rows, weight = _toy(total)
    weight.requires_grad_()
    share = total // distributed.world_size()
    own = rows[distributed.rank() * share :][:share]
    query, key = unit_rows(own @ weight), unit_rows(own.flip(1) @ weight)
    if gather == "ours":
        keys, offset = distributed.gather_rows(key)
    elif gather == "own negatives only":
        keys, offset = key, 0
    else:
        keys, offset = distributed.gather_rows(key.detach())
    loss = total_loss(
        {"t": LossTerm(info_nce(query, keys, temperature=0.05, offset=offset), count=share)}, device=torch.device("cpu")
    )
    loss.backward()
    assert weight.grad is not None
    return (distributed.sum_over_processes(weight.grad) / distributed.world_size()).tolist()


@pytest.mark.parametrize("world_size", [2, 4])
def test_gradient_equals_one_process_on_the_whole_batch(world_size: int) -> None:
    expected = np.array(_gradient("ours", 8))
    assert np.abs(expected).max() > 1e-3
    for gradient in run_processes(_gradient, world_size, "ours", 8):
        np.testing.assert_allclose(np.array(gradient), expected, rtol=0, atol=1e-10)


def _gradient_and_calls(scatters: bool) -> tuple[list[list[float]], list[tuple[str, int]]]:
    distributed._scatters = lambda _: scatters
    with Counted() as counted:
        gradient = _gradient("ours", 8)
    return gradient, counted.given


def test_on_a_gpu_each_process_is_sent_its_own_rows_of_the_sum_alone() -> None:
    """Gloo can scatter sums too, so that NCCL's way runs here; the bytes given are those of all rows either way.

    On the wire of a ring a sum takes twice as many.
    """
    expected = np.array(_gradient("ours", 8))
    of_all_rows = 8 * 4 * 8
    for scatters, name in ((True, "reduce_scatter_tensor"), (False, "all_reduce")):
        for gradient, calls in run_processes(_gradient_and_calls, 2, scatters):
            np.testing.assert_allclose(np.array(gradient), expected, rtol=0, atol=1e-10)
            assert [call for call in calls if call[1] == of_all_rows] == [(name, of_all_rows)]


@pytest.mark.parametrize("mutant", ["own negatives only", "no gradient"])
def test_the_two_classic_mistakes_are_told_apart(mutant: str) -> None:
    expected = np.array(_gradient("ours", 8))
    gradient = np.array(run_processes(_gradient, 2, mutant, 8)[0])
    assert np.abs(gradient - expected).max() > 1e-3


def _unequal() -> str:
    try:
        distributed.gather_rows(torch.zeros(3 + distributed.rank(), 2))
    except ValueError as error:
        return str(error)
    return "accepted"


def test_unequal_rows_are_refused() -> None:
    assert all("same batch size" in message for message in run_processes(_unequal, 2))


def _arrays() -> list[int]:
    return distributed.gather_arrays(np.arange(distributed.rank() + 1)).tolist()


def test_arrays_of_unequal_length_are_joined_in_rank_order() -> None:
    assert run_processes(_arrays, 2) == [[0, 0, 1], [0, 0, 1]]
