"""Spans and their scores: by hand, and against seqeval under both of its modes on any tags, valid or not."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from mcse.metrics.spans import Span, SpanScores, find_spans, span_scores
from mcse.text.tags import TagSet, repair_tags

NAMES = TagSet(("LOC", "ORG", "PER")).names


def any_tags(rng, length):
    return [rng.choice(NAMES) for _ in range(length)]


def many(seed, count=300):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 12) for _ in range(count)]
    return [any_tags(rng, n) for n in lengths], [any_tags(rng, n) for n in lengths]


def test_spans_by_hand():
    tags = ["I-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-ORG", "B-LOC", "B-LOC"]
    assert find_spans(tags, "lenient") == [
        Span(0, 2, "PER"),
        Span(3, 5, "LOC"),
        Span(5, 6, "ORG"),
        Span(6, 7, "LOC"),
        Span(7, 8, "LOC"),
    ]
    assert find_spans(tags, "strict") == [Span(3, 5, "LOC"), Span(6, 7, "LOC"), Span(7, 8, "LOC")]
    assert find_spans([], "strict") == []


def test_spans_equal_seqevals():
    tags, _ = many(0)
    for one in tags:
        lenient = [(span.kind, span.start, span.stop - 1) for span in find_spans(one, "lenient")]
        assert lenient == get_entities(one)
        strict = [(span.start, span.stop, span.kind) for span in find_spans(one, "strict")]
        assert strict == [(e.start, e.end, e.tag) for e in Entities([one], IOB2).entities[0]]
    assert any(find_spans(one, "strict") != find_spans(one, "lenient") for one in tags)


@pytest.mark.parametrize("reading", ["strict", "lenient"])
def test_scores_equal_seqevals(reading):
    gold, predicted = many(1)
    options = {"mode": "strict", "scheme": IOB2} if reading == "strict" else {}
    report = classification_report(gold, predicted, output_dict=True, zero_division=0, **options)
    overall, by_type = span_scores(gold, predicted, reading=reading)
    assert overall.right > 50
    for ours, theirs in [(overall, report["micro avg"]), *((by_type[kind], report[kind]) for kind in by_type)]:
        assert ours.precision == pytest.approx(100 * theirs["precision"])
        assert ours.recall == pytest.approx(100 * theirs["recall"])
        assert ours.f1 == pytest.approx(100 * theirs["f1-score"])
        assert ours.gold == theirs["support"]


def test_repair_keeps_the_lenient_spans():
    for tags in many(2)[0]:
        repaired, _ = repair_tags(tags)
        assert find_spans(repaired, "strict") == find_spans(repaired, "lenient") == find_spans(tags, "lenient")


def test_nothing_predicted_scores_zero():
    assert SpanScores(0, 0, 0).f1 == SpanScores(3, 0, 0).precision == SpanScores(0, 2, 0).recall == 0
    overall, by_type = span_scores([["B-LOC"]], [["O"]], reading="strict")
    assert (overall.f1, overall.gold) == (0, 1)
    assert set(by_type) == {"LOC"}
    with pytest.raises(ValueError, match="sentence 0: 1 gold tags, but 2 predicted"):
        span_scores([["O"]], [["O", "O"]], reading="strict")
