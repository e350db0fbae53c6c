"""Schedules of sentences and pairs."""

from __future__ import annotations

import pytest

from mcse.data.controls_config import EveryMix, Mix, PublishedMix
from mcse.data.mixing import plan_mixture


@pytest.mark.parametrize(
    ("text_steps", "pair_steps", "ratio", "paired"),
    # MCSE's own numbers of batches at 64: Wiki1M with Flickr30k (29,783) and with COCO (82,783).
    [(15625, 466, 33, 488), (15625, 1294, 12, 1410)],
)
def test_the_published_schedule(text_steps: int, pair_steps: int, ratio: int, paired: int) -> None:
    mixture = plan_mixture(PublishedMix(), sentence_steps=text_steps, pair_steps=pair_steps)
    kinds = [mixture.place(step)[0] for step in range(mixture.steps_per_epoch)]
    assert mixture.steps_per_epoch == text_steps + pair_steps
    assert sum(kinds) == paired
    assert kinds == [step % ratio == 0 for step in range(len(kinds))]


def test_roles_swap_where_pairs_outnumber_sentences() -> None:
    mixture = plan_mixture(PublishedMix(), sentence_steps=10, pair_steps=55)
    kinds = [mixture.place(step)[0] for step in range(65)]
    assert kinds == [step % 5 != 0 for step in range(65)]


def test_neither_kind_is_starved_at_a_ratio_of_one() -> None:
    for sentences, pairs in ((10, 9), (9, 10)):
        kinds = [
            plan_mixture(PublishedMix(), sentence_steps=sentences, pair_steps=pairs).place(s)[0] for s in range(19)
        ]
        assert {True, False} == set(kinds)


@pytest.mark.parametrize("config", [PublishedMix(), EveryMix(schedule="every", pair_every=3)])
def test_both_parts_are_taken_without_gaps_across_epochs(config: Mix) -> None:
    mixture = plan_mixture(config, sentence_steps=7, pair_steps=3)
    seen: dict[bool, list[int]] = {True: [], False: []}
    for step in range(45):
        paired, before = mixture.place(step)
        seen[paired].append(before)
    assert all(places == list(range(len(places))) for places in seen.values())
    assert all(seen.values())


def test_the_start_of_a_run_says_what_an_epoch_draws() -> None:
    mixture = plan_mixture(PublishedMix(), sentence_steps=15625, pair_steps=466)
    assert mixture.drawn_an_epoch(64) == {"sentences an epoch": 15603 * 64, "pairs an epoch": 488 * 64}


def test_a_beat_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="mix.pair_every: must be 2 or more"):
        EveryMix(schedule="every", pair_every=1)
