"""Streams: every example once an epoch, shares of processes that add up, masks."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.streams import Sampler, Share, TokenMasker
from mcse.types import IGNORED_LABEL, TokenBatch


def test_an_epoch_draws_every_example_at_most_once_and_epochs_differ() -> None:
    sampler = Sampler(23, Share(batch_size=5), seed=1, name="data")
    assert sampler.steps_per_epoch == 4
    epochs = [np.concatenate([sampler.index(4 * e + s) for s in range(4)]) for e in range(2)]
    assert all(len(set(epoch.tolist())) == 20 for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_processes_share_what_one_would_draw() -> None:
    whole = Sampler(64, Share(batch_size=8), seed=3, name="data")
    halves = [Sampler(64, Share(batch_size=4, rank=rank, world_size=2), seed=3, name="data") for rank in range(2)]
    for step in (0, 5, 7, 8, 30):
        assert np.concatenate([half.index(step) for half in halves]).tolist() == whole.index(step).tolist()


def test_fewer_examples_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data.captions: 7 examples are fewer than one batch of 8"):
        Sampler(7, Share(batch_size=4, world_size=2), seed=0, name="data.captions")


def test_padding_is_masked() -> None:
    tokens = TokenBatch.padded([np.array([5, 6, 7]), np.array([8])], pad_id=9)
    assert tokens.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert tokens.attention_mask_BT.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_masks_follow_the_80_10_10_rule_and_spare_special_tokens() -> None:
    masker = TokenMasker(mask_id=4, vocabulary_size=1000, special_ids=[1, 2], seed=0)
    ids = np.array([1, *range(10, 110), 2])
    rows = [masker.mask(ids, step=step, row=0) for step in range(400)]
    masked, labels = (np.stack(part) for part in zip(*rows, strict=True))
    chosen = labels != IGNORED_LABEL
    assert not chosen[:, [0, -1]].any()
    assert (labels[chosen] == np.broadcast_to(ids, labels.shape)[chosen]).all()
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.01)
    assert (masked[chosen] == 4).mean() == pytest.approx(0.8, abs=0.02)
    assert (masked[chosen] == labels[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert (masked[~chosen] == np.broadcast_to(ids, labels.shape)[~chosen]).all()


def test_masks_do_not_depend_on_the_number_of_processes() -> None:
    masker = TokenMasker(mask_id=4, vocabulary_size=50, special_ids=[], seed=0)
    ids = np.arange(5, 45)
    assert masker.mask(ids, step=3, row=6)[0].tolist() == masker.mask(ids, step=3, row=6)[0].tolist()
    assert masker.mask(ids, step=3, row=6)[0].tolist() != masker.mask(ids, step=3, row=7)[0].tolist()
