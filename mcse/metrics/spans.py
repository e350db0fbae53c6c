"""Entity spans: which spans a row of BIO tags holds, and precision, recall and F1 of predicted ones.

Two readings. ``strict``: an entity opens with ``B-``, and an ``I-`` that continues nothing is no entity (seqeval's
strict mode under IOB2). ``lenient``: such an ``I-`` opens an entity (conlleval, seqeval's default mode), which is what
the published Twitter scores use. On valid BIO the two agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reading = Literal["strict", "lenient"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Words ``start`` … ``stop - 1`` are an entity of type ``kind``."""

    start: int
    stop: int
    kind: str


@dataclass(frozen=True, slots=True)
class SpanScores:
    """How many spans there are in gold and prediction, and how many agree in place and type; ratios × 100."""

    gold: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the predicted spans that are right; 0 where none was predicted."""
        return 100 * self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the gold spans that were found; 0 where there are none."""
        return 100 * self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 0 where nothing is right."""
        return 200 * self.right / (self.gold + self.predicted) if self.right else 0.0

    def __add__(self, other: SpanScores) -> SpanScores:
        return SpanScores(self.gold + other.gold, self.predicted + other.predicted, self.right + other.right)


def find_spans(tags: Sequence[str], reading: Reading) -> list[Span]:
    """The spans of a sentence's BIO tags, in order.

    A span ends before a ``B-``, an ``O`` or another type. Under ``strict`` an ``I-`` that continues nothing is skipped,
    as are the ``I-`` of its type behind it.
    """
    spans: list[Span] = []
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        goes_on = tag.startswith("I-") and tag[2:] == kind
        if kind and not goes_on:
            spans.append(Span(start, place, kind))
            kind = ""
        if tag.startswith("B-") or (tag.startswith("I-") and not goes_on and reading == "lenient"):
            start, kind = place, tag[2:]
    return spans


def span_scores(
    gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]], *, reading: Reading
) -> tuple[SpanScores, Mapping[str, SpanScores]]:
    """Counts over all sentences (micro), and by type.

    Raises:
        ValueError: Different numbers of sentences, or of tags in one of them (by number).
    """
    by_type: dict[str, SpanScores] = {}
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(f"sentence {number}: {len(gold_tags)} gold tags, but {len(predicted_tags)} predicted")
        wanted, found = set(find_spans(gold_tags, reading)), set(find_spans(predicted_tags, reading))
        for kind in sorted({span.kind for span in wanted | found}):
            counts = (sum(span.kind == kind for span in group) for group in (wanted, found, wanted & found))
            by_type[kind] = by_type.get(kind, SpanScores(0, 0, 0)) + SpanScores(*counts)
    return sum(by_type.values(), SpanScores(0, 0, 0)), dict(sorted(by_type.items()))
