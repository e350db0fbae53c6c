"""What counts as the same sentence, and as nearly the same."""

from __future__ import annotations

import logging
import random

import numpy as np

from mcse.data.captions.table import CaptionTable
from mcse.data.load import clean_images
from mcse.data.test_sets.contamination import (
    NEAR_LETTERS,
    NearDuplicates,
    is_near,
    nearly_seen,
    normalise,
    unseen,
)


def test_tokenisation_makes_no_other_sentence():
    """Bug: eight pairs of STS15 were taken for clean, as STS parts words that captions do not."""
    seen = frozenset({normalise("A dog carries it's ball in its mouth.")})
    assert normalise("a dog carries it 's ball in its mouth") in seen
    left = ("A dog carries it 's ball in its mouth .", "A cat carries it 's ball in its mouth .")
    assert unseen(left, ("x", "y"), seen=seen).tolist() == [False, True]
    assert unseen(("x", "y"), left, seen=seen).tolist() == [False, True]
    assert normalise("A-b_c  D!") == "ab_cd"


def by_loops(left, right):
    """Letters in common at the beginning, and at the end of what is left, over those of the longer."""
    longer, shorter = max(len(left), len(right)), min(len(left), len(right))
    first = 0
    while first < shorter and left[first] == right[first]:
        first += 1
    last = 0
    while last < shorter - first and left[-1 - last] == right[-1 - last]:
        last += 1
    return longer >= NEAR_LETTERS and 10 * (first + last) >= 8 * longer


def test_nearly_the_same_is_found_as_comparing_each_with_each_finds_it():
    draw = random.Random(0)
    words = ["a", "dog", "runs", "quickly", "through", "the", "field", "its", "ball"]
    known = {"".join(draw.choices(words, k=draw.randrange(1, 11))) for _ in range(150)}
    asked = []
    for sentence in sorted(known):
        place = draw.randrange(len(sentence) + 1)
        asked.append(
            sentence[:place] + draw.choice(["", "not", "green"]) + sentence[place + draw.choice([0, 0, 3, 9]) :]
        )
    near = NearDuplicates(known)
    found = [near.holds(sentence) for sentence in asked]
    expected = [sentence not in known and any(by_loops(sentence, other) for other in known) for sentence in asked]
    assert found == expected
    assert {True, False} == {is_near(left, right) for left in asked for right in known}
    assert all(is_near(left, right) == by_loops(left, right) for left in asked for right in known)
    assert 20 < sum(found) < 130


def test_what_is_nearly_the_same_says_itself():
    known = "A person in a black jacket is doing tricks on a motorbike"
    near = {
        "A man in a black jacket is doing tricks on a motorbike.": True,
        "A person in a black jacket doing tricks on a motorbike": True,
        known: False,
        "There is no person in a black jacket doing tricks with a bike": False,
        "A dog runs": False,
    }
    found = nearly_seen(near, ["-"] * 5, seen=frozenset({normalise(known), normalise("A dog ran")}))
    assert dict(zip(near, found.tolist(), strict=True)) == near
    np.testing.assert_array_equal(found, nearly_seen(["-"] * 5, near, seen=frozenset(map(normalise, [known]))))


def test_decontamination_says_what_is_nearly_the_same_and_stays(monkeypatch, caplog):
    test = "a man with a red hat rides it 's horse"
    monkeypatch.setattr("mcse.data.load.sts_test_sentences", lambda folder: frozenset({normalise(test)}))
    captions = (("A man with a red hat rides it's horse.",), ("A man with a green hat rides it's horse.",), ("A dog.",))
    table = CaptionTable(image_names=("a", "b", "c"), captions=captions, source="captions.csv", files=())
    with caplog.at_level(logging.WARNING):
        assert clean_images(table, "tests").tolist() == [False, True, True]
    assert "captions.csv: dropped 1 images whose captions occur in STS test files" in caplog.text
    assert "captions.csv: 1 images kept have a caption that is nearly the same" in caplog.text
