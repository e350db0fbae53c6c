"""The geometry suite: every number by a second route, its intervals, and what it says of data that has no answer."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from mcse.data.test_sets.contamination import normalise
from mcse.data.test_sets.sts import ScoredPairs
from mcse.evaluation.suite import Subject, SuiteOptions
from mcse.evaluation.suites.geometry import SUITE, score_geometry
from mcse.evaluation.uncertainty import add_intervals, point_score, replicate
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.geometry import (
    mean_cosine,
    mean_cosine_parts,
    spectrum,
    squared_distances,
    uniformity,
    uniformity_parts,
)
from mcse.metrics.significance import bootstrap_counts
from mcse.types import ScoreKey, score_tree

WIDTH = 5
WORDS = ("dog", "cat", "man", "child", "boat", "house")


def row(sentence: str) -> np.ndarray:
    """Sentences that share a first word are alike; all share a direction."""
    first, own = (np.random.default_rng(zlib.crc32(text.encode())) for text in (sentence.split()[0], sentence))
    return first.standard_normal(WIDTH) + 0.6 * own.standard_normal(WIDTH) + 0.8


class WordEncoder:
    def encode(self, sentences, *, batch_size=64, normalize=True):
        rows = np.array([0 * row(text) if "nothing" in text else row(text) for text in sentences])
        return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) if normalize else rows).astype(
            "f4"
        )


def pairs_of(count: int, *, gold_max: float = 5.0, name: str = "STSBenchmark") -> ScoredPairs:
    generator = np.random.default_rng(count)
    left = [f"{WORDS[i % 6]} {i % 40}" for i in range(count)]  # the first forty stand again, so distinct is not all
    right = [f"{WORDS[(i + generator.integers(2)) % 6]} other {i}" for i in range(count)]
    gold = np.round(generator.uniform(0, gold_max, count), 1)
    gold[:3] = min(4.0, gold_max)  # positive in MCSE's count, not in the global one
    return ScoredPairs(
        name=name, subset="test", sentence1=tuple(left), sentence2=tuple(right), gold=gold, files=("pairs.tsv",)
    )


def unit(sentences) -> np.ndarray:
    return WordEncoder().encode(sentences).astype(np.float64)


def test_scores_equal_loops_over_their_definitions():
    pairs = pairs_of(150)
    found = score_geometry(Subject.of(WordEncoder()), pairs)
    scores = score_tree(found.scores)["geometry"]["STSBenchmark"]
    left, right = unit(pairs.sentence1), unit(pairs.sentence2)
    squared = [((a - b) ** 2).sum() for a, b in zip(left, right, strict=True)]
    assert scores["alignment"] == pytest.approx(np.mean([s for s, g in zip(squared, pairs.gold, strict=True) if g > 4]))
    both = [*left, *right]
    kernel = [math.exp(-2 * ((both[i] - both[j]) ** 2).sum()) for i in range(300) for j in range(i)]
    assert scores["uniformity"] == pytest.approx(math.log(np.mean(kernel)), abs=1e-5)

    distinct = unit(sorted({*pairs.sentence1, *pairs.sentence2}))
    assert len(distinct) < 300
    cosine = [distinct[i] @ distinct[j] for i in range(len(distinct)) for j in range(i)]
    assert scores["mean_cosine"] == pytest.approx(np.mean(cosine), abs=1e-5)
    variance = np.sort(np.linalg.eigvalsh(np.cov(distinct.T)))[::-1]
    assert scores["variance_top1"] == pytest.approx(100 * variance[0] / variance.sum(), rel=1e-4)
    assert scores["variance_top10"] == pytest.approx(100)  # rows of width five
    share = np.sqrt(variance) / np.sqrt(variance).sum()
    assert scores["effective_rank"] == pytest.approx(np.prod(share**-share), rel=1e-4)

    parts = [slice(0, 128), slice(128, 150)]
    batchwise = [np.mean(np.array(squared)[part][pairs.gold[part] >= 4]) for part in parts]
    assert scores["batchwise_alignment"] == pytest.approx(np.mean(batchwise))
    by_batch = [uniformity(np.concatenate([left[part], right[part]])) for part in parts]
    assert scores["batchwise_uniformity"] == pytest.approx(np.mean(by_batch), abs=1e-5)
    assert scores["batchwise_uniformity"] != pytest.approx(scores["uniformity"], abs=1e-3)
    assert (scores["pairs"], scores["sentences"]) == (150, len(distinct))
    assert scores["positive_pairs"] == (pairs.gold > 4).sum() < (pairs.gold >= 4).sum()


def test_headlines_are_better_when_lower_and_carry_intervals():
    found = add_intervals(score_geometry(Subject.of(WordEncoder()), pairs_of(90)))
    assert [column.key.metric for column in found.columns] == ["alignment", "uniformity", "mean_cosine"]
    assert not any(column.higher_is_better for column in found.columns)
    scores = score_tree(found.scores)["geometry"]["STSBenchmark"]
    for column in found.columns:
        assert point_score(found.samples[column.key]) == pytest.approx(scores[column.key.metric], abs=1e-9)
        low, high = scores[f"{column.key.metric}_low"], scores[f"{column.key.metric}_high"]
        assert low < scores[column.key.metric] < high
        assert high - low < 1
    assert not found.absent


def weighted_uniformity(left, right, weight):
    """Over draws in which pair p stands ``weight[p]`` times and copies of a pair do not meet."""
    kernel = {(i, j): np.exp(-2 * ((a[:, None] - b[None]) ** 2).sum(2)) for i, a in enumerate((left, right))
              for j, b in enumerate((left, right))}  # fmt: skip
    across = sum(kernel.values())
    np.fill_diagonal(across, 0)
    own = np.diag(kernel[0, 1])
    other = np.outer(weight, weight)
    np.fill_diagonal(other, 0)
    return math.log((weight @ across @ weight / 2 + weight @ own) / (4 * other.sum() / 2 + weight.sum()))


def test_uniformity_parts_are_its_derivatives_and_draw_its_interval():
    pairs = pairs_of(100)
    left, right = unit(pairs.sentence1), unit(pairs.sentence2)
    parts = uniformity_parts(left, right)
    whole = uniformity(np.concatenate([left, right]))
    assert parts.mean() == pytest.approx(whole, abs=1e-10)
    assert weighted_uniformity(left, right, np.ones(100)) == pytest.approx(whole, abs=1e-7)
    for place in (0, 17, 99):
        step = np.full(100, -1 / 100)
        step[place] += 1
        slope = [weighted_uniformity(left, right, 1 + sign * 1e-4 * step) for sign in (1, -1)]
        assert (slope[0] - slope[1]) / 2e-4 == pytest.approx((parts[place] - whole) / 100, rel=1e-3)
    count_BP = np.concatenate(list(bootstrap_counts("check", np.zeros(100, dtype=int), draws=400)))
    exact = np.array([weighted_uniformity(left, right, count.astype(float)) for count in count_BP])
    drawn = count_BP @ parts / 100
    assert np.corrcoef(exact, drawn)[0, 1] > 0.95
    assert drawn.std() == pytest.approx(exact.std(), rel=0.1)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.2 * exact.std())


def test_mean_cosine_parts_are_its_derivatives():
    rows = unit([f"{WORDS[i % 6]} {i}" for i in range(50)])
    parts = mean_cosine_parts(rows)
    assert parts.mean() == pytest.approx(mean_cosine(rows))

    def weighted(weight):
        other = np.outer(weight, weight)
        np.fill_diagonal(other, 0)
        return (other * (rows @ rows.T)).sum() / other.sum()

    step = np.full(50, -1 / 50)
    step[7] += 1
    slope = (weighted(1 + 1e-4 * step) - weighted(1 - 1e-4 * step)) / 2e-4
    assert slope == pytest.approx((parts[7] - mean_cosine(rows)) / 50, rel=0.05)


def test_closed_forms():
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    even = spectrum(axes)
    assert (even.top1_share, even.top10_share) == pytest.approx((1 / 4, 1))
    assert even.effective_rank == pytest.approx(4)
    assert mean_cosine(axes) == pytest.approx(-1 / 7)
    line = spectrum(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert (line.top1_share, line.effective_rank) == pytest.approx((1, 1))
    assert mean_cosine(np.tile([[0.6, 0.8]], (5, 1))) == pytest.approx(1)
    assert list(squared_distances(np.eye(2), -np.eye(2)[::-1])) == pytest.approx([2, 2])


def test_metrics_refuse_what_has_no_value():
    same = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (9, 1))
    with pytest.raises(UndefinedScoreError, match="all 9 rows are equal: they have no spectrum"):
        spectrum(same)
    with pytest.raises(UndefinedScoreError, match="mean cosine needs at least two rows, got 1"):
        mean_cosine(same[:1])
    with pytest.raises(UndefinedScoreError, match="spectrum needs at least two rows, got 0"):
        spectrum(same[:0])
    with pytest.raises(UndefinedScoreError, match="uniformity needs at least two rows, got 0"):
        uniformity_parts(same[:0], same[:0])
    with pytest.raises(ValueError, match=r"equal shape, got \(9, 2\) and \(8, 2\)"):
        uniformity_parts(same, same[:8])
    with pytest.raises(ValueError, match="row 0 has norm 2"):
        mean_cosine(2 * same)
    with pytest.raises(ValueError, match="row 1 has norm nan"):
        spectrum(np.array([[1.0, 0.0], [np.nan, 0.0]]))


def test_without_positive_pairs_alignment_is_absent():
    found = score_geometry(Subject.of(WordEncoder()), pairs_of(20, gold_max=1.0, name="mine"))
    scores = score_tree(found.scores)["geometry"]["mine"]
    assert "alignment" not in scores
    assert "batchwise_alignment" not in scores
    assert scores["positive_pairs"] == 0
    assert found.absent["geometry.mine.alignment"] == "no pair has gold above 4; the largest is 1"
    assert [str(column.key) for column in found.columns] == ["geometry.mine.uniformity", "geometry.mine.mean_cosine"]


def test_sentences_without_a_row_are_left_out_and_said():
    whole = pairs_of(30)
    broken = ScoredPairs(
        name=whole.name,
        subset=whole.subset,
        sentence1=("nothing known", *whole.sentence1[1:]),
        sentence2=whole.sentence2,
        gold=whole.gold,
        files=whole.files,
    )
    rest = ScoredPairs(
        name=whole.name,
        subset=whole.subset,
        sentence1=whole.sentence1[1:],
        sentence2=whole.sentence2[1:],
        gold=whole.gold[1:],
        files=whole.files,
    )
    found = add_intervals(score_geometry(Subject.of(WordEncoder()), broken))
    wanted = score_tree(score_geometry(Subject.of(WordEncoder()), rest).scores)["geometry"]["STSBenchmark"]
    assert score_tree(found.scores)["geometry"]["STSBenchmark"] == {
        metric: pytest.approx(score) for metric, score in wanted.items()
    }
    assert "1 of 30 pairs are left out" in found.absent["geometry.STSBenchmark.intervals"]
    assert not found.samples


def test_what_the_model_has_seen_is_marked():
    pairs = pairs_of(60)
    positive = pairs.gold > 4
    place = int(np.flatnonzero(positive)[1])
    seen = frozenset({normalise(pairs.sentence2[place])})
    key = ScoreKey("geometry", "STSBenchmark", "alignment")
    sample = score_geometry(Subject.of(WordEncoder(), seen=seen), pairs).samples[key]
    assert sample.clean_P is not None
    assert len(sample.clean_P) == positive.sum()
    assert list(np.flatnonzero(~sample.clean_P)) == [1]
    assert replicate(sample, key).std() > 0


def test_suite_reads_folders_files_and_names_what_is_missing(tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("".join(f"{i % 6}\tdog {i}\tcat {i}\n" for i in range(12)), encoding="utf-8")
    suite = SUITE.prepare(SuiteOptions(data=str(own)))
    assert suite.summary == "12 pairs of own, 2 of them with gold above 4"
    assert score_tree(suite.run(Subject.of(WordEncoder())).scores)["geometry"]["own"]["pairs"] == 12
    own.write_text(own.read_text().replace("dog 3", "dog 33"), encoding="utf-8")
    assert SUITE.prepare(SuiteOptions(data=str(own))).digest != suite.digest

    home = tmp_path / "data" / "STS" / "STSBenchmark"
    home.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="missing file .*sts-test.csv"):
        SUITE.prepare(SuiteOptions(data=str(tmp_path / "data")))
    with pytest.raises(FileNotFoundError, match="--data: neither a folder nor a file at .*nowhere"):
        SUITE.prepare(SuiteOptions(data=str(tmp_path / "nowhere")))
    lines = "".join(f"main\tf\ty\t{i}\t{i}\ta man {i}\ta cat {i}\n" for i in range(6))
    (home / "sts-test.csv").write_text(lines, encoding="utf-8")
    found = SUITE.prepare(SuiteOptions(data=str(tmp_path / "data"))).run(Subject.of(WordEncoder()))
    assert score_tree(found.scores)["geometry"]["STSBenchmark"]["positive_pairs"] == 1


def test_real_test_pairs_are_counted_as_published(real_data):
    summary = SUITE.prepare(SuiteOptions(data=str(real_data))).summary
    assert summary == "1,379 pairs of STSBenchmark, 231 of them with gold above 4"
