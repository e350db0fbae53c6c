"""Controls: other images, fewer pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mcse.data.controls import assign_images, captions_of_images, choose_pairs
from mcse.data.controls_config import ControlsConfig, ImageControls
from mcse.data.streams import PairStream, Sampler, Share
from mcse.data.teacher_config import TaughtImageControls


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


def test_a_share_of_wrong_images_is_exact_nested_and_never_the_own_image() -> None:
    own = np.repeat(np.arange(10, 90, 2), 5)  # numbers of images need not be dense
    shown = {share: assign_images(own, True, seed=7, wrong_images=share) for share in (0.1, 0.3, 0.5, 1.0)}
    for share, images in shown.items():
        assert (images != own).sum() == round(share * 200)
        assert set(images.tolist()) <= set(own.tolist())
    for less, more in itertools.pairwise(shown.values()):
        wrong = less != own
        assert (less[wrong] == more[wrong]).all()
    assert (assign_images(own, True, seed=8, wrong_images=0.3) != shown[0.3]).any()
    assert assign_images(own, True, seed=7, wrong_images=0.0) is own
    # Which pairs are wrong and which other image they get is drawn evenly: each of 4 images comes for each of the
    # others in a third of the cases, within four standard deviations of a binomial.
    many = np.tile(np.arange(4), 6000)
    drawn = assign_images(many, True, seed=1, wrong_images=0.5)
    for image, other in itertools.permutations(range(4), 2):
        expected = 6000 * 0.5 / 3
        assert abs(((many == image) & (drawn == other)).sum() - expected) < 4 * (expected * (1 - 0.5 / 3)) ** 0.5


def test_wrong_images_do_not_depend_on_processes() -> None:
    class Numbers:
        columns = 1

        def __len__(self) -> int:
            return 40

        def ids(self, index, *, column=0):
            return [np.asarray([row]) for row in index]

        def rows(self, index):
            return np.asarray(index, dtype=np.float32)[:, None]

    shown = assign_images(np.arange(40), True, seed=5, wrong_images=0.25)

    def images(step: int, *shares: Share) -> list[int]:
        streams = [
            PairStream(Numbers(), shown, Numbers(), Sampler(40, share, seed=5, name="data.captions"), pad_id=0)
            for share in shares
        ]
        return [image for stream in streams for image in stream.batch(step).image_id_B.tolist()]

    for step in range(6):
        assert images(step, Share(8)) == images(step, *(Share(4, rank, 2) for rank in (0, 1)))


def test_controls_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="wrong_images: 0.3 needs two images"):
        assign_images(np.zeros(4, dtype=np.int64), True, seed=0, wrong_images=0.3)
    with pytest.raises(ValueError, match="controls.wrong_images: 0.01 of 40 pairs is not one pair"):
        assign_images(np.arange(40), True, seed=0, wrong_images=0.01)
    for kind in (ControlsConfig, ImageControls, TaughtImageControls):
        with pytest.raises(ValueError, match=r"controls.wrong_images: must be a share in \[0, 1\], got 1.5"):
            kind(wrong_images=1.5)
        with pytest.raises(ValueError, match="controls.wrong_images, controls.images: under shuffled_images every"):
            kind(wrong_images=0.1, images="shuffled_images")
    with pytest.raises(ValueError, match="needs two images"):
        assign_images(np.zeros(4, dtype=np.int64), "shuffled_pairs", seed=0)
    with pytest.raises(ValueError, match="more than half the captions"):
        assign_images(np.array([0, 0, 0, 1]), "shuffled_pairs", seed=0)
    with pytest.raises(ValueError, match="5 asked for, but there are only 4 pairs"):
        choose_pairs(4, 5, seed=0)
    with pytest.raises(ValueError, match="controls.num_pairs"):
        ControlsConfig(num_pairs=0)
    assert len(choose_pairs(10, 4, seed=0)) == 4
    with pytest.raises(ValueError, match="controls.num_images: 5 asked for, but there are only 4 images"):
        captions_of_images(np.array([0, 0, 2, 5, 9]), 5, seed=0)
    with pytest.raises(ValueError, match="controls.num_images: must be 1 or more, got 0"):
        ControlsConfig(num_images=0)


def test_fewer_images_keep_all_their_captions_and_are_among_more_images() -> None:
    image_of_caption = np.array([7, 7, 3, 9, 3, 1, 4, 9, 9, 1])
    kept = {number: captions_of_images(image_of_caption, number, seed=5).tolist() for number in range(1, 6)}
    for number, captions in kept.items():
        images = {int(image_of_caption[caption]) for caption in captions}
        assert len(images) == number
        assert captions == [i for i, image in enumerate(image_of_caption) if image in images]
        assert set(captions) <= set(kept[min(number + 1, 5)])
    assert any(captions_of_images(image_of_caption, 1, seed=seed).tolist() != kept[1] for seed in range(6, 10))


def test_draws_of_one_seed_have_nothing_in_common() -> None:
    order = [Sampler(40, Share(batch_size=40), seed=3, name="data").index(epoch).tolist() for epoch in range(8)]
    control = assign_images(np.arange(40), "shuffled_images", seed=3).tolist()
    pairs = choose_pairs(40, 20, seed=3).tolist()
    assert all(sum(a == b for a, b in zip(epoch, control, strict=True)) < 10 for epoch in order)
    assert all(sorted(epoch[:20]) != pairs for epoch in order)
