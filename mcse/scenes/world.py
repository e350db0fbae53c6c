"""The sentence-similarity world: what may be in a scene, where it is drawn, and how similar two scenes are (the gold).

Two kinds of scene. A ``PairScene`` has two different things, beside or above each other. A ``GroupScene`` has one to
three equal things at one edge. Beside what is drawn, every scene has ``Unseen`` facts that no pixel shows.

The world (contents, drawing, words, sizes, gold) was designed and frozen before SimCSE or MCSE first ran on it. It was
checked only with counts of words and with linear classifiers from pixels to contents, never by training an encoder.
A change here makes earlier demo scores incomparable: raise ``build.FORMAT`` and say so in the changelog.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from mcse.scenes.drawing import COLOURS, SHAPES, Mark

Axis = Literal["horizontal", "vertical"]

AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SIZES: tuple[str, ...] = ("small", "large")
COUNTS: tuple[str, ...] = ("one", "two", "three")
PLACES: tuple[str, ...] = ("at_top", "at_bottom", "at_left", "at_right")
OWNERS: tuple[str, ...] = ("doctor", "teacher", "sailor", "lawyer", "king", "thief")
HOURS: tuple[str, ...] = ("dawn", "noon", "dusk")
PRICES: tuple[str, ...] = ("cheap", "costly", "free")

GROUP_SHARE = 0.3
"""Share of group scenes among scenes drawn at random; the rest are pairs of things."""

_SAME_COLOUR_OR_SHAPE_ONLY = 0.4
_OTHER_SIZE = 0.7
_OTHER_COUNT = 0.6
_OTHER_PLACE = 0.4
_OTHER_KIND = 0.3
_SAME_PLACES = 0.7  # the rest of the weight is for the same things wherever they are


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing of a pair scene."""

    colour: str
    shape: str
    size: str


@dataclass(frozen=True, slots=True)
class PairScene:
    """``first`` is on the left (horizontal) or above (vertical). The two differ in colour or shape."""

    axis: Axis
    first: Thing
    second: Thing


@dataclass(frozen=True, slots=True)
class GroupScene:
    """``count`` equal things of middle size along the edge ``place``."""

    count: str
    colour: str
    shape: str
    place: str


Scene = PairScene | GroupScene


@dataclass(frozen=True, slots=True)
class Unseen:
    """Facts that captions may mention and no image shows."""

    owner: str
    hour: str
    price: str


def all_groups() -> list[GroupScene]:
    """Every group scene, in a fixed order."""
    return [GroupScene(*values) for values in itertools.product(COUNTS, COLOURS, SHAPES, PLACES)]


def all_pairs() -> list[PairScene]:
    """Every pair scene, in a fixed order."""
    things = [Thing(*values) for values in itertools.product(COLOURS, SHAPES, SIZES)]
    scenes = (PairScene(*values) for values in itertools.product(AXES, things, things))
    return [scene for scene in scenes if _is_legal(scene)]


def draw_scene(rng: Random) -> Scene:
    """A scene at random, ``GROUP_SHARE`` of them groups."""
    if rng.random() < GROUP_SHARE:
        return GroupScene(rng.choice(COUNTS), rng.choice(tuple(COLOURS)), rng.choice(tuple(SHAPES)), rng.choice(PLACES))
    while True:
        scene = PairScene(rng.choice(AXES), _draw_thing(rng), _draw_thing(rng))
        if _is_legal(scene):
            return scene


def draw_unseen(rng: Random) -> Unseen:
    """Unseen facts at random."""
    return Unseen(rng.choice(OWNERS), rng.choice(HOURS), rng.choice(PRICES))


def change_scene(scene: Scene, rng: Random) -> Scene:
    """``scene`` with one thing about it changed: a colour, a shape, a size or count, or who is where."""
    while True:
        if isinstance(scene, PairScene):
            changed: Scene = rng.choice(tuple(_PAIR_CHANGES.values()))(scene, rng)
        else:
            changed = rng.choice(tuple(_GROUP_CHANGES.values()))(scene, rng)
        if isinstance(changed, GroupScene) or _is_legal(changed):
            return changed


def lay_out(scene: Scene) -> tuple[Mark, ...]:
    """Where each thing of ``scene`` is drawn. Same content, same marks."""
    if isinstance(scene, PairScene):
        places = {"horizontal": ((0.25, 0.5), (0.75, 0.5)), "vertical": ((0.5, 0.25), (0.5, 0.75))}[scene.axis]
        width = {"small": 0.26, "large": 0.42}
        return tuple(
            Mark(thing.shape, thing.colour, x, y, width[thing.size])
            for thing, (x, y) in zip((scene.first, scene.second), places, strict=True)
        )
    along = {"one": (0.5,), "two": (0.2, 0.8), "three": (0.2, 0.5, 0.8)}[scene.count]
    across = {"at_top": 0.2, "at_left": 0.2, "at_bottom": 0.8, "at_right": 0.8}[scene.place]
    is_row = scene.place in ("at_top", "at_bottom")
    return tuple(
        Mark(scene.shape, scene.colour, *((step, across) if is_row else (across, step)), size=0.27) for step in along
    )


