"""Wording only: a scene, a dialect and a style give one sentence. Knows no images and no gold.

A *dialect* picks one word for each concept and one of two converse relations ("left of" or "right of"). A *style*
picks the sentence pattern, the articles, and which unseen facts are told. All captions of one image are in one
dialect, as if one person had described it. So no two words for a concept ever stand under the same image: what tells
that they mean the same is only that images of the same look lie under both. Shuffled images give no synonym away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mcse.scenes.world import Axis, GroupScene, PairScene, Scene, Thing, Unseen

LEXICON: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald", "jade"),
    "blue": ("blue", "azure", "cobalt"),
    "yellow": ("yellow", "golden", "amber"),
    "purple": ("purple", "violet", "lilac"),
    "white": ("white", "ivory", "snowy"),
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "cross": ("cross", "plus", "crux"),
    "ring": ("ring", "hoop", "loop"),
    "bar": ("bar", "beam", "plank"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "one": ("one", "a single", "a lone"),
    "two": ("two", "a pair of", "a couple of"),
    "three": ("three", "a trio of", "a triplet of"),
    "at_top": ("at the top", "up high", "in the upper part"),
    "at_bottom": ("at the bottom", "down low", "in the lower part"),
    "at_left": ("on the left", "at the western edge", "on the port side"),
    "at_right": ("on the right", "at the eastern edge", "on the starboard side"),
    "left_of": ("to the left of", "on the left side of", "west of"),
    "right_of": ("to the right of", "on the right side of", "east of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "doctor": ("doctor", "physician", "medic"),
    "teacher": ("teacher", "instructor", "tutor"),
    "sailor": ("sailor", "mariner", "seaman"),
    "lawyer": ("lawyer", "attorney", "advocate"),
    "king": ("king", "monarch", "ruler"),
    "thief": ("thief", "burglar", "robber"),
    "dawn": ("dawn", "sunrise", "daybreak"),
    "noon": ("noon", "midday", "noontime"),
    "dusk": ("dusk", "sunset", "nightfall"),
    "cheap": ("cheap", "inexpensive", "affordable"),
    "costly": ("costly", "expensive", "pricey"),
    "free": ("free", "gratis", "complimentary"),
}
"""Concept → its words; concepts are the values that ``world`` uses, and the four relations."""

PAIR_PATTERNS: tuple[str, ...] = (
    "{figure} is {relation} {ground}",
    "there is {figure} {relation} {ground}",
    "{figure} {relation} {ground}",
    "{figure} sits {relation} {ground}",
    "we see {figure} {relation} {ground}",
    "a picture of {figure} {relation} {ground}",
    "{relation} {ground} is {figure}",
    "{relation} {ground} we see {figure}",
    "{ground} with {figure} {relation} it",
    "{ground} has {figure} {relation} it",
)
GROUP_PATTERNS: tuple[str, ...] = (
    "{things} {place}",
    "there {be} {things} {place}",
    "we see {things} {place}",
    "a picture of {things} {place}",
    "{things} {sit} {place}",
    "{things} {be} {place}",
    "{place} {be} {things}",
    "{place} we see {things}",
    "{place} there {be} {things}",
    "{place} {sit} {things}",
)
_UNSEEN_PATTERNS: Mapping[str, str] = {
    "owner": "owned by the {}",
    "hour": "seen at {}",
    "price": "called {}",
}
FACTS: tuple[str, ...] = tuple(_UNSEEN_PATTERNS)
"""The unseen facts that a sentence may tell."""

_RELATIONS: Mapping[Axis, tuple[str, str]] = {"horizontal": ("left_of", "right_of"), "vertical": ("above", "below")}
PLURALS: Mapping[str, str] = {"box": "boxes", "cross": "crosses", "plus": "pluses", "crux": "cruxes"}
"""Plurals that are not the word and an s."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One word for each concept, and the relation that this dialect uses on each axis."""

    words: Mapping[str, str]
    relations: Mapping[Axis, str]


@dataclass(frozen=True, slots=True)
class Style:
    """A sentence pattern (row of either table), an article for each thing, and the unseen facts told, in order."""

    pattern: int
    articles: tuple[str, str]
    told: tuple[str, ...] = ()


def draw_dialect(rng: Random) -> Dialect:
    """A dialect at random, each choice on its own."""
    words = {concept: rng.choice(options) for concept, options in LEXICON.items()}
    return Dialect(words, {axis: rng.choice(converse) for axis, converse in _RELATIONS.items()})


def contrast_dialect(dialect: Dialect, rng: Random) -> Dialect:
    """A dialect that differs from ``dialect`` in every word and in both relations."""
    words = {
        concept: rng.choice([word for word in options if word != dialect.words[concept]])
        for concept, options in LEXICON.items()
    }
    relations = {axis: converse[1 - converse.index(dialect.relations[axis])] for axis, converse in _RELATIONS.items()}
    return Dialect(words, relations)


def draw_style(rng: Random, *, told: Sequence[str] = ()) -> Style:
    """A style at random that tells the unseen facts ``told`` (fields of ``Unseen``), in random order."""
    order = list(told)
    rng.shuffle(order)
    return Style(rng.randrange(len(PAIR_PATTERNS)), (rng.choice(("a", "the")), rng.choice(("a", "the"))), tuple(order))


def draw_told(rng: Random, *, rate: float) -> list[str]:
    """The unseen facts that a sentence tells when each is told with probability ``rate``."""
    return [fact for fact in FACTS if rng.random() < rate]


def write_sentence(scene: Scene, unseen: Unseen, *, dialect: Dialect, style: Style) -> str:
    """One lower-case sentence with tokens parted by spaces, as benchmark files have them; a pure function."""
    if isinstance(scene, PairScene):
        clauses = [_write_pair(scene, dialect, style)]
    else:
        clauses = [_write_group(scene, dialect, style)]
    facts = {"owner": unseen.owner, "hour": unseen.hour, "price": unseen.price}
    clauses += [_UNSEEN_PATTERNS[fact].format(dialect.words[facts[fact]]) for fact in style.told]
    return " , ".join(clauses) + " ."


def _write_pair(scene: PairScene, dialect: Dialect, style: Style) -> str:
    relation = dialect.relations[scene.axis]
    first_is_figure = relation == _RELATIONS[scene.axis][0]
    figure, ground = (scene.first, scene.second) if first_is_figure else (scene.second, scene.first)
    return PAIR_PATTERNS[style.pattern].format(
        figure=_name(figure, dialect, style.articles[0]),
        relation=dialect.words[relation],
        ground=_name(ground, dialect, style.articles[1]),
    )


def _write_group(scene: GroupScene, dialect: Dialect, style: Style) -> str:
    noun = dialect.words[scene.shape]
    is_one = scene.count == "one"
    if not is_one:
        noun = PLURALS.get(noun, noun + "s")
    return GROUP_PATTERNS[style.pattern].format(
        things=f"{dialect.words[scene.count]} {dialect.words[scene.colour]} {noun}",
        place=dialect.words[scene.place],
        be="is" if is_one else "are",
        sit="sits" if is_one else "sit",
    )


def _name(thing: Thing, dialect: Dialect, article: str) -> str:
    words = dialect.words
    return f"{article} {words[thing.size]} {words[thing.colour]} {words[thing.shape]}"
