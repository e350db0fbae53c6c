"""Streams: every example once an epoch, shares of processes that add up, masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mcse.data.streams import Sampler, SentenceStream, Share, TokenMasker, TokenRepeater
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


def test_whole_words_are_masked_together_and_as_often_as_asked() -> None:
    # 1 and 2 are special, even pieces above them begin words, and odd ones go on with them.
    continues_V = np.arange(40) % 2 == 1
    masker = TokenMasker(
        mask_id=4, vocabulary_size=40, special_ids=[1, 2], seed=0, share=0.3, continues_V=continues_V, hides_all=True
    )
    ids_T = np.array([1, 11, 6, 7, 9, 8, 10, 13, 2])  # the first word begins with a piece that goes on elsewhere
    words = [[1], [2, 3, 4], [5], [6, 7]]
    found = np.array([masker.mask(ids_T, step=step, row=0)[1] != IGNORED_LABEL for step in range(4000)])
    for word in words:
        assert (found[:, word] == found[:, word[:1]]).all()
        assert found[:, word[0]].mean() == pytest.approx(0.3, abs=0.03)
    assert not found[:, [0, 8]].any()
    together = [found[:, [word[0], other[0]]].all(1).mean() for word, other in itertools.combinations(words, 2)]
    np.testing.assert_allclose(together, 0.09, atol=0.02)


def test_an_evaluation_hides_every_chosen_token() -> None:
    ids_T = np.arange(10, 500)
    plain, hiding = (
        TokenMasker(mask_id=4, vocabulary_size=1000, special_ids=[1, 2], seed=0, hides_all=hides_all)
        for hides_all in (False, True)
    )
    masked_T, label_T = hiding.mask(ids_T, step=3, row=5)
    np.testing.assert_array_equal(label_T, plain.mask(ids_T, step=3, row=5)[1])
    chosen_T = label_T != IGNORED_LABEL
    assert (masked_T[chosen_T] == 4).all()
    np.testing.assert_array_equal(masked_T[~chosen_T], ids_T[~chosen_T])


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


# --- ESimCSE's repetition


def by_definition(ids_T, repeated):
    """Which places were doubled, found by walking along both; ``None`` where it is no such copy."""
    doubled, place = [], 0
    for number, token in enumerate(ids_T):
        if place >= len(repeated) or repeated[place] != token:
            return None
        place += 1
        if place < len(repeated) and repeated[place] == token:
            doubled.append(number)
            place += 1
    return doubled if place == len(repeated) else None


def test_fewer_than_a_share_and_than_ten_tokens_are_doubled_and_no_special_one() -> None:
    repeater = TokenRepeater(rate=0.32, special_ids=[1, 2], max_length=200, seed=0)
    for length, most in ((6, 0), (7, 1), (12, 2), (32, 9), (33, 9), (100, 9)):
        ids = np.array([1, *range(10, 8 + length), 2])
        found = [by_definition(ids, repeater.repeat(ids, step=step, row=0)) for step in range(300)]
        assert None not in found
        assert {len(doubled) for doubled in found} == set(range(most + 1)), length
        assert not any({0, length - 1} & set(doubled) for doubled in found)
        if most > 1:
            counts = np.bincount([len(doubled) for doubled in found])
            assert counts.min() > 0.5 * len(found) / (most + 1), "each number with the same chance"
            places = np.bincount(np.concatenate(found).astype(int), minlength=length)
            assert (places[1:-1] > 0).all()


def test_what_gets_too_long_is_cut_before_the_last_special_token() -> None:
    repeater = TokenRepeater(rate=1.0, special_ids=[1, 2], max_length=12, seed=0)
    ids = np.array([1, *range(10, 20), 2])
    lengths = set()
    for step in range(50):
        row = repeater.repeat(ids, step=step, row=0)
        lengths.add(len(row))
        assert row[0] == 1
        assert row[-1] == 2
    assert lengths == {12}
    bare = np.arange(10, 22)
    assert all(repeater.repeat(bare, step=step, row=0)[-1] >= 10 for step in range(20))


def test_repetition_is_drawn_by_seed_step_and_place_in_the_global_batch() -> None:
    def rows(*, rank=0, world_size=1, seed=3):
        share = Share(batch_size=8 // world_size, rank=rank, world_size=world_size)
        sampler = Sampler(len(table), share, seed=1, name="data")
        repeater = TokenRepeater(rate=0.5, special_ids=[0], max_length=40, seed=seed)
        batch = SentenceStream(table, sampler, pad_id=0, repeater=repeater).batch(2)
        return batch.positive.input_ids_BT, batch.query.input_ids_BT

    table = Rows([np.arange(1, 15 + row % 5) for row in range(64)])
    whole, query = rows()
    halves = [rows(rank=rank, world_size=2)[0] for rank in range(2)]
    assert [row[row > 0].tolist() for half in halves for row in half] == [row[row > 0].tolist() for row in whole]
    assert whole.shape != query.shape or not bool((whole == query).all())
    assert rows(seed=4)[0].tolist() != whole.tolist()


class Rows:
    columns = 1

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def ids(self, index, *, column=0):
        return [self.rows[row] for row in index]
