"""Pairs by retrieval: each text with the images that a model puts next to it, and that were never its own.

R texts of a block, I images, K found, P pairs, H width of the space in common.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.search.rows import RowBlocks, nearest
from mcse.types import FloatArray

TextBlock = tuple[FloatArray, Sequence[Collection[int]]]
"""(R, H) unit rows of texts, and for each text the images that it must not get."""


@dataclass(frozen=True, slots=True)
class PairingRule:
    """Which images a text gets.

    Attributes:
        top: The nearest so many; of equal cosines, to six decimals, the earlier image.
        minimum: The least cosine of a pair.
        mutual: Whether a text must also be the nearest of all texts to its image; of equal ones the earlier.
    """

    top: int = 1
    minimum: float | None = None
    mutual: bool = False

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"--top: must be 1 or more, got {self.top}")
        if self.minimum is not None and not -1 <= self.minimum <= 1:
            raise ValueError(f"--minimum: must be a cosine, got {self.minimum:g}")


@dataclass(frozen=True, slots=True)
class FoundPairs:
    """P pairs, text by text, the nearest image first: numbers of texts and images, and cosines."""

    text_P: NDArray[np.int64]
    image_P: NDArray[np.int64]
    score_P: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.text_P)

    def of(self, chosen_P: NDArray[np.bool_]) -> FoundPairs:
        """Some of them."""
        return FoundPairs(self.text_P[chosen_P], self.image_P[chosen_P], self.score_P[chosen_P])


def pair_texts(blocks: Iterable[TextBlock], images: RowBlocks, rule: PairingRule) -> FoundPairs:
    """The pairs of all texts under ``rule``; exact, and of the texts' rows one block is held at a time.

    Args:
        blocks: Texts in order, some at a time.
        images: Unit rows of images.
        rule: Which images a text gets.
    """
    best_I, text_of_I = np.full(len(images), -np.inf), np.full(len(images), -1, dtype=np.int64)
    found: list[tuple[int, int, float]] = []
    first = 0
    for row_RH, own_R in blocks:
        found += _of_block(row_RH, own_R, images, rule, first=first)
        if rule.mutual:
            _ask_images(row_RH, own_R, images, best_I, text_of_I, first=first)
        first += len(row_RH)
    text, image, score = zip(*found, strict=True) if found else ((), (), ())
    pairs = FoundPairs(np.array(text, np.int64), np.array(image, np.int64), np.array(score, np.float32))
    return pairs.of(text_of_I[pairs.image_P] == pairs.text_P) if rule.mutual else pairs


def _of_block(
    row_RH: FloatArray, own_R: Sequence[Collection[int]], images: RowBlocks, rule: PairingRule, *, first: int
) -> Iterator[tuple[int, int, float]]:
    # A text's own images may stand before all others.
    most = rule.top + max(map(len, own_R), default=0)
    for place, (score_K, image_K) in enumerate(nearest(row_RH, images, top_k=most)):
        others = [(i, s) for i, s in zip(image_K.tolist(), score_K.tolist(), strict=True) if i not in own_R[place]]
        for image, score in others[: rule.top]:
            if rule.minimum is None or score >= rule.minimum:
                yield first + place, image, score


def _ask_images(
    row_RH: FloatArray,
    own_R: Sequence[Collection[int]],
    images: RowBlocks,
    best_I: NDArray[np.float64],
    text_of_I: NDArray[np.int64],
    *,
    first: int,
) -> None:
    """Writes down for every image the nearest text so far, with its cosine."""
    texts_of: dict[int, set[int]] = {}
    for place, own in enumerate(own_R):
        for image in own:
            texts_of.setdefault(image, set()).add(place)
    most = 1 + max(map(len, texts_of.values()), default=0)
    texts, image = RowBlocks(row_RH), 0
    for row_BH in images:
        for score_K, place_K in nearest(row_BH, texts, top_k=most):
            others = [p for p in zip(score_K.tolist(), place_K.tolist(), strict=True)]
            others = [(s, p) for s, p in others if p not in texts_of.get(image, ())]
            # Rounded as the search compares, so that an earlier text wins a tie in whatever block it stands.
            if others and round(others[0][0], 6) > round(float(best_I[image]), 6):
                best_I[image], text_of_I[image] = others[0][0], first + others[0][1]
            image += 1
