"""Batches as they move and are cut."""

from __future__ import annotations

import numpy as np
import torch

from mcse.types import PairBatch, SentenceBatch, TableBatch, TokenBatch, TweetBatch, to_device
from mcse.types.batches import split_batch, tensors_of

META = torch.device("meta")


def tokens(number=4):
    return TokenBatch.padded([[1, 2, 3]] * number)


def on_the_host(batch):
    return {
        name
        for name in batch.__dataclass_fields__
        if isinstance(getattr(batch, name), torch.Tensor) and getattr(batch, name).device.type == "cpu"
    }


def test_what_images_are_made_of_stays_and_nothing_else():
    row_BF = torch.rand(4, 3)
    pairs = PairBatch(tokens(), row_BF, torch.arange(4), teacher_BF=row_BF)
    moved = to_device(pairs, META, images=False)
    assert on_the_host(moved) == {"image_BF"}
    assert not on_the_host(to_device(pairs, META))
    assert not on_the_host(to_device(SentenceBatch(tokens(), teacher_BF=row_BF), META, images=False))
    table = TableBatch(torch.zeros(4, 2), tokens(8), table=0, guide_BVG=torch.rand(4, 2, 3))
    assert not on_the_host(to_device(table, META, images=False))
    ids_BW = torch.zeros(4, 3, dtype=torch.long)
    shown_B = torch.ones(4, dtype=torch.bool)
    tweets = TweetBatch(tokens(), ids_BW, ids_BW > 0, ids_BW, shown_B, torch.arange(4), torch.arange(4), row_BF)
    assert on_the_host(to_device(tweets, META, images=False)) == {"image_BF"}


def test_rows_of_teachers_are_cut_with_their_sentences():
    row_BF = torch.arange(12.0).reshape(4, 3)
    parts = split_batch(SentenceBatch(tokens(), positive=tokens(), teacher_BF=row_BF), 3)
    assert [len(part.query) for part in parts] == [len(part.positive) for part in parts] == [3, 1]
    np.testing.assert_array_equal(torch.cat([part.teacher_BF for part in parts]), row_BF)
    assert sum(tensor is row_BF for tensor in tensors_of(SentenceBatch(tokens(), teacher_BF=row_BF))) == 1
