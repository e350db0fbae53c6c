"""The pairs that encoders misjudge: how far a pair's rank by cosine is from its rank by gold.

P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mcse.types import ModelScores, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Misjudged:
    """One pair; ``cosines`` and ``errors`` are by model, an error is the distance of ranks in percent of the pairs."""

    task: str
    gold: float
    sentence1: str
    sentence2: str
    cosines: tuple[float, ...]
    errors: tuple[float, ...]


def worst_pairs(models: Sequence[ModelScores], *, number: int) -> list[Misjudged]:
    """Of one model the pairs with the largest errors; of two, those whose errors differ most between them.

    Raises:
        ValueError: Neither one model nor two, or none has scored pairs.
    """
    if len(models) not in (1, 2):
        raise ValueError(f"--errors lists the pairs of one model or of two side by side, got {len(models)}")
    found: list[tuple[float, Misjudged]] = []
    every = [model.all.samples for model in models]
    for key, pairs in models[0].all.pairs.items():
        samples = [by_key[key] for by_key in every if key in by_key]
        if len(samples) < len(models):
            continue
        error = [_rank_errors(sample) for sample in samples]
        weight_P = error[0] if len(error) == 1 else np.abs(error[0] - error[1])
        for place in np.argsort(-weight_P, kind="stable")[:number]:
            gold_P = samples[0].gold_P
            assert gold_P is not None
            pair = Misjudged(
                task=key.task,
                gold=float(gold_P[place]),
                sentence1=pairs.sentence1[place],
                sentence2=pairs.sentence2[place],
                cosines=tuple(float(sample.value_P[place]) for sample in samples),
                errors=tuple(float(error_P[place]) for error_P in error),
            )
            found.append((float(weight_P[place]), pair))
    if not found:
        raise ValueError("--errors needs scored or labelled pairs, such as those of sts")
    # SICK's test pairs belong to both of its protocols.
    once = {(pair.sentence1, pair.sentence2): pair for _, pair in sorted(found, key=lambda item: item[0])}
    return list(reversed(once.values()))[:number]


def _rank_errors(sample: Sample) -> NDArray[np.float64]:
    """(P,) distance between the ranks by value and by gold, in percent of P."""
    assert sample.gold_P is not None
    distance: NDArray[np.float64] = np.abs(stats.rankdata(sample.value_P) - stats.rankdata(sample.gold_P))
    return 100 * distance / len(sample.value_P)
