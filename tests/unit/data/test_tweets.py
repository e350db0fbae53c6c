"""Batches of tagged tweets, their swaps, and their images."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.conll import find_tags, read_conll
from mcse.data.images.features import open_features
from mcse.data.images.names import ABSENT
from mcse.data.streams import Sampler, Share
from mcse.data.tweets import TweetStream, control_images, cut_tweets, tweets_to_images
from mcse.models.text_loading import load_tokenizer
from tests.fixtures.tiny_models import build_tiny_bert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["the", "dog", "and", "the", "cat", "saw", "old", "new", "york", "in", "park", "street"]
    return load_tokenizer(str(build_tiny_bert(tmp_path_factory.mktemp("bert"), texts=[" ".join(words)] * 3))).inner


def write(folder, text):
    path = folder / "tweets.txt"
    path.write_text(text, encoding="utf-8")
    return path


class Rows:
    """A stand-in for a store: row i holds the number i."""

    def rows(self, index):
        return np.asarray(index, dtype=np.float32)[:, None]


def stream(parts, *, batch_size, rank=0, world_size=1, num_swapped=8):
    sampler = Sampler(len(parts), Share(batch_size, rank, world_size), seed=3, name="data.train")
    return TweetStream(parts, Rows(), sampler, pad_id=0, num_swapped=num_swapped, seed=3, blank=(1,))


def tweets(tmp_path, tokenizer, count=40):
    blocks = [f"IMGID:{n}\nthe\tO\nnew\tB-LOC\nyork\tI-LOC\n" + "dog\tO\n" * (n % 3) for n in range(count)]
    texts = read_conll(write(tmp_path, "\n".join(blocks)))
    rows = np.arange(count)
    rows[::5] = ABSENT
    return cut_tweets(texts, rows, tags=find_tags(texts), tokenizer=tokenizer, max_length=32)


def test_swaps_are_pairs_with_images_and_do_not_depend_on_processes(tmp_path, tokenizer):
    parts = tweets(tmp_path, tokenizer)
    seen = 0
    for step in range(4):
        whole = stream(parts, batch_size=16).batch(step)
        halves = [stream(parts, batch_size=8, rank=rank, world_size=2).batch(step) for rank in (0, 1)]
        joined = np.concatenate([half.partner_B.numpy() + 8 * rank for rank, half in enumerate(halves)])
        assert joined.tolist() == whole.partner_B.tolist()
        partner = whole.partner_B.numpy()
        swapped = partner != np.arange(16)
        assert (partner[partner] == np.arange(16)).all()
        assert whole.has_image_B.numpy()[swapped].all()
        assert swapped.sum() <= 8
        seen += swapped.sum()
        has = whole.has_image_B
        assert (whole.image_BF[has, 0].long() == whole.image_id_B[has]).all()
        assert not whole.image_BF[~has].any()
        # A batch is a pure function of its step.
        assert (stream(parts, batch_size=16).batch(step).partner_B == whole.partner_B).all()
    assert seen > 10
    assert (stream(parts, batch_size=16, num_swapped=0).batch(0).partner_B.numpy() == np.arange(16)).all()
    with pytest.raises(ValueError, match="loss.matching.num_swapped: 8 swapped tweets of 6"):
        stream(parts, batch_size=6)


def test_batch_points_at_first_pieces_and_repaired_tags(tmp_path, tokenizer):
    batch = stream(tweets(tmp_path, tokenizer), batch_size=16).batch(0)
    york = tokenizer("york", add_special_tokens=False)["input_ids"][0]
    where = batch.tag_BW == 2
    assert where.any()
    assert (batch.tokens.input_ids_BT.gather(1, batch.first_BW)[where] == york).all()
    assert not batch.tag_BW[~batch.word_mask_BW].any()


def test_controls_shuffle_only_what_has_a_image():
    rows = np.asarray([4, ABSENT, 5, 6, ABSENT, 7])
    shuffled = control_images(rows, "shuffled_images", seed=0)
    assert (shuffled[[1, 4]] == ABSENT).all()
    assert sorted(shuffled[[0, 2, 3, 5]]) == [4, 5, 6, 7]
    assert (shuffled[[0, 2, 3, 5]] != [4, 5, 6, 7]).all()
    assert control_images(rows, True, seed=0).tolist() == rows.tolist()
    noisy = control_images(rows, True, seed=0, wrong_images=0.5)
    assert (noisy != rows).sum() == round(0.5 * (rows != ABSENT).sum())
    assert ((noisy == ABSENT) == (rows == ABSENT)).all()


def test_tweets_without_images_are_counted(tmp_path, caplog):
    np.save(tmp_path / "bare.npy", np.ones((2, 4), dtype=np.float32))
    texts = read_conll(write(tmp_path, "IMGID:1\ncat\tO\n\ndog\tO\n"))
    with pytest.raises(ValueError, match="no image names"):
        tweets_to_images(texts, open_features(tmp_path / "bare.npy"))
    assert tweets_to_images(texts, None).tolist() == [ABSENT] * 2
