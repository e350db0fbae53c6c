"""The STS suite: its numbers equal their definition, and are named as agreed."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mcse.data.test_sets import sts as data
from mcse.data.test_sets.contamination import normalise
from mcse.data.test_sets.sts import STS_TASKS, ScoredPairs, StsTask
from mcse.evaluation.suite import PreparedSuite, Subject, SuiteOptions
from mcse.evaluation.suites import SUITES
from mcse.evaluation.suites.sts import score_sts
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.significance import bootstrap_counts
from mcse.types import Encoder, ScoreKey, score_tree, subset_tree
from tests.fixtures.senteval import senteval as senteval
from tests.fixtures.senteval import write
from tests.fixtures.stub_encoders import CIRCLE, CROSS, TRIO, FixedEncoder, HashEncoder, make_pairs, plain_cosines

KEY = ScoreKey("sts", "T", "spearman")


def test_the_stub_is_an_encoder():
    assert isinstance(HashEncoder(), Encoder)


def test_scores_equal_the_protocol_computed_pair_by_pair():
    subsets = (make_pairs(20, subset="small"), make_pairs(60, subset="large", seed=1))
    found = score_sts(Subject.of(HashEncoder()), [StsTask("T", subsets, "words")])
    score, parts = score_tree(found.scores)["sts"]["T"], subset_tree(found.scores)["sts"]["T"]
    cosine = [plain_cosines(HashEncoder(), subset) for subset in subsets]
    each = [100 * stats.spearmanr(c, s.gold).statistic for c, s in zip(cosine, subsets, strict=True)]
    gold = np.concatenate([subset.gold for subset in subsets])
    assert score["spearman"] == pytest.approx(100 * stats.spearmanr(np.concatenate(cosine), gold).statistic, abs=1e-4)
    assert score["pearson"] == pytest.approx(100 * stats.pearsonr(np.concatenate(cosine), gold).statistic, abs=1e-4)
    assert [part["spearman"] for part in parts.values()] == pytest.approx(each, abs=1e-4)
    assert score["spearman_mean"] == pytest.approx(sum(each) / 2, abs=1e-4)
    assert score["spearman_wmean"] == pytest.approx((20 * each[0] + 60 * each[1]) / 80, abs=1e-4)
    assert len({round(score[metric], 1) for metric in ("spearman", "spearman_mean", "spearman_wmean")}) == 3
    assert (score["pairs"], parts["large"]["pairs"]) == (80, 60)
    np.testing.assert_allclose(found.samples[KEY].value_P, np.concatenate(cosine), atol=1e-6)


def test_pairs_that_share_a_sentence_are_drawn_together_within_their_subset():
    """By case, punctuation and spacing it is the same sentence; in the other subset it is drawn apart."""
    one = ("a b", "A b!", "c", "e", "k", "m", "o"), ("x", "y", "y", "f", "l", "n", "p")
    first = ScoredPairs("T", "one", *one, np.arange(7.0), ())
    second = ScoredPairs("T", "two", ("a b", "g"), ("h", "i"), np.arange(2.0), ())
    found = score_sts(Subject.of(HashEncoder()), [StsTask("T", (first, second), "")])
    for key, groups in ((KEY, ["aaabcdefg"]), (replace(KEY, task="T/one"), ["aaabcde"])):
        cluster_P = found.samples[key].cluster_P
        letters = dict(zip(dict.fromkeys(cluster_P.tolist()), "abcdefghi", strict=False))
        assert ["".join(letters[number] for number in cluster_P.tolist())] == groups
    draws = np.concatenate(list(bootstrap_counts("T", np.zeros(9), cluster_P=found.samples[KEY].cluster_P)))
    assert (draws[:, 0] == draws[:, 2]).all()
    assert (draws[:, 0] != draws[:, 3]).any()


def test_pairs_that_are_all_linked_are_drawn_one_by_one():
    """One question beside many answers is one cluster, of which nothing could be drawn: no interval has no width."""
    pairs = ScoredPairs("T", "all", ("question",) * 30, tuple(f"answer {n}" for n in range(30)), np.arange(30.0), ())
    data_of_one = PreparedSuite(
        summary="", digest="", score=lambda subject: score_sts(subject, [StsTask("T", (pairs,), "")])
    )
    found = data_of_one.run(Subject.of(HashEncoder()))
    low, high = (found.scores[end] for end in KEY.ends)
    assert high - low > 10


def test_each_distinct_sentence_is_encoded_once_over_all_tasks():
    encoder, pairs = HashEncoder(), make_pairs(30)
    score_sts(Subject.of(encoder), [StsTask("A", (pairs,), ""), StsTask("B", (pairs, make_pairs(9, seed=3)), "")])
    assert len(encoder.asked) == len(set(encoder.asked)) > 30


def test_the_average_is_over_exactly_the_seven():
    tasks = [StsTask(name, (make_pairs(20, seed=n),), "") for n, name in enumerate((*STS_TASKS, "SICKRelatedness9927"))]
    found = score_sts(Subject.of(HashEncoder()), tasks)
    spearman = [found.scores[ScoreKey("sts", name, "spearman")] for name in STS_TASKS]
    assert found.scores[ScoreKey("sts", "average", "spearman")] == pytest.approx(np.mean(spearman))
    assert found.scores[ScoreKey("sts", "average", "pairs")] == 7 * 20
    found = score_sts(Subject.of(HashEncoder()), [task for task in tasks if task.name != "STS13"])
    assert ScoreKey("sts", "average", "spearman") not in found.scores
    assert found.absent == {"average": "no average: it is over 7 tasks, and STS13 is missing"}


def test_a_subset_that_cannot_be_scored_is_named():
    constant = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ())
    with pytest.raises(UndefinedScoreError, match="T/s: all 3 gold values are 1"):
        score_sts(Subject.of(HashEncoder()), [StsTask("T", (make_pairs(20), constant), "")])


def test_permuted_gold_is_near_zero():
    pairs = make_pairs(4000)
    random = ScoredPairs("T", "all", pairs.sentence1, pairs.sentence2, np.random.permutation(pairs.gold), ())
    assert abs(score_sts(Subject.of(HashEncoder()), [StsTask("T", (random,), "")]).scores[KEY]) < 5


SAME = {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 0.0], "d": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"b": [np.nan, 1.0]}, UndefinedScoreError, "NaN or infinite rows for 1 of 4 sentences: 'b'"),
        ({"b": [np.inf, 1.0], "d": [np.nan, 0.0]}, UndefinedScoreError, "2 of 4 sentences: 'b', 'd'"),
        (SAME, UndefinedScoreError, "the same row for all 4 sentences"),
        (SAME | {"a": [1.0, 1e-7]}, UndefinedScoreError, "the same row"),
        (CROSS, UndefinedScoreError, "T: all 3 scores are 0"),
    ],
)
def test_broken_encoders_are_refused_by_sentence(changed, error, message):
    with pytest.raises(error, match=message):
        score_sts(Subject.of(FixedEncoder(CIRCLE | changed)), [StsTask("T", (TRIO,), "")])


def test_wrong_shapes_and_twice_the_same_task_are_refused():
    class Short(HashEncoder):
        def encode(self, sentences, *, batch_size=64, normalize=True):
            return super().encode(sentences)[:-1]

    with pytest.raises(ValueError, match=r"shape \(3, 8\) for 4 sentences"):
        score_sts(Subject.of(Short()), [StsTask("T", (TRIO,), "")])
    with pytest.raises(ValueError, match="different names, got T, T"):
        score_sts(Subject.of(HashEncoder()), [StsTask("T", (TRIO,), ""), StsTask("T", (TRIO,), "")])
    constant = ScoredPairs("T", "s", TRIO.sentence1, TRIO.sentence2, np.ones(3), ())
    with pytest.raises(UndefinedScoreError, match="T: all 3 gold values are 1"):
        score_sts(Subject.of(FixedEncoder(CIRCLE)), [StsTask("T", (constant,), "")])


def test_equal_sentences_tie_at_one():
    sentences = tuple(f"sentence {number}" for number in range(50))
    pairs = ScoredPairs("T", "all", (*sentences, "a"), (*sentences, "b"), np.arange(51.0), ())
    cosine = score_sts(Subject.of(HashEncoder()), [StsTask("T", (pairs,), "")]).samples[KEY].value_P
    assert list(cosine[:50]) == [1.0] * 50  # rounding must not order them
    assert cosine[50] < 0.999


def test_zero_rows_count_as_cosine_zero_and_are_said(caplog):
    with caplog.at_level(logging.WARNING):
        found = score_sts(Subject.of(FixedEncoder(CIRCLE | {"b": [0.0, 0.0]})), [StsTask("T", (TRIO,), "")])
    assert list(found.samples[KEY].value_P[:2]) == [0, 0]
    assert "1 of 4 sentences: 'b'" in caplog.text


def test_suite_scores_are_named_as_agreed(senteval):
    prepared = SUITES["sts"].prepare(SuiteOptions(data=str(senteval)))
    assert prepared.summary == "8 tasks, 119 pairs"
    found = prepared.run(Subject.of(HashEncoder()))
    scores = score_tree(found.scores)["sts"]
    assert list(scores) == [*data.STS_TASKS, "SICKRelatedness9927", "average"]
    correlations = {f"{name}{end}" for name in ("spearman", "pearson") for end in ("", "_low", "_high")}
    means = {f"spearman_{name}{end}" for name in ("mean", "wmean") for end in ("", "_low", "_high")}
    assert set(scores["STS12"]) == {*correlations, *means, "pairs"}
    assert set(scores["STSBenchmark"]) == {*correlations, "pairs"}  # no subsets, no means of them
    subsets = subset_tree(found.scores)["sts"]
    for task in (scores["STS12"], scores["average"], subsets["STS13"]["FNWN"]):
        assert task["spearman_low"] < task["spearman"] < task["spearman_high"]
    captions = [subsets["STS12"]["MSRvid"], subsets["STS14"]["images"], subsets["STS15"]["images"]]
    captions += [scores["SICKRelatedness"]]
    assert score_tree(found.scores)["sts_domains"]["captions"]["spearman"] == pytest.approx(
        np.mean([subset["spearman"] for subset in captions])
    )
    assert "sts_clean" not in score_tree(found.scores)
    seven = [scores[name]["spearman"] for name in data.STS_TASKS]
    assert scores["average"]["spearman"] == pytest.approx(np.mean(seven))
    assert [column.label for column in found.columns] == [
        *("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "Avg.", "SICK-R 9,927")
    ]
    assert list(subsets["STS13"]) == ["FNWN", "headlines", "OnWN"]
    assert "4,927" not in found.protocols["sts.SICKRelatedness9927"]


def test_clean_rows_leave_out_what_the_model_has_seen(senteval):
    prepared = SUITES["sts"].prepare(SuiteOptions(data=str(senteval)))
    pairs = prepared.run(Subject.of(HashEncoder())).pairs[ScoreKey("sts", "STSBenchmark", "spearman")]
    seen = frozenset({normalise(pairs.sentence1[2].upper() + " !"), normalise(pairs.sentence2[5])})
    found = prepared.run(Subject.of(HashEncoder(), seen=seen))
    sample = found.samples[ScoreKey.parse("sts.STSBenchmark.spearman")]
    kept = [
        i
        for i in range(len(pairs.sentence1))
        if not set(map(normalise, (pairs.sentence1[i], pairs.sentence2[i]))) & seen
    ]
    assert np.flatnonzero(sample.clean_P).tolist() == kept
    assert len(kept) < len(pairs.sentence1)
    clean = score_tree(found.scores)["sts_clean"]["STSBenchmark"]
    expected = 100 * stats.spearmanr(sample.value_P[kept], sample.gold_P[kept]).statistic
    assert clean["spearman"] == pytest.approx(expected)
    assert clean["pairs"] == len(kept)
    assert clean["spearman_low"] < clean["spearman"] < clean["spearman_high"]
    longer = "A sentence of a length that tells something, number "
    near = frozenset({normalise(longer + "one"), normalise(pairs.sentence1[2])})
    few = ScoredPairs("T", "all", (*pairs.sentence1[:5], longer + "two"), pairs.sentence2[:6], np.arange(6.0), ())
    found = score_sts(Subject.of(HashEncoder(), seen=near), [StsTask("T", (few,), "")])
    assert score_tree(found.scores)["sts_clean"]["T"]["near_duplicates"] == 1
    assert "80 % of the letters" in found.protocols["sts_clean"]
    nothing = frozenset(map(normalise, (*pairs.sentence1, *pairs.sentence2)))
    found = prepared.run(Subject.of(HashEncoder(), seen=nothing))
    assert "STSBenchmark" not in score_tree(found.scores)["sts_clean"]
    assert "fewer than two pairs" in found.absent["sts_clean.STSBenchmark"]
    assert "average" not in score_tree(found.scores)["sts_clean"]
    assert "STSBenchmark is missing" in found.absent["sts_clean.average"]


def test_average_is_left_out_with_the_reason_where_a_task_is_absent(senteval):
    for file in (senteval / "STS" / "STS13-en-test").iterdir():
        file.unlink()
    (senteval / "STS" / "STS13-en-test").rmdir()
    found = SUITES["sts"].prepare(SuiteOptions(data=str(senteval))).run(Subject.of(HashEncoder()))
    assert "average" not in score_tree(found.scores)["sts"]
    assert "STS13 is missing" in found.absent["average"]
    assert "STS13-en-test" in found.absent["STS13"]


@pytest.mark.parametrize(
    ("file", "tasks"),
    [
        ("STS/STS14-en-test/STS.gs.images.txt", "STS14"),
        ("STS/STSBenchmark/sts-test.csv", "STSBenchmark"),
        ("SICK/SICK_trial.txt", "SICKRelatedness9927"),
    ],
)
def test_a_task_of_which_a_file_is_missing_is_left_out_only_if_asked_for(senteval, file, tasks):
    (senteval / file).unlink()
    with pytest.raises(ValueError, match=rf"{tasks}: missing file .*{file[-14:]}; .* --allow-missing"):
        SUITES["sts"].prepare(SuiteOptions(data=str(senteval)))
    prepared = SUITES["sts"].prepare(SuiteOptions(data=str(senteval), allow_missing=True))
    assert "7 tasks" in prepared.summary
    assert f"without {tasks}" in prepared.summary


def test_own_file_makes_one_task_without_average(tmp_path):
    path = write(tmp_path / "mine.tsv", "1\ta\tb\n2\tb\tc\n4\tc\tc\n")
    found = SUITES["sts"].prepare(SuiteOptions(data=str(path))).run(Subject.of(HashEncoder()))
    assert list(score_tree(found.scores)["sts"]) == ["mine"]
    assert not found.absent
    with pytest.raises(ValueError, match="--batch-size must be positive, got 0"):
        SuiteOptions(batch_size=0)
