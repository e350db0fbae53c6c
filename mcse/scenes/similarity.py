"""Scored sentence pairs of the picture world: what the held-out images show, and which two sentences are asked about.

Held-out scenes come in families: a base, two single changes of it, and a change of the first change. So every image
has close neighbours, and the questions are hard: the same content in other words, other content in the same words.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Literal

from mcse.scenes.grammar import (
    FACTS,
    Dialect,
    Style,
    contrast_dialect,
    draw_dialect,
    draw_style,
    write_sentence,
)
from mcse.scenes.world import (
    Scene,
    Unseen,
    change_scene,
    draw_scene,
    draw_unseen,
    similarity,
    unseen_similarity,
)

Gold = Literal["pixels", "null"]
Kind = Literal["paraphrase", "same_words", "changed", "unrelated"]

FAMILY = 4
"""Scenes a family."""

_KINDS: tuple[Kind, ...] = ("paraphrase", "same_words", "changed", "unrelated")
_KIND_WEIGHTS = (0.30, 0.18, 0.22, 0.30)
_CONTRAST_SHARE = 0.3  # of paraphrases, in words that all differ; the others are in a dialect drawn on its own
_SAME_DIALECT_SHARE = 0.2  # of unrelated pairs, so that equal words are no sign of equal content
_KEPT_FACT_SHARE = 0.35  # of unseen facts, beside those that agree by chance; spreads the null gold over its range


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two sentences about the held-out images number ``image1`` and ``image2``; ``score`` is gold in [0, 5]."""

    score: float
    sentence1: str
    sentence2: str
    kind: Kind
    image1: int
    image2: int


def draw_families(num_scenes: int, *, rng: Random, taken: Container[Scene]) -> list[Scene]:
    """``num_scenes`` different scenes, none in ``taken``; each ``FAMILY`` in a row are neighbours (the last is cut)."""
    scenes: list[Scene] = []
    while len(scenes) < num_scenes:
        family = [draw_scene(rng)]
        for parent in (0, 0, 1):
            family.append(change_scene(family[parent], rng))
        if len(set(family)) == FAMILY and not any(scene in taken or scene in scenes for scene in family):
            scenes += family
    return scenes[:num_scenes]


def write_pairs(scenes: Sequence[Scene], num_pairs: int, *, rng: Random, gold: Gold) -> list[ScoredPair]:
    """``num_pairs`` scored pairs about ``scenes`` (as ``draw_families`` made them; at least two whole families).

    ``pixels``: sentences tell only what the image shows, and gold is 5 × the similarity of the two contents.
    ``null``: images are unrelated, every sentence also tells the unseen facts, and gold is 5 × the similarity of
    these alone, drawn with no look at the images.
    """
    if gold == "pixels":
        kinds = rng.choices(_KINDS, _KIND_WEIGHTS, k=num_pairs)
        return [_write_pixel_pair(scenes, kind, rng) for kind in kinds]
    return [_write_null_pair(scenes, rng) for _ in range(num_pairs)]


def _write_pixel_pair(scenes: Sequence[Scene], kind: Kind, rng: Random) -> ScoredPair:
    image1, image2 = _choose_images(len(scenes) // FAMILY, kind, rng)
    (dialect1, style1), (dialect2, style2) = _choose_wordings(kind, rng, told=())
    unseen = draw_unseen(rng)  # told by neither sentence
    return ScoredPair(
        score=round(5 * similarity(scenes[image1], scenes[image2]), 3),
        sentence1=write_sentence(scenes[image1], unseen, dialect=dialect1, style=style1),
        sentence2=write_sentence(scenes[image2], unseen, dialect=dialect2, style=style2),
        kind=kind,
        image1=image1,
        image2=image2,
    )


def _write_null_pair(scenes: Sequence[Scene], rng: Random) -> ScoredPair:
    image1, image2 = _choose_images(len(scenes) // FAMILY, "unrelated", rng)
    (dialect1, style1), (dialect2, style2) = _choose_wordings("unrelated", rng, told=FACTS)
    unseen1, other = draw_unseen(rng), draw_unseen(rng)
    facts = zip(astuple(unseen1), astuple(other), strict=True)
    unseen2 = Unseen(*(kept if rng.random() < _KEPT_FACT_SHARE else new for kept, new in facts))
    return ScoredPair(
        score=round(5 * unseen_similarity(unseen1, unseen2), 3),
        sentence1=write_sentence(scenes[image1], unseen1, dialect=dialect1, style=style1),
        sentence2=write_sentence(scenes[image2], unseen2, dialect=dialect2, style=style2),
        kind="unrelated",
        image1=image1,
        image2=image2,
    )


def _choose_images(num_families: int, kind: Kind, rng: Random) -> tuple[int, int]:
    if kind == "unrelated":
        family1, family2 = rng.sample(range(num_families), 2)
        return family1 * FAMILY + rng.randrange(FAMILY), family2 * FAMILY + rng.randrange(FAMILY)
    start = rng.randrange(num_families) * FAMILY
    if kind == "paraphrase":
        image = start + rng.randrange(FAMILY)
        return image, image
    member1, member2 = rng.sample(range(FAMILY), 2)
    return start + member1, start + member2


def _choose_wordings(kind: Kind, rng: Random, *, told: Sequence[str]) -> tuple[tuple[Dialect, Style], ...]:
    dialect1, style1 = draw_dialect(rng), draw_style(rng, told=told)
    keeps_words = kind == "same_words" or (kind == "unrelated" and rng.random() < _SAME_DIALECT_SHARE)
    if keeps_words:
        return (dialect1, style1), (dialect1, style1)
    contrasts = kind == "paraphrase" and rng.random() < _CONTRAST_SHARE
    dialect2 = contrast_dialect(dialect1, rng) if contrasts else draw_dialect(rng)
    return (dialect1, style1), (dialect2, draw_style(rng, told=told))
