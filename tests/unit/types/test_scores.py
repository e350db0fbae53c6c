"""Score keys are written and parsed in one place."""

from __future__ import annotations

import pytest

from mcse.types import ScoreKey, keyed_scores, score_tree, subset_tree

KEYS = {
    "sts.STS12.spearman": ScoreKey("sts", "STS12", "spearman"),
    "sts_clean.STS12.spearman_low": ScoreKey("sts", "STS12", "spearman", part="clean", bound="low"),
    "sts_domains_clean.student answers.pairs": ScoreKey("sts_domains", "student answers", "pairs", part="clean"),
    "sts.STS12/surprise.OnWN.pearson_high": ScoreKey("sts", "STS12/surprise.OnWN", "pearson", bound="high"),
    "sts.my.own.file.spearman_wmean": ScoreKey("sts", "my.own.file", "spearman_wmean"),
    "retrieval.text_to_image.recall@10": ScoreKey("retrieval", "text_to_image", "recall@10"),
}


@pytest.mark.parametrize("text", KEYS)
def test_a_key_is_parsed_as_it_is_written(text: str) -> None:
    assert str(KEYS[text]) == text
    assert ScoreKey.parse(text) == KEYS[text]


@pytest.mark.parametrize("text", ["", "sts", "sts.spearman", ".STS12.spearman", "sts..spearman"])
def test_a_key_has_three_parts(text: str) -> None:
    with pytest.raises(ValueError, match="suite.task.metric, got"):
        ScoreKey.parse(text)


def test_keys_that_belong_together() -> None:
    key = ScoreKey("sts", "STS12/MSRvid", "spearman")
    assert key.subset == "MSRvid"
    assert [str(end) for end in key.clean.ends] == [
        "sts_clean.STS12/MSRvid.spearman_low",
        "sts_clean.STS12/MSRvid.spearman_high",
    ]
    assert str(key.clean.ends[0].with_metric("pairs")) == "sts_clean.STS12/MSRvid.pairs"


def test_files_hold_trees_of_tasks_and_of_subsets() -> None:
    scores = keyed_scores("sts", {"STS12": {"spearman": 1.0}, "STS12/surprise.OnWN": {"spearman": 2.0}})
    scores |= {ScoreKey("sts", "STS12", "spearman").clean.ends[0]: 3.0}
    assert score_tree(scores) == {"sts": {"STS12": {"spearman": 1.0}}, "sts_clean": {"STS12": {"spearman_low": 3.0}}}
    assert subset_tree(scores) == {"sts": {"STS12": {"surprise.OnWN": {"spearman": 2.0}}}}
