"""Vocabularies: order, specials, unknown words, saving."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcse.text.vocab import SPECIALS, Vocab, split_words


def test_frequent_words_come_first_and_ties_by_spelling() -> None:
    vocab = Vocab.from_sentences([["a", "Dog", "runs"], ["a", "dog", "barks"], ["cat"]])
    assert vocab.words == (*SPECIALS, "a", "dog", "barks", "cat", "runs")
    assert Vocab.from_sentences([["a", "a", "b"]], min_count=2).words == (*SPECIALS, "a")
    assert Vocab.from_sentences([["a", "a", "b", "c"]], max_size=2).words == (*SPECIALS, "a", "b")


def test_ids_and_unknown_words() -> None:
    vocab = Vocab.from_sentences([["a", "dog"]])
    assert vocab.ids(["A", "dog", "flies"]).tolist() == [4, 5, 1]
    assert "DOG" in vocab
    assert "flies" not in vocab
    cased = Vocab.from_sentences([["Dog"]], lower_case=False)
    assert cased.ids(["Dog", "dog"]).tolist() == [4, 1]


def test_a_special_in_the_text_is_no_word() -> None:
    assert Vocab.from_sentences([["<unk>", "dog"]]).words == (*SPECIALS, "dog")


def test_saved_and_loaded(tmp_path: Path) -> None:
    vocab = Vocab.from_sentences([["Füße", "'s"]], lower_case=False)
    vocab.save(tmp_path / "vocab.json")
    assert Vocab.load(tmp_path / "vocab.json") == vocab


@pytest.mark.parametrize("text", ["", "{}", '{"words": ["a"], "lower_case": true}'])
def test_what_is_no_vocabulary_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="vocab.json: no vocabulary"):
        Vocab.load(path)


def test_no_words_or_twice_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="no word occurs 3 times"):
        Vocab.from_sentences([["a"]], min_count=3)
    with pytest.raises(ValueError, match="'a' is there twice"):
        Vocab((*SPECIALS, "a", "a"))


def test_split_words() -> None:
    assert split_words("A man's red-hot car, isn't it?") == ["A", "man's", "red-hot", "car", ",", "isn't", "it", "?"]
