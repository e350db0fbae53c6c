"""Questions for arithmetic with images: an image of a blue car, without blue, with red; and which images answer.

I images, Q questions.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcse.data.images.names import find_all, name_of_cell
from mcse.files import text_lines
from mcse.reading import parse_json

COLOURS = (
    *("black", "white", "red", "blue", "green", "yellow", "orange", "brown", "tan", "pink", "purple"),
    *("gray", "grey", "silver", "gold", "blond", "blonde", "beige"),
)
"""Colour words that captions are searched for. Two of one meaning are never swapped for each other."""

MAX_QUESTIONS = 2000

_SAME_COLOUR = ({"gray", "grey", "silver"}, {"blond", "blonde", "yellow", "gold"}, {"tan", "brown", "beige"})
# What stands behind a colour word without being what has the colour.
_NO_THINGS = frozenset(
    (
        *COLOURS,
        *("and", "or", "in", "on", "at", "of", "with", "to", "the", "a", "an", "is", "are", "as", "by", "from", "for"),
        *("while", "who", "that", "which", "his", "her", "their", "it", "its"),
        *("striped", "spotted", "plaid", "checkered", "colored", "coloured", "haired"),
    )
)
_WORD = re.compile(r"[a-z]+")
_MIN_RANDOM_WORD = 5
"""How often the captions must have a word that the control draws."""

Look = tuple[str, str]
"""A colour and what has it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColourSwaps:
    """Questions about the images of one gallery.

    Args:
        image_Q: The image that a question starts from.
        old: The colour to take away.
        new: The colour to add.
        things: What changes its colour.
        random_words: Two words of the captions that a control takes away and adds instead.
        right_QI: Which images are right answers; never the question's own, and at least as many as are looked at.
        rule: When an image is right, in words.
    """

    image_Q: NDArray[np.int64]
    old: tuple[str, ...]
    new: tuple[str, ...]
    things: tuple[str, ...]
    random_words: tuple[tuple[str, str], ...]
    right_QI: NDArray[np.bool_]
    rule: str

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self.image_Q)


def swaps_by_contents(
    path: Path, image_names: Sequence[str], captions: Sequence[str], *, k: int, seed: int = 0
) -> ColourSwaps:
    """Questions answered by what images truly show, as a picture world writes it down.

    Args:
        path: JSON lines, each with ``image`` and, anywhere inside, things with ``colour`` and ``shape``.
        image_names: The gallery; the file may know more.
        captions: Whose words the control draws from.
        k: How many right answers a question must have, so that precision at ``k`` can be 100.
        seed: Of the questions kept, where there are many, and of the control's words.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It cannot be read, lacks an image, or gives no question.
    """
    looks_I = _looks_of_contents(path, image_names)
    colours = sorted({colour for looks in looks_I for colour, _ in looks})
    by_looks: dict[frozenset[Look], list[int]] = defaultdict(list)
    for image, looks in enumerate(looks_I):
        by_looks[looks].append(image)
    found = []
    for image, looks in enumerate(looks_I):
        for old, thing in sorted(looks):
            # With another thing of that colour, "without blue" would not say which one is meant.
            if sum(colour == old for colour, _ in looks) > 1:
                continue
            for new in colours:
                answers = by_looks.get((looks - {(old, thing)}) | {(new, thing)}, [])
                if (new, thing) not in looks and len(answers) >= k:
                    found.append((image, old, new, thing, answers))
    return _swaps(
        found,
        captions=captions,
        images=len(looks_I),
        seed=seed,
        rule="the image shows what the question's image shows, but for the one colour",
        source=str(path),
    )


