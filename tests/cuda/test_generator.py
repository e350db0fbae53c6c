"""Cached chunks put CUDA's generator back before a chunk's second pass; a generator on the host stands for it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from mcse.training import gradcache
from mcse.training.gradcache import CachedForward
from mcse.training.loop import total_loss
from mcse.types import LossTerm, SentenceBatch, TokenBatch
from mcse.types.batches import split_batch

CUDA = torch.device("cuda")


class DropsOut(nn.Module):
    """Embeddings whose masks come from the generator that stands for CUDA's."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.rows, self.generator = nn.Embedding(20, 5), generator

    def forward(self, batch: SentenceBatch) -> torch.Tensor:
        row_BD = self.rows(batch.query.input_ids_BT).mean(1)
        return row_BD * (torch.rand(row_BD.shape, generator=self.generator) < 0.7)


@pytest.fixture
def stand_in(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: generator.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: generator.set_state(state))
    monkeypatch.setattr(gradcache, "to_device", lambda batch, _: batch)
    monkeypatch.setattr(gradcache, "pin", lambda batch: batch)
    return generator


def gradient(model, forward, batch):
    """Of the rows' products with one another; and what the generator draws next."""
    model.zero_grad()
    model.generator.manual_seed(1)
    row_BD = forward(batch)
    total_loss({"products": LossTerm((row_BD @ row_BD.T).square().sum(), count=1)}, device=row_BD.device).backward()
    if isinstance(forward, CachedForward):
        forward.backward(syncs=True)
    return model.rows.weight.grad.clone(), torch.rand(3, generator=model.generator)


def test_the_second_pass_draws_the_first_ones_masks(stand_in):
    torch.manual_seed(0)
    model = DropsOut(stand_in)
    ids_BT = torch.randint(20, (7, 4))
    batch = SentenceBatch(TokenBatch(ids_BT, torch.ones_like(ids_BT)))
    expected, drawn = gradient(model, lambda batch: torch.cat([model(part) for part in split_batch(batch, 3)]), batch)
    cached = CachedForward(
        model, batch, chunk_size=3, device=CUDA, autocast=contextlib.nullcontext, no_sync=contextlib.nullcontext
    )
    found, drawn_after = gradient(model, cached, batch)
    torch.testing.assert_close(found, expected)
    assert torch.equal(drawn_after, drawn), "the step leaves the generator where a plain one does"
    assert expected.abs().max() > 0.1
