"""Sentences that stand in a test set as well as in the training text."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.sts import SICK_ALL_SPLITS, STS_TASKS, StsTask, find_senteval, load_sts

_TOKEN = re.compile(r"\w+")


def normalise(sentence: str) -> str:
    """A sentence without case, punctuation and spacing: STS files are tokenised and lower-cased, captions are not."""
    return " ".join(_TOKEN.findall(sentence.casefold()))


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
    """
    if folder is None:
        return frozenset()
    try:
        data = load_sts(find_senteval(folder))
    except FileNotFoundError:
        data = load_sts(None)
    found = {task.name for task in data.tasks}
    # The hub's SICK-R of 9,927 pairs holds SentEval's 4,927.
    found |= {"SICKRelatedness"} if SICK_ALL_SPLITS in found else set()
    if lacking := [name for name in STS_TASKS if name not in found]:
        why = data.absent[lacking[0]]
        raise ValueError(f"data.decontaminate: needs all STS test files, and {lacking[0]} is absent: {why}")
    return test_sentences(data.tasks)