def swaps_by_captions(captions: Sequence[str], image_C: NDArray[np.int64], *, k: int, seed: int = 0) -> ColourSwaps:
    """Questions answered by captions: a colour word and the word right behind it, such as "black dog".

    An image asks for each of its looks in each other colour that at least ``k`` other images' captions name for that
    very word; and is no answer itself, since it may not have the new look.

    Raises:
        ValueError: No such question.
    """
    looks_I: list[set[Look]] = [set() for _ in range(int(image_C.max()) + 1)]
    for image, caption in zip(image_C.tolist(), captions, strict=True):
        looks_I[image] |= looks_of_caption(caption)
    by_look: dict[Look, list[int]] = defaultdict(list)
    for image, looks in enumerate(looks_I):
        for look in looks:
            by_look[look].append(image)
    colours_of: dict[str, list[str]] = defaultdict(list)
    for (colour, thing), images in sorted(by_look.items()):
        if len(images) >= k:
            colours_of[thing].append(colour)
    found = []
    for image, looks in enumerate(looks_I):
        for old, thing in sorted(looks):
            for new in colours_of[thing]:
                if not _same_colour(old, new) and not any(_same_colour(c, new) for c, t in looks if t == thing):
                    found.append((image, old, new, thing, by_look[new, thing]))
    rule = "a caption of the image has the new colour right before the same word as a caption of the question's"
    return _swaps(found, captions=captions, images=len(looks_I), seed=seed, rule=rule, source="the captions")


def looks_of_caption(caption: str) -> set[Look]:
    """Each colour word of a caption with the word right behind it, where that can be a thing."""
    words = _WORD.findall(caption.lower())
    pairs = pairwise(words)
    return {(colour, thing) for colour, thing in pairs if colour in COLOURS and thing not in _NO_THINGS}


def _same_colour(first: str, second: str) -> bool:
    return first == second or any({first, second} <= group for group in _SAME_COLOUR)


def _looks_of_contents(path: Path, image_names: Sequence[str]) -> list[frozenset[Look]]:
    if not path.is_file():
        raise FileNotFoundError(f"--contents: no file {path}")
    looks_of: dict[str, frozenset[Look]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        where = f"--contents: {path}, line {number}"
        record = parse_json(line, dict[str, Any], where=where)
        if "image" not in record:
            raise ValueError(f"{where}: no record with an image")
        looks_of[name_of_cell(record["image"], where=where)] = frozenset(_looks(record))
    rows = find_all(image_names, list(looks_of), where=f"--contents {path}", problem="are not described")
    known = list(looks_of.values())
    return [known[row] for row in rows.tolist()]


def _looks(value: Any) -> Iterable[Look]:
    if isinstance(value, Mapping):
        if isinstance(value.get("colour"), str) and isinstance(value.get("shape"), str):
            yield value["colour"], value["shape"]
        for part in value.values():
            yield from _looks(part)


def _swaps(
    found: list[tuple[int, str, str, str, list[int]]],
    *,
    captions: Sequence[str],
    images: int,
    seed: int,
    rule: str,
    source: str,
) -> ColourSwaps:
    if not found:
        raise ValueError(f"regularities: {source}: no colour can be swapped so that enough other images answer")
    generator = random.Random(seed)
    if len(found) > MAX_QUESTIONS:
        found = sorted(generator.sample(found, MAX_QUESTIONS))
    right_QI = np.zeros((len(found), images), dtype=np.bool_)
    for row, (*_, answers) in enumerate(found):
        right_QI[row, answers] = True
    counts = Counter(word for caption in captions for word in _WORD.findall(caption.lower()))
    colours = {colour for _, old, new, *_ in found for colour in (old, new)} | set(COLOURS)
    pool = sorted(word for word, count in counts.items() if count >= _MIN_RANDOM_WORD and word not in colours)
    if len(pool) < 2:
        raise ValueError(f"regularities: the captions have {len(pool)} other words for the control, it needs two")
    image, old, new, things, _ = zip(*found, strict=True)
    return ColourSwaps(
        image_Q=np.array(image),
        old=old,
        new=new,
        things=things,
        random_words=tuple((first, second) for first, second in (generator.sample(pool, 2) for _ in found)),
        right_QI=right_QI,
        rule=rule,
    )
