"""BIO tags, their repair and counts; words to pieces; tagged files and their batches."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.data.conll import (
    TweetStream,
    check_types,
    control_images,
    cut_tweets,
    find_tags,
    match_tweets,
    read_tagged,
)
from mcse.data.images.names import ABSENT
from mcse.data.streams import Sampler, Share
from mcse.models.text_encoder import load_tokenizer
from mcse.text.tags import Repairs, TagSet, check_tag, repair_tags, types_of
from mcse.text.word_pieces import cut_words, split_words, word_pieces
from tests.fixtures.tiny_models import build_tiny_bert


def test_repair_opens_what_continues_nothing():
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG", "I-ORG", "B-PER", "I-PER"]
    repaired, repairs = repair_tags(tags)
    assert repaired == ("B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert repairs == Repairs(orphan=2, mistyped=1)
    assert repairs.total == 3
    assert repair_tags(repaired) == (repaired, Repairs())


def test_tag_set_names_ids_and_order():
    tags = TagSet(("LOC", "PER"))
    assert tags.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert len(tags) == 5
    assert tags.ids(["I-PER", "O"]).tolist() == [4, 0]
    follow = tags.may_follow()
    assert [tags.names[i] for i in np.flatnonzero(follow[:, 2])] == ["B-LOC", "I-LOC"]
    assert follow[:, [0, 1, 3]].all()
    assert tags.may_start().tolist() == [True, True, False, True, False]
    with pytest.raises(ValueError, match="'B-MISC' is none of"):
        tags.ids(["B-MISC"])


@pytest.mark.parametrize("tag", ["B", "I-", "X", "[SEP]", "b-PER"])
def test_no_tag_is_refused_with_its_place(tag):
    with pytest.raises(ValueError, match="here: tag"):
        check_tag(tag, where="here")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["the", "dog", "and", "the", "cat", "saw", "old", "new", "york", "in", "park", "street"]
    return load_tokenizer(str(build_tiny_bert(tmp_path_factory.mktemp("bert"), texts=[" ".join(words)] * 3)))


def test_words_are_aligned_with_their_first_pieces(tokenizer):
    words = ["the", "dog's", "\ufe0f", "cat"]
    pieces = word_pieces(words, tokenizer)
    assert [len(own) > 0 for own in pieces] == [True] * 4
    (part,) = cut_words(words, tokenizer, max_length=64)
    assert part.start == 0
    assert part.id_T[0] == tokenizer.cls_token_id
    assert part.id_T[-1] == tokenizer.sep_token_id
    for word, first in enumerate(part.first_W):
        assert part.id_T[first : first + len(pieces[word])].tolist() == pieces[word]
    plain = tokenizer(words, is_split_into_words=True)["input_ids"]
    missing = sum(word not in {w for w in tokenizer(words, is_split_into_words=True).word_ids()} for word in range(4))
    assert len(part.id_T) == len(plain) + missing


def test_long_texts_are_cut_between_entities_and_lose_no_word(tokenizer):
    words = ["the"] * 4 + ["new", "york"] + ["park"] * 5
    whole = cut_words(words, tokenizer, max_length=64)
    assert len(whole) == 1
    sizes = [len(own) for own in word_pieces(words, tokenizer)]
    room = sum(sizes[:5])  # the cut would fall between "new" and "york"
    joined = [word == "york" for word in words]
    parts = cut_words(words, tokenizer, max_length=room + 2, joined_W=joined)
    assert sum(len(part) for part in parts) == len(words)
    assert parts[1].start == 4, "cut before the entity, not inside it"
    assert [part.start for part in cut_words(words, tokenizer, max_length=room + 2)][1] == 5
    assert all(len(part.id_T) <= room + 2 for part in parts)
    with pytest.raises(ValueError, match="cannot hold the entity that begins 'new york"):
        cut_words(["new", "york", "york"], tokenizer, max_length=sizes[4] + sizes[5] + 2, joined_W=[False, True, True])
    with pytest.raises(ValueError, match="leaves no room"):
        cut_words(words, tokenizer, max_length=2)


def test_plain_text_is_split_with_its_characters():
    text = "RT @fan: see http://t.co/a1 — O'Neil's #NewYork!"
    found = split_words(text)
    assert [word for word, _, _ in found] == [
        "RT",
        "@fan",
        ":",
        "see",
        "http://t.co/a1",
        "—",
        "O'Neil's",
        "#NewYork",
        "!",
    ]
    assert all(text[start:stop] == word for word, start, stop in found)


CONLL = """IMGID:10
the\tO
new\tB-LOC
york\tI-LOC

