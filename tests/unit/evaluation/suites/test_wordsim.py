"""Word-similarity sets in their authors' formats, and the suite's numbers against scipy's."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from mcse.data.test_sets.wordsim import EXPECTED_PAIRS, load_wordsim
from mcse.encoders.word_vectors import WordVectorEncoder
from mcse.evaluation.evaluators.word_similarity import WordSimilarityEvaluator
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.text.word_vectors import WordVectors, load_word_vectors
from mcse.types import score_tree, subset_tree

WORDS = tuple("abcdefgh")


VECTORS = WordVectors.of(WORDS, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    lines = [f"{x}\t{y}\t{draw.uniform():.3f}\t{'even' if n % 2 else 'odd'}" for n, (x, y) in enumerate(_all_pairs())]
    path = tmp_path / "own.tsv"
    path.write_text("\n".join([*lines, "a\tmissing\t0.1\todd"]) + "\n")
    return path


def _all_pairs() -> list[tuple[str, str]]:
    return [(x, y) for x in WORDS for y in WORDS if x < y]


def test_the_suite_drops_pairs_of_missing_words_and_says_so(own: Path, caplog) -> None:
    with caplog.at_level(logging.ERROR):
        found = SUITES["wordsim"].prepare(SuiteOptions(data=str(own))).run(Subject.of(WordVectorEncoder(VECTORS)))
    score = score_tree(found.scores)["wordsim"]["own"]
    unit = VECTORS.row_VD / np.linalg.norm(VECTORS.row_VD, axis=1, keepdims=True)
    cosine = [unit[WORDS.index(x)] @ unit[WORDS.index(y)] for x, y in _all_pairs()]
    gold = np.random.default_rng(1).uniform(size=28).round(3)
    assert score["spearman"] == pytest.approx(100 * spearmanr(cosine, gold).statistic)
    assert score["pairs"] == 28
    assert score["coverage"] == pytest.approx(100 * 28 / 29)
    assert score["spearman_low"] < score["spearman"] < score["spearman_high"]
    odd = subset_tree(found.scores)["wordsim"]["own"]["odd"]
    assert odd["spearman"] == pytest.approx(100 * spearmanr(cosine[::2], gold[::2]).statistic)
    assert odd["coverage"] == pytest.approx(100 * 14 / 15)
    assert "left out and counted" in found.protocols["wordsim"]
    assert [column.key.metric for column in found.columns] == ["spearman", "coverage"]


def test_an_encoder_that_knows_too_little_is_absent_not_zero(own: Path) -> None:
    few = WordVectors.of(("a", "zz"), VECTORS.row_VD[:2])
    found = SUITES["wordsim"].prepare(SuiteOptions(data=str(own))).run(Subject.of(WordVectorEncoder(few)))
    assert not found.scores
    assert "at least two pairs, got 0 (coverage 0.0 %)" in found.absent["own"]


def test_the_evaluator_gives_each_set_and_their_mean(own: Path) -> None:
    (pairs,) = load_wordsim(own).sets
    evaluator = WordSimilarityEvaluator((pairs,), WordVectorEncoder(VECTORS))
    found = evaluator()
    assert set(found) == set(evaluator.metrics) == {"wordsim.own.spearman", "wordsim.mean"}
    assert found["wordsim.mean"].value == found["wordsim.own.spearman"].value
    assert WordSimilarityEvaluator((pairs,), WordVectorEncoder(WordVectors.of(("q",), VECTORS.row_VD[:1])))() == {}


@pytest.mark.parity
def test_real_sets_and_real_vectors(real_data: Path) -> None:
    """Gensim-free second route: cosines in float64 by hand, scipy's Spearman."""
    data = load_wordsim(real_data)
    assert {pairs.name: len(pairs) for pairs in data.sets} == {
        name: EXPECTED_PAIRS[name] for name in ("MEN", "SimVerb-3500", "SimLex-999")
    }
    simlex = data.sets[-1]
    assert {name: int(mask.sum()) for name, mask in simlex.subsets.items()} == {
        "adjectives": 111,
        "nouns": 666,
        "verbs": 222,
        "concreteness 1": 249,
        "concreteness 2": 250,
        "concreteness 3": 250,
        "concreteness 4": 250,
        "hard": 333,
    }
    vectors = load_word_vectors(real_data / "wordvec" / "glove.100d.10k.txt.gz")
    found = WordSimilarityEvaluator(data.sets, WordVectorEncoder(vectors))()
    kept = [
        i for i, (x, y) in enumerate(zip(simlex.word1, simlex.word2, strict=True)) if {x, y} <= vectors.index.keys()
    ]
    row = vectors.row_VD.astype(np.float64)
    row /= np.linalg.norm(row, axis=1, keepdims=True)
    cosine = [row[vectors.index[simlex.word1[i]]] @ row[vectors.index[simlex.word2[i]]] for i in kept]
    wanted = 100 * spearmanr(cosine, simlex.gold_P[kept]).statistic
    assert found["wordsim.SimLex-999.spearman"].value == pytest.approx(wanted, abs=1e-4)
