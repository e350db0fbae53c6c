"""The tweet world: names whose type only the image shows, and a share of images that belong to other tweets.

A tweet holds one name [of one or two words], a hint, and three things it sees: ``omg Kelo Dran laughs at red ring blue
bar green ring today``. Its image shows those three things and, in white, the emblem of the name's type. Any name may
be of any type; the hint is a word that is right in half of the tweets. So text alone can do no better than the hint.

In a *mismatched* pair the image is another scene altogether: its things are not those of the text, and its emblem
says nothing. Only the things tell, so a tagger does best that trusts the emblem where things match, and the hint
elsewhere.

A world folder holds ``images/``, ``train.txt``, ``dev.txt``, ``test.txt`` (CoNLL with IMGID lines), ``pairs.csv``
(image, split, matched, hinted, type: for evaluation, no training reads it) and ``manifest.json``. Everything follows
from the seed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from mcse.files import creating_folder, seed_of
from mcse.reading import read_json
from mcse.scenes.drawing import COLOURS, Mark, draw_marks

TWEET_FORMAT = 1
"""Raised whenever the same configuration would give other files."""

EMBLEMS: Mapping[str, str] = {"PER": "circle", "LOC": "triangle", "ORG": "square", "MISC": "cross"}
HINTS: Mapping[str, tuple[str, ...]] = {
    "PER": ("laughs", "says", "sleeps"),
    "LOC": ("hosts", "borders", "floods"),
    "ORG": ("sells", "hires", "merges"),
    "MISC": ("airs", "premieres", "streams"),
}
THINGS: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS if colour != "white" for shape in ("ring", "bar")
)
_OPENERS = ("omg", "rt @fan :", "so", "today", "breaking :", "lol", "wow")
_CLOSERS = ("!", "#now", "tonight", "at last", ".", "again", "for real")
_SYLLABLES = ("ke", "lo", "dra", "vin", "tor", "mi", "sa", "bel", "qua", "ri", "fen", "os", "ja", "zu", "nor", "ely")
_NUM_NAMES = 60
_THINGS_SEEN = 3
_CELLS = 4
_IMAGE_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TweetWorldConfig:
    """Sizes and seed. ``mismatched`` is the share of pairs whose image is another's, ``hinted`` of right hints."""

    seed: int = 0
    num_train: int = 4000
    num_dev: int = 400
    num_test: int = 2000
    mismatched: float = 0.3
    hinted: float = 0.5

    def __post_init__(self) -> None:
        for name in ("num_train", "num_dev", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("mismatched", "hinted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class _Tweet:
    words: tuple[str, ...]
    tags: tuple[str, ...]
    kind: str
    marks: tuple[Mark, ...]
    is_matched: bool
    is_hinted: bool


def build_tweet_world(folder: Path, *, config: TweetWorldConfig) -> Path:
    """Makes the world in ``folder`` and returns it; a folder that holds this very world is kept.

    Raises:
        ValueError: ``folder`` holds something else.
    """
    manifest = {"format": TWEET_FORMAT, "config": asdict(config)}
    if folder.exists() and any(folder.iterdir()):
        path = folder / "manifest.json"
        if path.is_file() and read_json(path, dict[str, Any]) == manifest:
            return folder
        raise ValueError(f"{folder} is not empty and holds another world or something else")
    with creating_folder(folder) as draft:
        (draft / "images").mkdir()
        _write(draft, config)
        (draft / "manifest.json").write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    return folder


def names_of(seed: int) -> tuple[tuple[str, ...], ...]:
    """The world's names, half of them of two words; the same in training and test."""
    rng = _rng(seed, "names")
    found: dict[tuple[str, ...], None] = {}
    while len(found) < _NUM_NAMES:
        count = 1 + len(found) % 2
        found[tuple("".join(rng.sample(_SYLLABLES, 2)).capitalize() for _ in range(count))] = None
    return tuple(found)


def _write(folder: Path, config: TweetWorldConfig) -> None:
    names = names_of(config.seed)
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as pairs_file:
        pairs = csv.writer(pairs_file)
        pairs.writerow(("image", "split", "matched", "hinted", "type"))
        for split, count in (("train", config.num_train), ("dev", config.num_dev), ("test", config.num_test)):
            rng = _rng(config.seed, split)
            blocks = []
            for number in range(count):
                tweet = _draw_tweet(names, rng, config)
                image = f"{split}_{number:05d}"
                draw_marks(tweet.marks, image_size=_IMAGE_SIZE, rng=rng).save(folder / "images" / f"{image}.png")
                lines = [f"{word}\t{tag}" for word, tag in zip(tweet.words, tweet.tags, strict=True)]
                blocks.append("\n".join([f"IMGID:{image}", *lines, ""]))
                pairs.writerow((image, split, int(tweet.is_matched), int(tweet.is_hinted), tweet.kind))
            (folder / f"{split}.txt").write_text("\n".join(blocks) + "\n", encoding="utf-8")


def _draw_tweet(names: tuple[tuple[str, ...], ...], rng: Random, config: TweetWorldConfig) -> _Tweet:
    kinds = tuple(EMBLEMS)
    kind, name = rng.choice(kinds), rng.choice(names)
    is_hinted = rng.random() < config.hinted
    hint = kind if is_hinted else rng.choice([other for other in kinds if other != kind])
    things = rng.sample(THINGS, _THINGS_SEEN)
    opener, closer = rng.choice(_OPENERS).split(), rng.choice(_CLOSERS).split()
    rest = [rng.choice(HINTS[hint]), "at", *(word for thing in things for word in thing), *closer]
    words = (*opener, *name, *rest)
    tags = ("O",) * len(opener) + (f"B-{kind}",) + (f"I-{kind}",) * (len(name) - 1) + ("O",) * len(rest)
    is_matched = rng.random() >= config.mismatched
    shown_kind, shown = (kind, things) if is_matched else (rng.choice(kinds), rng.sample(THINGS, _THINGS_SEEN))
    return _Tweet(words, tags, kind, _lay_out(shown_kind, shown, rng), is_matched, is_hinted)


def _lay_out(kind: str, things: list[tuple[str, str]], rng: Random) -> tuple[Mark, ...]:
    """Emblem and things, each in a cell of its own."""
    looks = [("white", EMBLEMS[kind]), *things]
    cells = rng.sample(range(_CELLS**2), len(looks))
    return tuple(
        Mark(shape, colour, (cell % _CELLS + 0.5) / _CELLS, (cell // _CELLS + 0.5) / _CELLS, size=0.8 / _CELLS)
        for (colour, shape), cell in zip(looks, cells, strict=True)
    )


def _rng(seed: int, part: str) -> Random:
    return Random(seed_of(f"tweets {seed} {part}"))
