"""The word-similarity suite: Spearman's correlation of words' cosines with what people say, coverage always beside it.

A word without a vector has a row of zeros. A pair with such a word is left out of the correlation and counted in the
coverage; two tables of different coverage are not evaluated on the same pairs.

P pairs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcse.data.test_sets.wordsim import EXPECTED_PAIRS, WORDSIM_SETS, WordPairs, WordsimData, load_wordsim
from mcse.evaluation.encoding import Rows, cosines
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, data_digest, why_no_average
from mcse.metrics.correlation import UndefinedScoreError, spearman
from mcse.types import Column, PairList, Sample, ScoreKey, SuiteScores, keyed_scores

POLICY = (
    "Spearman of cosines with gold over the pairs of which both words have a vector; the others are left out and "
    "counted in the coverage (% of the pairs)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WordsimScore:
    """One set's cosines: ``known_P`` marks the pairs with vectors, ``cosine_P`` is meaningless on the others."""

    pairs: WordPairs
    cosine_P: NDArray[np.float64]
    known_P: NDArray[np.bool_]

    def spearman(self, among_P: NDArray[np.bool_] | None = None) -> float:
        """Correlation × 100 over the known pairs, of those that ``among_P`` marks if it is given.

        Raises:
            ValueError: Fewer than two such pairs.
            UndefinedScoreError: Their cosines or gold are constant.
        """
        kept_P = self._kept(among_P)
        return 100 * spearman(self.cosine_P[kept_P], self.pairs.gold_P[kept_P])

    def coverage(self, among_P: NDArray[np.bool_] | None = None) -> float:
        """Share of the pairs, or of those that ``among_P`` marks, that are known, in percent."""
        asked = len(self.pairs) if among_P is None else int(among_P.sum())
        return 100 * int(self._kept(among_P).sum()) / asked if asked else 0.0

    def count(self, among_P: NDArray[np.bool_] | None = None) -> int:
        """How many pairs the correlation is over."""
        return int(self._kept(among_P).sum())

    def _kept(self, among_P: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        return self.known_P if among_P is None else self.known_P & among_P


def score_wordsim(rows: Rows, sets: Sequence[WordPairs]) -> tuple[WordsimScore, ...]:
    """Cosines of every set's pairs, from rows of single words, each encoded once.

    Raises:
        ValueError: The encoder does not give one row a word.
        UndefinedScoreError: NaN rows, or one row for all words.
    """
    rows.encode([word for pairs in sets for word in sorted(pairs.words)])
    scores = []
    for pairs in sets:
        left_PD, right_PD = rows.raw(pairs.word1), rows.raw(pairs.word2)
        known_P = np.asarray(left_PD.any(axis=1) & right_PD.any(axis=1))
        scores.append(WordsimScore(pairs=pairs, cosine_P=cosines(left_PD, right_PD), known_P=known_P))
    return tuple(scores)


def prepare_wordsim(options: SuiteOptions) -> PreparedSuite:
    """Reads the word-similarity sets that ``options`` name.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A file cannot be read.
    """
    data = load_wordsim(options.data or os.environ.get("MCSE_DATA", "."))

    def score(subject: Subject) -> SuiteScores:
        return _suite_scores(score_wordsim(subject.rows, data.sets), data)

    summary = f"{', '.join(pairs.name for pairs in data.sets)}: {sum(map(len, data.sets)):,} pairs of words"
    if data.absent:
        summary += f"; without {', '.join(data.absent)}"
    subsets = [(name, mask.tolist()) for pairs in data.sets for name, mask in pairs.subsets.items()]
    words = [(pairs.name, pairs.word1, pairs.word2, pairs.gold_P.tolist()) for pairs in data.sets]
    return PreparedSuite(summary=summary, digest=data_digest((), words, subsets), score=score)


SUITE = Suite(
    name="wordsim",
    version=1,
    needs="a folder with word-similarity sets, itself or in wordsim/, or one file of pairs, by --data (MCSE_DATA)",
    prepare=prepare_wordsim,
)


def _suite_scores(found: Sequence[WordsimScore], data: WordsimData) -> SuiteScores:
    absent = dict(data.absent)
    samples: dict[ScoreKey, Sample] = {}
    pairs: dict[ScoreKey, PairList] = {}
    scores: dict[str, dict[str, float]] = {}
    for score in found:
        name = score.pairs.name
        try:
            scores[name] = _numbers(score)
        except (ValueError, UndefinedScoreError) as error:
            absent[name] = f"{error} (coverage {score.coverage():.1f} %)"
            continue
        samples[_key(name)] = _sample(score)
        pairs[_key(name)] = _known_pairs(score)
        for subset, among_P in score.pairs.subsets.items():
            try:
                scores[f"{name}/{subset}"] = _numbers(score, among_P)
            except (ValueError, UndefinedScoreError) as error:
                absent[f"{name}/{subset}"] = str(error)
    means = {}
    missing = why_no_average(WORDSIM_SETS, scores)
    if not missing:
        means[_key("average")] = {_key(name): 1.0 for name in WORDSIM_SETS}
        scores["average"] = {"spearman": float(np.mean([scores[name]["spearman"] for name in WORDSIM_SETS]))}
    elif any(name in WORDSIM_SETS for name in scores):
        absent["average"] = missing
    return SuiteScores(
        scores=keyed_scores("wordsim", scores),
        protocols=_protocols(found),
        columns=tuple(column for key in (*samples, *means) for column in _columns(key)),
        absent=absent,
        samples=samples,
        means=means,
        pairs=pairs,
    )


def _key(task: str) -> ScoreKey:
    return ScoreKey("wordsim", task, "spearman")


def _numbers(score: WordsimScore, among_P: NDArray[np.bool_] | None = None) -> dict[str, float]:
    return {
        "spearman": score.spearman(among_P),
        "coverage": score.coverage(among_P),
        "pairs": score.count(among_P),
    }


def _sample(score: WordsimScore) -> Sample:
    """Of the known pairs alone, so that a comparison of different coverage is refused and not made up."""
    return Sample(statistic="spearman", value_P=score.cosine_P[score.known_P], gold_P=score.pairs.gold_P[score.known_P])


def _known_pairs(score: WordsimScore) -> PairList:
    places = np.flatnonzero(score.known_P)
    return PairList(
        sentence1=tuple(score.pairs.word1[place] for place in places),
        sentence2=tuple(score.pairs.word2[place] for place in places),
    )


def _protocols(found: Sequence[WordsimScore]) -> dict[str, str]:
    protocols = {
        "wordsim": POLICY,
        "wordsim intervals": (
            "95 % percentile bootstrap, 1,000 draws of the known pairs, as if they were independent: they share words "
            "(MEN's 3,000 are of 751, all linked), so the intervals are too narrow"
        ),
    }
    for score in found:
        name, pairs = score.pairs.name, len(score.pairs)
        expected = EXPECTED_PAIRS.get(name, pairs)
        note = "" if expected == pairs else f", published scores are over {expected:,}"
        protocols[f"wordsim.{name}"] = f"{score.count():,} of {pairs:,} pairs{note}"
    return protocols


def _columns(key: ScoreKey) -> list[Column]:
    if key.task == "average":
        return [Column(label="Avg.", key=key)]
    return [Column(label=key.task, key=key), Column(label="cov. %", key=key.with_metric("coverage"))]
