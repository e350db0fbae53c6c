"""In which order a run reads, and with which controls: the groups ``mix`` and ``controls``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ImageControl = Literal[True, "shuffled_images", "shuffled_pairs", "random"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedMix:
    """The published schedule, from the numbers of batches."""

    schedule: Literal["mcse"] = "mcse"
    """``mcse``: every r-th step is paired, r being the batches of sentences a batch of pairs. Source: MCSE's code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EveryMix:
    """A fixed beat, for short runs: the published schedule pairs every 33rd step of Wiki1M with Flickr30k."""

    schedule: Literal["every"]
    """``every``: each ``pair_every``-th step is paired, beginning with the first."""

    pair_every: int = 2
    """Steps from one paired batch to the next."""

    def __post_init__(self) -> None:
        if self.pair_every < 2:
            raise ValueError(f"mix.pair_every: must be 2 or more, so that sentences get a turn; got {self.pair_every}")


Mix: TypeAlias = PublishedMix | EveryMix


@dataclass(frozen=True, kw_only=True, slots=True)
class PairControls:
    """How many captions there are."""

    num_pairs: int | None = None
    """Captions that are trained on, drawn by the seed; ``null`` takes all."""

    num_images: int | None = None
    """Images whose captions are trained on, drawn by the seed, 50 of them among 500; ``null`` takes all."""

    def __post_init__(self) -> None:
        for key in ("num_pairs", "num_images"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise ValueError(f"controls.{key}: must be 1 or more, got {number}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageControls:
    """Which image a text is shown with, when the question is whether images matter."""

    images: ImageControl = True
    """Its own (``true``), or a wrong one: images permuted, pairs permuted, or drawn for each text."""

    wrong_images: float = 0.0
    """Share of texts that are shown with another image of the same data; those of 0.1 are among those of 0.3."""

    def __post_init__(self) -> None:
        check_wrong_images(self.images, self.wrong_images)


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlsConfig(PairControls):
    """Which image a caption is shown with, and how many captions there are."""

    images: ImageControl = True
    """Its own (``true``), or a wrong one: images permuted, pairs permuted, or drawn for each caption."""

    wrong_images: float = 0.0
    """Share of pairs that are shown with another image of the same data; those of 0.1 are among those of 0.3."""

    def __post_init__(self) -> None:
        PairControls.__post_init__(self)
        check_wrong_images(self.images, self.wrong_images)


def check_wrong_images(images: ImageControl, wrong_images: float) -> None:
    """Refuses a share that is none, and one beside a control under which no image is a text's own.

    Raises:
        ValueError: Names the key.
    """
    if not 0 <= wrong_images <= 1:
        raise ValueError(f"controls.wrong_images: must be a share in [0, 1], got {wrong_images:g}")
    if wrong_images and images is not True:
        raise ValueError(
            f"controls.wrong_images, controls.images: under {images} every image is a wrong one already; give one of "
            "them"
        )


def images_shown(controls: ImageControls | ControlsConfig) -> str:
    """Which images texts are shown with, for the start of a run."""
    wrong = f", for {controls.wrong_images:g} of them a wrong one" if controls.wrong_images else ""
    return ("true" if controls.images is True else controls.images) + wrong
