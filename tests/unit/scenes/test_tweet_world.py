"""The tweet world: reproducible to the byte, kept where it stands, and never in place of something else."""

import pytest

from mcse.files import sha256_file
from mcse.scenes.tweet_world import TweetWorldConfig, build_tweet_world, names_of

SMALL = TweetWorldConfig(num_train=50, num_dev=10, num_test=10)


def test_the_texts_of_a_seed_stay_what_they_were(tmp_path):
    world = build_tweet_world(tmp_path / "world", config=SMALL)
    texts = sha256_file(*(world / name for name in ("train.txt", "dev.txt", "test.txt", "pairs.csv")))
    assert texts == "b73ef52227c25bdecd15ea6fe3353260d1de7d7ecdb21718ec9314834fa3512e"
    assert len(list((world / "images").iterdir())) == 70
    assert names_of(0) != names_of(1)


def test_the_same_world_is_kept_and_anything_else_refused(tmp_path):
    world = build_tweet_world(tmp_path / "world", config=SMALL)
    (world / "train.txt").write_text("mine")
    assert build_tweet_world(world, config=SMALL) == world
    assert (world / "train.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="not empty and holds another world"):
        build_tweet_world(world, config=TweetWorldConfig(seed=1, num_train=50, num_dev=10, num_test=10))
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
