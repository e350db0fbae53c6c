import pytest
import torch

from mcse.training.meter import Meter
from mcse.types import LossTerm


def measured(*batches):
    meter = Meter(watches_gradients=True)
    for step, terms in enumerate(batches):
        meter.add_batch(step, torch.tensor(1.0), terms)
        meter.add_step(step, torch.tensor(0.5))
    return meter.numbers(learning_rate=0.1, examples_per_step=2)


def share(total, count):
    return LossTerm(torch.tensor(total), count=torch.tensor(count), is_loss=False)


def test_what_is_logged_alone_is_a_mean_over_the_steps_that_had_any_of_it():
    assert measured({"share": share(0.0, 0)}, {"share": share(3.0, 4)})["share"] == pytest.approx(0.75)


def test_what_is_logged_alone_and_was_of_nothing_is_left_out():
    found = measured({"share": share(0.0, 0), "a": LossTerm(torch.tensor(0.0), count=0)})
    assert "share" not in found
    assert found["loss.a"] == 0.0, "a loss of nothing is part of the loss, and is shown"
