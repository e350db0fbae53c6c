"""Words to pieces, and long texts cut into parts."""

from __future__ import annotations

import pytest

from mcse.models.text_loading import load_tokenizer
from mcse.text.word_pieces import cut_words, tweet_words, word_pieces
from tests.fixtures.tiny_models import build_tiny_bert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["the", "dog", "and", "the", "cat", "saw", "old", "new", "york", "in", "park", "street"]
    return load_tokenizer(str(build_tiny_bert(tmp_path_factory.mktemp("bert"), texts=[" ".join(words)] * 3))).inner


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
    found = tweet_words(text)
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
