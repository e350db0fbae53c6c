"""Words of the picture world: vectors as if from text alone, how similar words look, and captions that leave some out.

Words for the same look come in three. Text vectors mix a strong topical code, drawn at random word by word, with a weak
trace of the look, as text tells a little of what things look like. Gold is the likeness of the looks alone: of colours
their RGB, of shapes their silhouette, of sizes their sign; words of different kinds have nothing in common. The third
word of every concept is held out of the captions, so that its vector can gain only by a map learnt from other words.

The weights of topic and look were fixed before any model ran on these vectors, after the toy world of our notes.

W words, D width of text vectors, L width of looks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.files import replacing, write_text
from mcse.scenes.drawing import COLOURS, SHAPES, draw_silhouette
from mcse.scenes.grammar import LEXICON, PLURALS
from mcse.scenes.world import SIZES

TEXT_WIDTH = 60
_TOPIC_WIDTH = 12
_LOOK_WEIGHT, _TOPIC_WEIGHT, _NOISE = 1.0, 2.0, 0.1
_SILHOUETTE_SIDE = 16
_HIGHEST = 10.0

VECTORS, SIMILARITY, CAPTIONS = "word_vectors.txt", "word_similarity.tsv", "word_captions.csv"


@dataclass(frozen=True, slots=True)
class Word:
    """A word for a look; ``is_held_out`` of the captions."""

    text: str
    concept: str
    kind: str
    is_held_out: bool


def visible_words() -> list[Word]:
    """The single words for colours, shapes and sizes."""
    kinds = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "size": SIZES}
    return [
        Word(text, concept, kind, is_held_out=number == len(LEXICON[concept]) - 1)
        for kind, concepts in kinds.items()
        for concept in concepts
        for number, text in enumerate(LEXICON[concept])
    ]


def write_word_files(world: Path, *, seed: int = 0) -> None:
    """Writes vectors, similarity set and captions of a world's words into its folder.

    ``word_vectors.txt`` holds all words of the captions, visible or not, and the held-out ones. The similarity set's
    subsets are "seen" (both words in captions), and "unseen" (at least one is held out).

    Args:
        world: As ``build_world`` made it.
        seed: Draws the text vectors.
    """
    captions = _captions(world / "captions.csv")
    spoken = sorted({token for _, caption in captions for token in caption.split()})
    write_text(world / VECTORS, _vectors(spoken, seed=seed))
    write_text(world / SIMILARITY, _similarity())
    with replacing(world / CAPTIONS) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("image", "caption"), *captions])


def look_similarity(left: Word, right: Word) -> float:
    """Cosine of two words' looks, in [-1, 1]; 0 for words of different kinds, 1 for words of one concept."""
    looks = _looks()
    return float(looks[left.concept] @ looks[right.concept])


def _captions(path: Path) -> list[tuple[str, str]]:
    """The world's captions with a held-out word replaced by another of its concept, singular or plural."""
    kept: dict[str, str] = {}
    for word in visible_words():
        if word.is_held_out:
            for form, instead in zip(_forms(word.text), _forms(LEXICON[word.concept][0]), strict=True):
                kept[form] = instead
    pattern = re.compile(r"\b(" + "|".join(sorted(kept, key=len, reverse=True)) + r")\b")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(row["image"], pattern.sub(lambda found: kept[found[0]], row["caption"])) for row in rows]


def _forms(word: str) -> tuple[str, str]:
    return word, PLURALS.get(word, word + "s")


def _vectors(spoken: list[str], *, seed: int) -> str:
    looks = _looks()
    look_width = len(next(iter(looks.values())))
    draw = np.random.default_rng(seed)
    look_LD = draw.normal(size=(look_width, TEXT_WIDTH)) * TEXT_WIDTH**-0.5
    topic_KD = draw.normal(size=(_TOPIC_WIDTH, TEXT_WIDTH)) * TEXT_WIDTH**-0.5
    concept_of = {form: word.concept for word in visible_words() for form in _forms(word.text)}
    lines = []
    for text in sorted({*spoken, *(word.text for word in visible_words())}):
        topic_K = draw.normal(size=_TOPIC_WIDTH) * _TOPIC_WIDTH**-0.5
        row_D = _TOPIC_WEIGHT * topic_K @ topic_KD + _NOISE * draw.normal(size=TEXT_WIDTH) * TEXT_WIDTH**-0.5
        if text in concept_of:
            row_D = row_D + _LOOK_WEIGHT * looks[concept_of[text]] @ look_LD
        lines.append(f"{text} {' '.join(f'{value:.6f}' for value in row_D)}\n")
    return "".join(lines)


def _similarity() -> str:
    words = visible_words()
    lines = [
        f"{left.text}\t{right.text}\t{_HIGHEST * look_similarity(left, right):.4f}\t"
        f"{'unseen' if left.is_held_out or right.is_held_out else 'seen'}\n"
        for left, right in combinations(words, 2)
    ]
    return "".join(lines)


def _looks() -> Mapping[str, NDArray[np.float64]]:
    """A unit row for each concept; the kinds stand on columns of their own, so that they share nothing."""
    kinds: list[dict[str, NDArray[np.float64]]] = [
        {name: np.asarray(rgb, dtype=np.float64) for name, rgb in COLOURS.items()},
        {name: draw_silhouette(name, side=_SILHOUETTE_SIDE).ravel() for name in SHAPES},
        {name: np.array([float(number)]) for number, name in enumerate(SIZES)},
    ]
    width = sum(len(next(iter(kind.values()))) for kind in kinds)
    looks, start = {}, 0
    for kind in kinds:
        mean_L = np.mean(list(kind.values()), axis=0)
        for name, look_L in kind.items():
            row_L = np.zeros(width)
            row_L[start : start + len(look_L)] = look_L - mean_L
            looks[name] = row_L / np.linalg.norm(row_L)
        start += len(mean_L)
    return looks
