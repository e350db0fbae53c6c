"""Drawing only: coloured marks at places of a square, as a small RGB image. Knows no scenes and no words.

A world turns its contents into ``Mark``s; every world of this folder shares this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]

COLOURS: Mapping[str, RGB] = {
    "red": (225, 30, 40),
    "green": (30, 165, 60),
    "blue": (45, 80, 235),
    "yellow": (240, 220, 40),
    "purple": (180, 50, 200),
    "white": (245, 245, 245),
}
BACKGROUND: RGB = (16, 16, 20)

_OVERSAMPLING = 8
_POSITION_JITTER = 0.02  # of the image's side
_SIZE_JITTER = 0.06  # of the mark's own size
_COLOUR_JITTER = 12  # of 255


@dataclass(frozen=True, slots=True)
class Mark:
    """One coloured shape; ``x``, ``y`` (its centre, y downwards) and ``size`` (its width) are shares of the side."""

    shape: str
    colour: str
    x: float
    y: float
    size: float


def draw_marks(marks: Sequence[Mark], *, image_size: int, rng: Random) -> Image.Image:
    """An RGB image of ``image_size``² pixels; place, size and colour of each mark waver a little by ``rng``.

    Raises:
        ValueError: a mark has a shape or a colour that is not known here.
    """
    side = image_size * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for mark in marks:
        if mark.shape not in SHAPES or mark.colour not in COLOURS:
            raise ValueError(
                f"cannot draw a {mark.colour!r} {mark.shape!r}: shapes are {', '.join(SHAPES)}; "
                f"colours are {', '.join(COLOURS)}"
            )
        x = (mark.x + rng.uniform(-_POSITION_JITTER, _POSITION_JITTER)) * side
        y = (mark.y + rng.uniform(-_POSITION_JITTER, _POSITION_JITTER)) * side
        radius = mark.size * (1 + rng.uniform(-_SIZE_JITTER, _SIZE_JITTER)) * side / 2
        SHAPES[mark.shape](pen, x, y, radius, _waver(COLOURS[mark.colour], rng))
    return canvas.resize((image_size, image_size), Image.Resampling.BOX)


def draw_silhouette(shape: str, *, side: int) -> NDArray[np.float64]:
    """(side, side) share of each pixel that the shape covers when it fills the square, in [0, 1]."""
    canvas = Image.new("RGB", (side * _OVERSAMPLING, side * _OVERSAMPLING), BACKGROUND)
    middle = side * _OVERSAMPLING / 2
    SHAPES[shape](ImageDraw.Draw(canvas), middle, middle, middle, COLOURS["white"])
    level = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), dtype=np.float64)[..., 0]
    return (level - BACKGROUND[0]) / (COLOURS["white"][0] - BACKGROUND[0])


def _waver(colour: RGB, rng: Random) -> RGB:
    red, green, blue = (min(255, max(0, channel + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER))) for channel in colour)
    return red, green, blue


def _circle(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _square(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _triangle(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    pen.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=colour)


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    arm = radius * 0.34
    pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
    pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)


def _ring(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    _circle(pen, x, y, radius, colour)
    _circle(pen, x, y, radius * 0.55, BACKGROUND)


def _bar(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGB) -> None:
    height = math.ceil(radius * 0.36)
    pen.rectangle((x - radius, y - height, x + radius, y + height), fill=colour)


SHAPES: Mapping[str, Callable[[ImageDraw.ImageDraw, float, float, float, RGB], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "bar": _bar,
}
