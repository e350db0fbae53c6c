"""Controls: which image a caption is shown with, when the question is whether images matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcse.data.controls_config import ImageControl
from mcse.data.seeds import Draw


def assign_images(
    image_of_caption: NDArray[np.int64], control: ImageControl, *, seed: int, wrong_images: float = 0.0
) -> NDArray[np.int64]:
    """The image shown with each caption.

    Args:
        image_of_caption: Each caption's own image.
        control: ``True`` keeps them. ``shuffled_images`` permutes the images so that no image stays in place; a
            image's captions stay together. ``shuffled_pairs`` permutes the captions' images so that each caption
            gets a wrong one and an image's captions part. ``random`` draws an image for each
            caption, with replacement.
        seed: Names the draw.
        wrong_images: Under ``True``, the share of captions that get another image, drawn with replacement. A caption
            that is wrong at one share is wrong at any larger one, with the same image.

    Raises:
        ValueError: There is no wrong image to give: fewer than two, or one that holds more than half the captions; or
            the share is of less than one caption.
    """
    if control is True and not wrong_images:
        return image_of_caption
    images, own = np.unique(image_of_caption, return_inverse=True)
    if len(images) < 2:
        key = f"wrong_images: {wrong_images:g}" if control is True else f"images: {control}"
        raise ValueError(f"controls.{key} needs two images or more, found {len(images)}")
    if control is True:
        return images[_partly_wrong(own, len(images), wrong_images, seed=seed)]
    generator = np.random.default_rng([seed, Draw.CONTROLS])
    if control == "shuffled_images":
        return images[_derangement(np.arange(len(images)), generator)][own]
    if control == "shuffled_pairs":
        return images[_derangement(own, generator)]
    return generator.choice(images, size=len(own), replace=True)


def choose_pairs(num_captions: int, num_pairs: int | None, *, seed: int) -> NDArray[np.int64]:
    """The captions kept: all, or a seeded random subset, in file order.

    Raises:
        ValueError: More pairs are asked for than there are.
    """
    if num_pairs is None:
        return np.arange(num_captions)
    if num_pairs > num_captions:
        raise ValueError(f"controls.num_pairs: {num_pairs} asked for, but there are only {num_captions} pairs")
    return np.sort(np.random.default_rng([seed, Draw.PAIRS]).permutation(num_captions)[:num_pairs])


def captions_of_images(image_of_caption: NDArray[np.int64], num_images: int, *, seed: int) -> NDArray[np.int64]:
    """The captions of a seeded random subset of the images, in file order; a smaller subset is part of a larger one.

    Raises:
        ValueError: More images are asked for than have captions.
    """
    images = np.unique(image_of_caption)
    if num_images > len(images):
        raise ValueError(f"controls.num_images: {num_images} asked for, but there are only {len(images)} images")
    chosen = np.random.default_rng([seed, Draw.IMAGES]).permutation(images)[:num_images]
    return np.flatnonzero(np.isin(image_of_caption, chosen))


def _partly_wrong(own: NDArray[np.int64], num_images: int, share: float, *, seed: int) -> NDArray[np.int64]:
    """``own`` with a share of it replaced by other images."""
    number = round(share * len(own))
    if not number:
        raise ValueError(f"controls.wrong_images: {share:g} of {len(own)} pairs is not one pair; give a larger share")
    generator = np.random.default_rng([seed, Draw.WRONG_IMAGES])
    # Everything is drawn for every caption, so that the share decides only how many of the draws are used.
    wrong = generator.permutation(len(own))[:number]
    other = generator.integers(num_images - 1, size=len(own))
    other += other >= own
    shown = own.copy()
    shown[wrong] = other[wrong]
    return shown


def _derangement(own: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation of ``own`` in which no place keeps its value."""
    if np.bincount(own).max() * 2 > len(own):
        raise ValueError("controls.images: one image holds more than half the captions, so some cannot get a wrong one")
    shuffled = generator.permutation(own)
    # Each clash swaps with a random place where neither side clashes afterwards; expected a handful of rounds.
    while len(clashes := np.flatnonzero(shuffled == own)):
        for place in clashes:
            other = int(generator.integers(len(own)))
            if shuffled[other] != own[place] and shuffled[place] != own[other]:
                shuffled[place], shuffled[other] = shuffled[other], shuffled[place]
    return shuffled