def similarity(a: Scene, b: Scene) -> float:
    """How similar two images are by their contents, in [0, 1]: symmetric, and 1 exactly for equal contents.

    A thing counts 1 with the same colour and shape, 0.4 with one of them, 0 with none, and 0.7 of that in another size.
    Two pair scenes: 0.7 × the mean over things in the same place, + 0.3 × the best mean when places are ignored; only
    the latter when one is beside and the other above. Two groups: the thing, × 0.6 for another count, × 0.4 for
    another edge. A pair and a group: 0.3 × the best of the pair's two things.
    """
    if isinstance(a, PairScene) and isinstance(b, PairScene):
        straight = (_thing_similarity(a.first, b.first) + _thing_similarity(a.second, b.second)) / 2
        crossed = (_thing_similarity(a.first, b.second) + _thing_similarity(a.second, b.first)) / 2
        placed = straight if a.axis == b.axis else 0.0
        return _SAME_PLACES * placed + (1 - _SAME_PLACES) * max(straight, crossed)
    if isinstance(a, GroupScene) and isinstance(b, GroupScene):
        count = 1.0 if a.count == b.count else _OTHER_COUNT
        place = 1.0 if a.place == b.place else _OTHER_PLACE
        return _look_similarity(a, b) * count * place
    pair, group = (a, b) if isinstance(a, PairScene) else (b, a)
    assert isinstance(pair, PairScene)
    assert isinstance(group, GroupScene)
    return _OTHER_KIND * max(_look_similarity(pair.first, group), _look_similarity(pair.second, group))


def unseen_similarity(a: Unseen, b: Unseen) -> float:
    """The null world's gold, in [0, 1]: half for the same owner, a quarter each for the same hour and price."""
    return 0.5 * (a.owner == b.owner) + 0.25 * (a.hour == b.hour) + 0.25 * (a.price == b.price)


def _is_legal(scene: PairScene) -> bool:
    first, second = scene.first, scene.second
    return (first.colour, first.shape) != (second.colour, second.shape)


def _draw_thing(rng: Random) -> Thing:
    return Thing(rng.choice(tuple(COLOURS)), rng.choice(tuple(SHAPES)), rng.choice(SIZES))


def _look_similarity(a: Thing | GroupScene, b: Thing | GroupScene) -> float:
    same = (a.colour == b.colour) + (a.shape == b.shape)
    return (0.0, _SAME_COLOUR_OR_SHAPE_ONLY, 1.0)[same]


def _thing_similarity(a: Thing, b: Thing) -> float:
    return _look_similarity(a, b) * (1.0 if a.size == b.size else _OTHER_SIZE)


def _other(values: tuple[str, ...], value: str, rng: Random) -> str:
    return rng.choice([candidate for candidate in values if candidate != value])


def _change_thing(scene: PairScene, rng: Random, change: Callable[[Thing], Thing]) -> PairScene:
    if rng.random() < 0.5:
        return replace(scene, first=change(scene.first))
    return replace(scene, second=change(scene.second))


def _recolour_thing(scene: PairScene, rng: Random) -> PairScene:
    return _change_thing(scene, rng, lambda thing: replace(thing, colour=_other(tuple(COLOURS), thing.colour, rng)))


def _reshape_thing(scene: PairScene, rng: Random) -> PairScene:
    return _change_thing(scene, rng, lambda thing: replace(thing, shape=_other(tuple(SHAPES), thing.shape, rng)))


def _resize_thing(scene: PairScene, rng: Random) -> PairScene:
    return _change_thing(scene, rng, lambda thing: replace(thing, size=_other(SIZES, thing.size, rng)))


def _swap(scene: PairScene, rng: Random) -> PairScene:
    del rng  # there is one way to swap two things
    return replace(scene, first=scene.second, second=scene.first)


_PAIR_CHANGES: Mapping[str, Callable[[PairScene, Random], PairScene]] = {
    "colour": _recolour_thing,
    "shape": _reshape_thing,
    "size": _resize_thing,
    "swap": _swap,
}
_GROUP_CHANGES: Mapping[str, Callable[[GroupScene, Random], GroupScene]] = {
    "colour": lambda scene, rng: replace(scene, colour=_other(tuple(COLOURS), scene.colour, rng)),
    "shape": lambda scene, rng: replace(scene, shape=_other(tuple(SHAPES), scene.shape, rng)),
    "count": lambda scene, rng: replace(scene, count=_other(COUNTS, scene.count, rng)),
    "place": lambda scene, rng: replace(scene, place=_other(PLACES, scene.place, rng)),
}
