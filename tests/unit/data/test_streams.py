"""Streams: every example once an epoch, shares of processes that add up, schedules, controls."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mcse.data.config import ControlsConfig, MixConfig
from mcse.data.controls import assign_images, choose_pairs
from mcse.data.mixing import plan_mixture
from mcse.data.sentences.files import open_sentences
from mcse.data.streams import Sampler, Share, TokenMasker, pad
from mcse.files import read_lines
from mcse.types import IGNORED_LABEL


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
    tokens = pad([np.array([5, 6, 7]), np.array([8])], pad_id=9)
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


@pytest.mark.parametrize(
    ("text_steps", "pair_steps", "ratio", "paired"),
    # MCSE's own numbers of batches at 64: Wiki1M with Flickr30k (29,783) and with COCO (82,783).
    [(15625, 466, 33, 488), (15625, 1294, 12, 1410)],
)
def test_the_published_schedule(text_steps: int, pair_steps: int, ratio: int, paired: int) -> None:
    mixture = plan_mixture(MixConfig(), sentence_steps=text_steps, pair_steps=pair_steps)
    kinds = [mixture.place(step)[0] for step in range(mixture.steps_per_epoch)]
    assert mixture.steps_per_epoch == text_steps + pair_steps
    assert sum(kinds) == paired
    assert kinds == [step % ratio == 0 for step in range(len(kinds))]


def test_roles_swap_where_pairs_outnumber_sentences() -> None:
    mixture = plan_mixture(MixConfig(), sentence_steps=10, pair_steps=55)
    kinds = [mixture.place(step)[0] for step in range(65)]
    assert kinds == [step % 5 != 0 for step in range(65)]


def test_neither_kind_is_starved_at_a_ratio_of_one() -> None:
    for sentences, pairs in ((10, 9), (9, 10)):
        kinds = [plan_mixture(MixConfig(), sentence_steps=sentences, pair_steps=pairs).place(s)[0] for s in range(19)]
        assert {True, False} == set(kinds)


@pytest.mark.parametrize("config", [MixConfig(), MixConfig(schedule="every", pair_every=3)])
def test_both_parts_are_taken_without_gaps_across_epochs(config: MixConfig) -> None:
    mixture = plan_mixture(config, sentence_steps=7, pair_steps=3)
    seen: dict[bool, list[int]] = {True: [], False: []}
    for step in range(45):
        paired, before = mixture.place(step)
        seen[paired].append(before)
    assert all(places == list(range(len(places))) for places in seen.values())
    assert all(seen.values())


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


def test_sentences_are_read_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(b"one\n\n  \ntwo \n"))
    assert list(open_sentences("text.txt.gz", root=tmp_path).rows()) == [("one",), ("two",)]
    assert "skipped 2 blank lines" in caplog.text
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.txt, line 2: not UTF-8"):
        list(read_lines(tmp_path / "latin.txt"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="empty.txt is empty"):
        open_sentences("empty.txt", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="data.sentences: no file at .*absent.txt"):
        open_sentences("absent.txt", root=tmp_path)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        list(open_sentences("blank.txt", root=tmp_path).rows())
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="line 1: expected a header of 3 columns, found 2"):
        list(open_sentences("two.csv", root=tmp_path).rows())
    (tmp_path / "short.csv").write_text("a,b,c\n1,2,3\n1,2\n")
    with pytest.raises(ValueError, match="line 3: 2 columns, not 3"):
        list(open_sentences("short.csv", root=tmp_path).rows())
    (tmp_path / "latin.csv").write_bytes(b"a,b,c\n1,2,caf\xe9\n")
    with pytest.raises(ValueError, match=r"latin.csv, line 2: not UTF-8"):
        list(open_sentences("latin.csv", root=tmp_path).rows())
    (tmp_path / "mac.csv").write_bytes(b"a,b,c\r1,2,3\r")
    with pytest.raises(ValueError, match=r"mac.csv, line \d: broken table"):
        list(open_sentences("mac.csv", root=tmp_path).rows())
    (tmp_path / "quoted.csv").write_bytes(b'\xef\xbb\xbfa,b,c\r\n"one\ntwo",2,3\r\n')
    assert list(open_sentences("quoted.csv", root=tmp_path).rows()) == [("one two", "2", "3")]


def test_the_start_of_a_run_says_what_an_epoch_draws() -> None:
    mixture = plan_mixture(MixConfig(), sentence_steps=15625, pair_steps=466)
    assert mixture.drawn_an_epoch(64) == {"sentences an epoch": 15603 * 64, "pairs an epoch": 488 * 64}


def test_draws_of_one_seed_have_nothing_in_common() -> None:
    order = [Sampler(40, Share(batch_size=40), seed=3, name="data").index(epoch).tolist() for epoch in range(8)]
    control = assign_images(np.arange(40), "shuffled_images", seed=3).tolist()
    pairs = choose_pairs(40, 20, seed=3).tolist()
    assert all(sum(a == b for a, b in zip(epoch, control, strict=True)) < 10 for epoch in order)
    assert all(sorted(epoch[:20]) != pairs for epoch in order)


def test_damaged_gzip_and_marks_are_dealt_with(tmp_path: Path) -> None:
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut.txt.gz, line \d+: damaged gzip file"):
        list(read_lines(tmp_path / "cut.txt.gz"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert list(read_lines(tmp_path / "mark.txt")) == ["one"]
    with pytest.raises(ValueError, match="mix.pair_every: must be 2 or more"):
        MixConfig(schedule="every", pair_every=1)