IMGID:11
old\tI-PER
dog\tO

cat O
"""


def write(folder, text=CONLL):
    path = folder / "tweets.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_is_read_with_images_and_lines(tmp_path):
    texts = read_tagged(write(tmp_path))
    assert [text.words for text in texts.texts] == [("the", "new", "york"), ("old", "dog"), ("cat",)]
    assert [text.image for text in texts.texts] == ["10", "11", None]
    assert [text.line for text in texts.texts] == [2, 7, 10]
    assert texts.repairs == Repairs(orphan=1)
    assert texts.tags[1] == ("I-PER", "O"), "as the file has them"
    assert find_tags(texts).types == ("LOC", "PER") == types_of(texts.tags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMGID:1\nthe\tO\ncat\tX\n", "line 3: tag 'X'"),
        ("the\tO\nIMGID:1\n", "line 2: an IMGID: line inside a text"),
        ("IMGID:1\n\nIMGID:2\ncat\tO\n", "line 1: no words between it and line 3"),
        ("\n\n", "no texts in it"),
    ],
)
def test_damaged_files_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_tagged(write(tmp_path, text))


def test_a_line_without_a_tag_in_a_tagged_file_is_said(tmp_path, caplog):
    assert read_tagged(write(tmp_path, "the\tO\ncat\nsat\tB-X\n")).tags == [("O", "O", "B-X")]
    assert "1 lines have no tag and count as O, line 2 first" in caplog.text
    caplog.clear()
    assert not read_tagged(write(tmp_path, "the\ncat\n")).has_tags
    assert not caplog.text


def test_types_that_training_lacks_are_refused(tmp_path):
    texts = read_tagged(write(tmp_path))
    with pytest.raises(ValueError, match="line 7: type 'PER', but the tagger knows LOC, MISC"):
        check_types(texts, TagSet(("LOC", "MISC")))
    with pytest.raises(ValueError, match="line 3: type 'XYZ'"):
        check_types(read_tagged(write(tmp_path, "the\tO\nbig\tB-LOC\ncat\tB-XYZ\n")), TagSet(("LOC", "MISC")))
    with pytest.raises(ValueError, match="every tag is O"):
        find_tags(read_tagged(write(tmp_path, "cat\tO\n")))


class Rows:
    """A stand-in for a store: row i holds the number i."""

    def rows(self, index):
        return np.asarray(index, dtype=np.float32)[:, None]


def stream(parts, *, batch_size, rank=0, world_size=1, num_swapped=8):
    sampler = Sampler(len(parts), Share(batch_size, rank, world_size), seed=3, name="data.train")
    return TweetStream(parts, Rows(), sampler, pad_id=0, num_swapped=num_swapped, seed=3, blank=(1,))


def tweets(tmp_path, tokenizer, count=40):
    blocks = [f"IMGID:{n}\nthe\tO\nnew\tB-LOC\nyork\tI-LOC\n" + "dog\tO\n" * (n % 3) for n in range(count)]
    texts = read_tagged(write(tmp_path, "\n".join(blocks)))
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
    with pytest.raises(ValueError, match="loss.num_swapped: 8 swapped tweets of 6"):
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


def test_tweets_without_images_are_counted(tmp_path, caplog):
    from mcse.data.images.features import open_features

    np.save(tmp_path / "bare.npy", np.ones((2, 4), dtype=np.float32))
    texts = read_tagged(write(tmp_path))
    with pytest.raises(ValueError, match="no image names"):
        match_tweets(texts, open_features(tmp_path / "bare.npy"))
    assert match_tweets(texts, None).tolist() == [ABSENT] * 3


def test_twitter2015_is_read_repaired_and_counted(real_data):
    expected = {"train": (4000, 186), "valid": (1000, 53), "test": (3257, 135)}
    for split, (count, repaired) in expected.items():
        texts = read_tagged(real_data / "twitter2015" / f"{split}.txt")
        assert (len(texts), texts.repairs.total) == (count, repaired)
        assert find_tags(texts).types == ("LOC", "ORG", "OTHER", "PER")
        assert all(text.image is not None for text in texts.texts)
