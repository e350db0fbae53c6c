"""Whether an export gives what was evaluated: its embeddings beside PyTorch's, of sentences of many lengths.

N sentences, D embedding width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mcse.metrics.correlation import spearman
from mcse.types import FloatArray

SENTENCES, _TOGETHER = 320, 16

_LARGEST = {"fp32": 1e-5, "fp16": 5e-3}
"""Differences of a number of a unit embedding that are allowed."""

_LEAST_CORRELATION = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.95}

_SUBJECTS = (
    "a man;the old woman;two dogs;my neighbour;a group of children;the president;nobody;our teacher;the "
    "red car;a small company;the river;an unknown author;three soldiers;the orchestra;a black cat"
)
_VERBS = (
    "plays;has sold;is looking for;will never forget;paints;destroyed;crosses;wrote about;is afraid "
    "of;carries;discovered;wants to buy;does not understand;repairs;was waiting for"
)
_OBJECTS = (
    "the guitar;an apple;a new house;the meaning of the law;seven letters;the green field;a broken "
    "window;the price of oil;his own name;the last train;a theory of gravity;some bread;the football "
    "match;a painting by Monet;the border"
)
_ENDS = (
    ";in the rain;because it was late;, while others sleep;on 12 May 1987;with great care;near the "
    "church;again;for the first time in many years;without a word;at 37 °C;, he said;for "
    "money;yesterday;in São Paulo"
)


class _Encoder(Protocol):
    def encode(self, sentences: list[str], *, batch_size: int = 64, normalize: bool = True) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """An export beside PyTorch.

    Attributes:
        largest: Difference of a number of an embedding.
        correlation: Spearman's, between the cosines of all pairs of sentences.
        sentences: How many were compared.
    """

    largest: float
    correlation: float
    sentences: int


def drawn_sentences(words: Sequence[str], *, number: int = SENTENCES, seed: int = 0) -> list[str]:
    """Sentences, all different, from one word to some four hundred; always the same.

    One half is plain English, the other of the ``words`` of the model's own vocabulary, which may know no English.
    """
    draw = random.Random(seed)
    kinds = [part.split(";") for part in (_SUBJECTS, _VERBS, _OBJECTS, _ENDS)]
    found: dict[str, None] = {}
    for place in range(2 * number):
        # Most are short. A few go on, up to what models can read; they make padding beside the others.
        is_long = place % 61 == 0
        if words and place % 2:
            parts = draw.choices(words, k=draw.randrange(1, 200 if is_long else 25))
        else:
            clauses = draw.randrange(10, 35) if is_long else draw.choice((1, 1, 1, 2))
            parts = [draw.choice(part_of) for _ in range(clauses) for part_of in kinds]
        found[" ".join(part for part in parts if part).replace(" ,", ",")] = None
    return list(found)[:number]


def compared(torch_ND: FloatArray, other_ND: FloatArray) -> Comparison:
    """Embeddings of the same sentences, by PyTorch and by an export.

    Raises:
        ValueError: They are of another shape, or not finite.
    """
    if torch_ND.shape != other_ND.shape or not np.isfinite(other_ND).all():
        raise ValueError(f"embeddings of shape {other_ND.shape} beside {torch_ND.shape}, or not all finite")
    above = np.triu_indices(len(torch_ND), 1)
    cosines = [(row_ND @ row_ND.T)[above] for row_ND in (other_ND, torch_ND)]
    return Comparison(float(np.abs(torch_ND - other_ND).max()), spearman(*cosines), len(torch_ND))


def check(found: Comparison, *, precision: str, name: str) -> None:
    """Refuses an export that is not what was evaluated.

    Raises:
        ValueError: Its numbers differ by more than the precision explains, or order pairs of sentences otherwise.
    """
    most, least = _LARGEST.get(precision, np.inf), _LEAST_CORRELATION[precision]
    if not (found.largest <= most and found.correlation >= least):
        bounds = f"at least {least:g}" if most == np.inf else f"at most {most:g} and at least {least:g}"
        raise ValueError(
            f"{name} in {precision} is not what was evaluated: largest difference from PyTorch {found.largest:.1e}, "
            f"rank correlation {found.correlation:.4f}, of {found.sentences} sentences ({bounds} are asked for); "
            "nothing is written"
        )


def in_mixed_batches(encoder: _Encoder, sentences: list[str], *, normalize: bool = True) -> FloatArray:
    """(N, D) embeddings, encoded with others of any length beside them: short sentences get much padding.

    Args:
        encoder: Gives them.
        sentences: In an order that has nothing to do with their lengths.
        normalize: False leaves the norm to the export, which must give 1.
    """
    parts = [sentences[start : start + _TOGETHER] for start in range(0, len(sentences), _TOGETHER)]
    return np.concatenate([encoder.encode(part, batch_size=_TOGETHER, normalize=normalize) for part in parts])
