"""How often a 95 % interval holds the truth, where pairs share sentences: pairs drawn one by one, and drawn together.

    python benchmarks/interval_coverage.py --data DIR/senteval

Which pairs share sentences is read from the STS test sets; gold and cosines are drawn. A pair's gold is half its own
and half of its two sentences, each standard normal; a model's cosine has the correlation ``CORRELATION`` with it, and
its own error is half of the sentences, too. So every pair is bivariate normal, and the true Spearman correlation is
known: 6/π · asin(CORRELATION/2). Two such models have no true difference.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.sts import STS_TASKS, load_sts
from mcse.evaluation.uncertainty import sharing_pairs
from mcse.metrics.significance import SpearmanReplicates, bootstrap_counts, interval, two_sided_p

CORRELATION = 0.8
SHARE = 0.5
"""Of the variance of a pair's gold, and of a model's error, the part that its two sentences bring."""

TRUTH = 6 / math.pi * math.asin(CORRELATION / 2)


class Pairs:
    """The sentences of P pairs by number, and the groups and clusters that they are drawn in."""

    def __init__(self, sentence1: Sequence[str], sentence2: Sequence[str], group_P: NDArray[np.int64]) -> None:
        number = {sentence: place for place, sentence in enumerate(dict.fromkeys([*sentence1, *sentence2]))}
        self.left_P, self.right_P = (np.array([number[text] for text in side]) for side in (sentence1, sentence2))
        self.sentences, self.group_P = len(number), group_P
        self.cluster_P = sharing_pairs(sentence1, sentence2, group_P)

    def normal(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """(P,) standard normal numbers; those of pairs with a common sentence are correlated."""
        of_sentence = generator.normal(size=self.sentences)
        both_P = (of_sentence[self.left_P] + of_sentence[self.right_P]) / math.sqrt(2)
        own_P = generator.normal(size=len(self.left_P))
        return math.sqrt(1 - SHARE) * own_P + math.sqrt(SHARE) * both_P


def coverage(pairs: Pairs, *, runs: int, draws: int) -> dict[str, tuple[float, float, float]]:
    """How often the interval of a score, and of a difference, held the truth; how often p < .05. By way of drawing."""
    ways = {"pairs": None, "together": pairs.cluster_P}
    hits: dict[str, list[tuple[bool, bool, bool]]] = {way: [] for way in ways}
    for run in range(runs):
        generator = np.random.default_rng([run, len(pairs.left_P)])
        gold_P = pairs.normal(generator)
        noise = math.sqrt(1 - CORRELATION**2)
        models = [CORRELATION * gold_P + noise * pairs.normal(generator) for _ in range(2)]
        for way, cluster_P in ways.items():
            blocks = bootstrap_counts(str(run), pairs.group_P, cluster_P=cluster_P, draws=draws)
            statistics = [SpearmanReplicates(value_P, gold_P) for value_P in models]
            both = [[statistic(block) for statistic in statistics] for block in blocks]
            first_B, second_B = (np.concatenate([block[model] for block in both]) for model in range(2))
            low, high = interval(first_B)
            below, above = interval(first_B - second_B)
            hits[way].append((low <= TRUTH <= high, below <= 0 <= above, two_sided_p(first_B - second_B) < 0.05))
    return {way: tuple(np.mean(found, axis=0)) for way, found in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a SentEval folder")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--draws", type=int, default=199)
    given = parser.parse_args()
    cases = {}
    for size in (250, 1000):
        names = [str(place) for place in range(2 * size)]
        cases[f"{size:,} independent pairs"] = Pairs(names[:size], names[size:], np.zeros(size, dtype=np.int64))
    for task in (task for task in load_sts(given.data).tasks if task.name in STS_TASKS):
        sides = [[text for part in task.subsets for text in getattr(part, f"sentence{side}")] for side in (1, 2)]
        group_P = np.repeat(np.arange(len(task.subsets)), [len(part) for part in task.subsets])
        cases[task.name] = Pairs(*sides, group_P)
    heads = (
        "pairs",
        "clusters",
        "largest",
        "score: pairs",
        "together",
        "difference: pairs",
        "together",
        "p < .05: pairs",
        "together",
    )
    print("|", " | ".join(heads), "|")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, pairs in cases.items():
        # Where nothing is shared the interval is nearly right, and seeing by how much it is not takes more runs.
        runs = given.runs * (1 if len(np.unique(pairs.cluster_P)) < len(pairs.cluster_P) else 8)
        found = coverage(pairs, runs=runs, draws=given.draws)
        numbers = [f"{found[way][number]:.3f}" for number in range(3) for way in ("pairs", "together")]
        size_C = np.bincount(pairs.cluster_P)
        print("|", " | ".join([name, f"{(size_C > 0).sum():,}", str(size_C.max()), *numbers]), "|", flush=True)


if __name__ == "__main__":
    main()
