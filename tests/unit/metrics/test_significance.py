"""Bootstrap, paired differences and corrections: against scipy, resampling by hand and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from mcse.evaluation.uncertainty import clean_part, replicate, replicate_all
from mcse.metrics.significance import (
    LabelReplicates,
    SpearmanReplicates,
    bootstrap_counts,
    connected_pairs,
    group_difference,
    group_interval,
    holm,
    interval,
    paired_difference,
    replicate_f1,
    replicate_mean,
    replicate_median,
    replicate_pearson,
    seeds_needed,
    two_sided_p,
)
from mcse.types import Sample, ScoreKey

ITEMS = 60


@pytest.fixture
def values() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    gold = np.round(generator.uniform(0, 5, ITEMS), 1)  # with ties
    return np.round(gold + generator.normal(0, 1.5, ITEMS), 1), gold


def drawn_counts(name: str, group: np.ndarray, **keys) -> np.ndarray:
    return np.concatenate(list(bootstrap_counts(name, group, **keys)))


def counts(draws: int = 20) -> np.ndarray:
    return drawn_counts("test", np.zeros(ITEMS), draws=draws)


def test_draws_take_as_many_of_each_group_as_it_has_and_are_seeded() -> None:
    group = np.array([0] * 10 + [7] * 5)
    drawn = drawn_counts("name", group, draws=50)
    assert (drawn[:, :10].sum(1) == 10).all()
    assert (drawn[:, 10:].sum(1) == 5).all()
    np.testing.assert_array_equal(drawn, drawn_counts("name", group, draws=50))
    assert (drawn != drawn_counts("other", group, draws=50)).any()
    many = drawn_counts("name", np.zeros(4), draws=20_000)
    np.testing.assert_allclose(many.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(many.var(0), 0.75, atol=0.03)  # multinomial: 1 - 1/4


def test_replicates_equal_scipy_on_the_items_repeated(values: tuple[np.ndarray, np.ndarray]) -> None:
    score, gold = values
    count_BP = counts()
    ranked, linear = SpearmanReplicates(score, gold)(count_BP), replicate_pearson(score, gold, count_BP)
    mean, median = replicate_mean(score, count_BP), replicate_median(score, count_BP)
    f1 = replicate_f1(score > 2, gold > 2, count_BP)
    for number, drawn in enumerate(count_BP):
        left, right = np.repeat(score, drawn), np.repeat(gold, drawn)
        assert ranked[number] == pytest.approx(stats.spearmanr(left, right).statistic)
        assert linear[number] == pytest.approx(stats.pearsonr(left, right).statistic)
        assert mean[number] == pytest.approx(left.mean())
        assert median[number] == np.sort(left)[(len(left) - 1) // 2]
        assert f1[number] == pytest.approx(f1_score(right > 2, left > 2))
    assert ranked.std() > 0.01


def test_many_draws_go_in_blocks_and_give_the_same(monkeypatch, values: tuple[np.ndarray, np.ndarray]) -> None:
    replicates = SpearmanReplicates(*values)
    whole = replicates(counts())
    monkeypatch.setattr("mcse.metrics.significance._BLOCK_CELLS", 3 * ITEMS)
    blocks = list(bootstrap_counts("test", np.zeros(ITEMS), draws=20))
    assert [len(block) for block in blocks] == [3, 3, 3, 3, 3, 3, 2]
    np.testing.assert_array_equal(np.concatenate([replicates(block) for block in blocks]), whole)


def test_a_draw_of_equal_values_has_no_rank_correlation() -> None:
    count_BP = np.array([[3, 0, 0, 2, 0], [1, 1, 1, 1, 1]])
    found = SpearmanReplicates([0.1, 2, 3, 0.1, 5], [1, 2, 3, 4, 5])(count_BP)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(stats.spearmanr([0.1, 2, 3, 0.1, 5], [1, 2, 3, 4, 5]).statistic)


def test_pairs_that_share_a_side_are_connected_as_following_each_link_says() -> None:
    generator = np.random.default_rng(2)
    left, right = ([f"s{number}" for number in generator.integers(0, 60, size=40)] for _ in range(2))
    group = generator.integers(0, 2, size=40)
    expected = [{place} for place in range(40)]
    for _ in range(40):
        for i in range(40):
            for k in range(40):
                if group[i] == group[k] and {left[i], right[i]} & {left[k], right[k]}:
                    expected[i] |= expected[k]
    found = connected_pairs(left, right, group)
    for place in range(40):
        assert set(np.flatnonzero(found == found[place]).tolist()) == expected[place]
    assert {1, 2, 6} <= {len(cluster) for cluster in expected}
    assert len(np.unique(connected_pairs(left, right))) < len(np.unique(found)), "clusters end at groups"


def test_clusters_are_drawn_whole_and_as_many_of_each_group_as_it_has() -> None:
    group = np.repeat([3, 8], [10, 6])
    cluster = np.array([0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 10, 10, 10, 10, 10, 11])
    drawn = drawn_counts("name", group, cluster_P=cluster, draws=20_000)
    firsts = [np.flatnonzero(cluster == number)[0] for number in np.unique(cluster)]
    for first in firsts:
        assert (drawn[:, cluster == cluster[first]] == drawn[:, [first]]).all()
    assert (drawn[:, firsts[:5]].sum(1) == 5).all()
    assert (drawn[:, firsts[5:]].sum(1) == 2).all()
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(drawn[:, firsts].var(0), [0.8] * 5 + [0.5] * 2, atol=0.03)  # multinomial: 1 - 1/C


def test_items_that_agree_within_clusters_count_as_one() -> None:
    """Twenty clusters of four equal items are twenty items: the interval of items drawn one by one is half as wide."""
    generator = np.random.default_rng(5)
    cluster = np.repeat(np.arange(20), 4)
    held = {"one by one": 0, "together": 0}
    for number in range(300):
        value = generator.normal(size=20)[cluster]
        for way, clusters in (("one by one", None), ("together", cluster)):
            drawn = drawn_counts(str(number), np.zeros(80), cluster_P=clusters, draws=199)
            low, high = interval(replicate_mean(value, drawn))
            held[way] += low <= 0 <= high
            if way == "together":
                by_cluster = drawn_counts(str(number), np.zeros(80), cluster_P=cluster, draws=2000)
                spread = replicate_mean(value, by_cluster).std()
                assert spread == pytest.approx(value[::4].std() / np.sqrt(20), rel=0.1)
    assert 0.88 <= held["together"] / 300 <= 0.97
    assert held["one by one"] / 300 < 0.75


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for number in range(200):
        left = generator.normal(size=100)
        right = 0.6 * left + 0.8 * generator.normal(size=100)
        count_BP = drawn_counts(str(number), np.zeros(100), draws=300)
        low, high = interval(replicate_pearson(left, right, count_BP))
        covered += low <= 0.6 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_ends_are_the_draws_of_their_rank() -> None:
    """Of 199 draws and the truth each rank is as likely, so that 190 of 200 lie from the 5th to the 195th."""
    assert interval(np.random.default_rng(0).permutation(np.arange(1.0, 200.0))) == pytest.approx((5, 195))


def test_draws_without_a_score_are_left_out() -> None:
    assert interval([np.nan, 1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert two_sided_p([np.nan, 1.0, 1.0, 1.0]) == pytest.approx(2 * 1 / 4)


def test_p_values_are_uniform_where_nothing_differs_and_small_where_much_does() -> None:
    generator = np.random.default_rng(1)
    count_BP = drawn_counts("p", np.zeros(80), draws=400)
    null = [two_sided_p(replicate_mean(generator.normal(size=80), count_BP)) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(null) < 0.05) <= 0.1
    assert two_sided_p(replicate_mean(generator.normal(1, 1, 80), count_BP)) < 0.01


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert list(holm({"z": 0.9, "a": 0.8})) == ["z", "a"]
    assert holm({"z": 0.9, "a": 0.8}) == {"z": 1.0, "a": 1.0}


def test_groups_without_item_variance_are_welchs_test() -> None:
    first, second = [76.1, 75.4, 76.9, 75.8, 76.0], [75.0, 75.9, 74.8]
    found = group_difference(first, second, np.zeros(100))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_item_variance_widens_the_groups_interval_and_the_smallest_difference() -> None:
    first, second = [76.1, 75.4, 76.9], [75.0, 75.9, 74.8]
    draws = np.random.default_rng(0).normal(0.9, 2.0, 5000)
    narrow, wide = group_difference(first, second, np.zeros(9)), group_difference(first, second, draws)
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.p > narrow.p
    # Nearly all variance is the items', with so many degrees of freedom that t is normal.
    assert wide.smallest == pytest.approx((1.96 + 0.84) * np.hypot(2.0, 0.48), rel=0.05)
    with pytest.raises(ValueError, match="two seeds or more each, got 1 and 3"):
        group_difference([1.0], second, draws)


def test_the_smallest_difference_is_found_in_four_of_five_cases() -> None:
    generator = np.random.default_rng(4)
    smallest = paired_difference(0.0, generator.normal(0, 1, 2000)).smallest
    found = [paired_difference(0, generator.normal(generator.normal(smallest, 1), 1, 800)).p < 0.05 for _ in range(300)]
    assert 0.72 <= np.mean(found) <= 0.88


def test_two_models_share_draws_and_means_share_parts(values: tuple[np.ndarray, np.ndarray]) -> None:
    score, gold = values
    sample = Sample(statistic="spearman", value_P=score, gold_P=gold)
    a, b, c = (ScoreKey(suite, "task", "m") for suite in "abc")
    mean, lost = ScoreKey("a", "average", "m"), ScoreKey("a", "lost", "m")
    np.testing.assert_array_equal(replicate(sample, a), replicate(sample, a.clean))
    draws = replicate_all({a: sample, b: sample}, {mean: {a: 1.0, b: 3.0}, lost: {a: 1.0, c: 1.0}})
    np.testing.assert_allclose(draws[mean], (draws[a] + 3 * draws[b]) / 4)
    assert lost not in draws
    assert (draws[a] != draws[b]).any()
    with pytest.raises(ValueError, match="needs gold"):
        replicate(Sample(statistic="f1", value_P=score), a)


def test_the_clean_part_keeps_what_was_not_seen(values: tuple[np.ndarray, np.ndarray]) -> None:
    score, gold = values
    clean = np.arange(ITEMS) % 3 > 0
    part = clean_part(Sample(statistic="spearman", value_P=score, gold_P=gold, clean_P=clean))
    assert part is not None
    np.testing.assert_array_equal(part.value_P, score[clean])
    assert clean_part(Sample(statistic="mean", value_P=score)) is None
    assert clean_part(Sample(statistic="mean", value_P=score, clean_P=np.arange(ITEMS) == 3)) is None


def test_label_scores_of_draws_are_those_of_scikit_learn_on_the_drawn_pairs() -> None:
    rng = np.random.default_rng(0)
    value_P, label_P = rng.integers(0, 9, 40) / 10, rng.integers(0, 2, 40)  # with ties
    replicates = LabelReplicates(value_P, label_P)
    (count_BP,) = bootstrap_counts("labels", np.zeros(40), draws=20)
    for draw, precision, f1 in zip(
        count_BP, replicates.average_precision(count_BP), replicates.best_f1(count_BP), strict=True
    ):
        drawn, label = np.repeat(value_P, draw), np.repeat(label_P, draw)
        assert precision == pytest.approx(average_precision_score(label, drawn))
        p, r, _ = precision_recall_curve(label, drawn)
        assert f1 == pytest.approx((2 * p * r / np.maximum(p + r, 1e-9)).max())
    none = np.zeros((1, 40), dtype=np.int64)
    none[0, np.flatnonzero(label_P == 0)] = 1
    assert np.isnan(replicates.average_precision(none)).all()
    assert np.isnan(replicates.best_f1(none)).all()


def test_the_interval_of_a_mean_adds_seeds_and_items():
    scores, draws = [70.0, 72.0, 71.5, 69.0], np.random.default_rng(0).normal(70, 0.8, 1000)
    wide = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert group_interval(scores, np.zeros(2)) == pytest.approx(wide)
    variance_of_seeds, variance_of_items = np.var(scores, ddof=1) / 4, np.var(draws, ddof=1)
    freedom = (variance_of_seeds + variance_of_items) ** 2 / (variance_of_seeds**2 / 3)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variance_of_seeds + variance_of_items)
    assert group_interval(scores, draws) == pytest.approx((np.mean(scores) - reach, np.mean(scores) + reach))
    with pytest.raises(ValueError, match="two or more, got 1"):
        group_interval([1.0], draws)


@pytest.mark.parametrize(("first_sd", "second_sd", "item_sd"), [(1.0, 0.5, 0.0), (0.4, 0.4, 0.1), (0.01, 0.02, 0.0)])
def test_the_number_of_seeds_needed_is_the_first_that_is_enough(first_sd, second_sd, item_sd):
    def smallest(number: int) -> float:
        first, second = first_sd**2 / number, second_sd**2 / number
        variance = first + second + item_sd**2
        freedom = variance**2 / ((first**2 + second**2) / (number - 1))
        return (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * np.sqrt(variance)

    number = 2
    while smallest(number) > 0.5:
        number += 1
    assert seeds_needed(first_sd, second_sd, item_sd=item_sd, difference=0.5) == number


def test_where_items_alone_vary_too_much_no_number_of_seeds_is_enough():
    assert seeds_needed(0.1, 0.1, item_sd=0.5, difference=0.5) is None
    assert seeds_needed(0.0, 0.0, item_sd=0.0, difference=0.5) == 2
