"""Occurrences, neighbours and pseudo-words on encoders that one can see through."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.evaluation.contexts import Occurrence, find_occurrences, nearest_occurrences, pseudo_word_senses


class BesideEncoder:
    """A word is the word to its left, as a one-hot vector."""

    def embed(self, sentences, *, batch_size=64):
        lefts = [["", *words[:-1]] for words in sentences]
        return [np.stack([self.row(word) for word in words]) for words in lefts]

    def row(self, word):
        return np.eye(16, dtype=np.float32)[sum(map(ord, word)) % 16]


class StaticEncoder:
    """Every word is the same everywhere."""

    def embed(self, sentences, *, batch_size=64):
        return [np.ones((len(words), 2), dtype=np.float32) for words in sentences]


TEXT = [["she", "plays", "the", "play"], ["Play", "it"], ["no", "one"], ["they", "play", "and", "play"]]


def test_occurrences_are_found_in_any_case_and_counted_by_word():
    found = find_occurrences(TEXT, ["play"])
    assert [(occurrence.word, occurrence.place) for occurrence in found] == [
        ("play", 3),
        ("Play", 0),
        ("play", 1),
        ("play", 3),
    ]
    assert len(find_occurrences(TEXT, ["play", "no"], limit=1)) == 2


def test_neighbours_share_their_context_and_come_from_other_sentences():
    query = Occurrence(("see", "the", "play"), 2)
    found = nearest_occurrences(BesideEncoder(), query, find_occurrences(TEXT, ["play"]), k=2)
    assert found[0].occurrence.words == tuple(TEXT[0])
    assert found[0].cosine == pytest.approx(1)
    assert len(found) == 2
    assert found[1].cosine < 1
    with pytest.raises(ValueError, match="no occurrence of 'play'"):
        nearest_occurrences(BesideEncoder(), query, [query])


def test_pseudo_words_are_told_by_context_alone():
    text = [["red", "apple", "x"], ["blue", "sea", "y"]] * 20
    score = pseudo_word_senses(BesideEncoder(), text, [("apple", "sea")])[0]
    assert (score.accuracy, score.tested) == (100, 20)
    static = pseudo_word_senses(StaticEncoder(), text, [("apple", "sea")])[0]
    assert static.accuracy < 80
    assert static.most_frequent < 80
    own = [["apple"], ["sea"]] * 20  # nothing around tells them apart, and the word itself must not
    assert pseudo_word_senses(BesideEncoder(), own, [("apple", "sea")])[0].accuracy < 80
    with pytest.raises(ValueError, match="'pear' occurs 0 times"):
        pseudo_word_senses(BesideEncoder(), text, [("apple", "pear")])
