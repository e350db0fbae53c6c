"""Sentences that are in a test set and in the training text, or nearly so."""

from __future__ import annotations

import functools
import logging
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.sts import SICK_ALL_SPLITS, STS_TASKS, StsTask, find_senteval, load_sts

logger = logging.getLogger(__name__)

Row = TypeVar("Row")

_TOKEN = re.compile(r"\w+")

NEAR_SHARE = 0.8
NEAR_LETTERS = 25
"""Shorter sentences are not looked at: they begin and end the same by chance."""

NEAR_MEASURE = (
    f"nearly the same: beginning and end in common make up {100 * NEAR_SHARE:.0f} % of the letters of the longer, "
    f"which has {NEAR_LETTERS} or more"
)


def normalise(sentence: str) -> str:
    """A sentence's letters and digits, without case, punctuation and spaces.

    STS files are tokenised and lower-cased, captions are not, and tokenisers part words in different places.
    """
    return "".join(_TOKEN.findall(sentence.casefold()))


class NearDuplicates:
    """Finds normalised sentences that differ from a known one in one place, by ``NEAR_MEASURE``.

    Most are equal but for a word or two. What is changed in several places is not found.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = sorted(sentence for sentence in known if len(sentence) >= NEAR_SHARE * NEAR_LETTERS)
        self._reversed = sorted(sentence[::-1] for sentence in self._known)

    def holds(self, sentence: str) -> bool:
        """Whether the normalised ``sentence`` is nearly the same as a known one, and not the same as any."""
        # What two sentences have in common is at their beginning or at their end by half or more.
        half = math.ceil(NEAR_SHARE * len(sentence) / 2)
        found = False
        for known, text in ((self._known, sentence), (self._reversed, sentence[::-1])):
            start = text[:half]
            for place in range(bisect_left(known, start), len(known)):
                other = known[place]
                if not other.startswith(start):
                    break
                if other == text:
                    return False
                found = found or is_near(text, other)
        return found


def is_near(left: str, right: str) -> bool:
    """Whether two normalised sentences are nearly the same, by ``NEAR_MEASURE``."""
    longer, shorter = max(len(left), len(right)), min(len(left), len(right))
    if longer < NEAR_LETTERS or shorter < NEAR_SHARE * longer:
        return False
    common = _in_common(left, right) + _in_common(left[::-1], right[::-1])
    return min(common, shorter) >= NEAR_SHARE * longer


def _in_common(left: str, right: str) -> int:
    """How many letters two texts begin with in common."""
    both = enumerate(zip(left, right, strict=False))
    return next((place for place, (a, b) in both if a != b), min(len(left), len(right)))


@functools.lru_cache(maxsize=2)
def near_duplicates(known: frozenset[str]) -> NearDuplicates:
    """Kept for the next call: the seeds of a recipe read the same text, and every caption asks for the same tests."""
    return NearDuplicates(known)


def nearly_seen(sentence1: Iterable[str], sentence2: Iterable[str], *, seen: frozenset[str]) -> NDArray[np.bool_]:
    """(P,) whether a sentence of a pair is nearly the same as one of the normalised sentences ``seen``."""
    near = near_duplicates(seen)
    both = zip(sentence1, sentence2, strict=True)
    return np.array([near.holds(normalise(left)) or near.holds(normalise(right)) for left, right in both], dtype=bool)


def unseen(sentence1: Iterable[str], sentence2: Iterable[str], *, seen: frozenset[str]) -> NDArray[np.bool_]:
    """(P,) whether neither sentence of a pair is among the normalised sentences ``seen``."""
    both = zip(sentence1, sentence2, strict=True)
    return np.array([normalise(left) not in seen and normalise(right) not in seen for left, right in both], dtype=bool)


def test_sentences(tasks: Iterable[StsTask]) -> frozenset[str]:
    """The normalised sentences of all pairs of ``tasks``."""
    pairs = [subset for task in tasks for subset in task.subsets]
    return frozenset(
        normalise(sentence) for part in pairs for side in (part.sentence1, part.sentence2) for sentence in side
    )


def sts_test_sentences(folder: str | None) -> frozenset[str]:
    """The normalised STS test sentences of a folder, or of the hub where it has none; none at all of ``None``.

    Raises:
        ValueError: An STS test file is absent.
        FileNotFoundError: All of them are.
    """
    if folder is None:
        return frozenset()
    try:
        root = find_senteval(folder)
    except FileNotFoundError:
        root = None
    data = load_sts(root)
    found = {task.name for task in data.tasks}
    # The hub's SICK-R of 9,927 pairs holds SentEval's 4,927.
    found |= {"SICKRelatedness"} if SICK_ALL_SPLITS in found else set()
    if lacking := [name for name in STS_TASKS if name not in found]:
        why = data.absent[lacking[0]]
        raise ValueError(f"data.decontaminate: needs all STS test files, and {lacking[0]} is absent: {why}")
    return test_sentences(data.tasks)


def without_tests(
    rows: Iterable[Row], texts_of: Callable[[Row], Sequence[str]], *, known: frozenset[str], source: str, what: str
) -> Iterator[Row]:
    """The rows of which no text is among the normalised test sentences; says how many are not, and how many nearly."""
    if not known:
        yield from rows
        return
    dropped = near = 0
    nearly = near_duplicates(known)
    for row in rows:
        texts = [normalise(text) for text in texts_of(row)]
        if any(text in known for text in texts):
            dropped += 1
            continue
        near += any(map(nearly.holds, texts))
        yield row
    logger.warning("%s: dropped %d %s that occur in STS test files", source, dropped, what)
    logger.warning("%s: %d of those kept are %s", source, near, NEAR_MEASURE)
