"""Arithmetic with images: queries, the nearest images, and their share of right ones."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.regularities import arithmetic_row, nearest, precision_at, rerank
from tests.fixtures.ranks import unit

NONE = np.zeros((0, 5), dtype=np.float32)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal(shape))


def test_the_query_is_the_sum_in_float64():
    image, minus, plus = draw(5), draw(2, 5, seed=1), draw(3, 5, seed=2)
    wanted = image.astype(np.float64).copy()
    for row in minus:
        wanted -= row
    for row in plus:
        wanted += row
    found = arithmetic_row(image, minus_WD=minus, plus_WD=plus)
    np.testing.assert_allclose(found, wanted / np.sqrt((wanted**2).sum()), atol=1e-6)
    np.testing.assert_allclose(arithmetic_row(image, minus_WD=NONE, plus_WD=NONE), image, atol=1e-7)
    np.testing.assert_allclose(arithmetic_row(image, minus_WD=minus, plus_WD=minus), image, atol=1e-6)


def test_a_query_without_direction_or_of_another_width_is_refused():
    image = draw(5)
    with pytest.raises(UndefinedScoreError, match="the words cancel the query"):
        arithmetic_row(image, minus_WD=image[None], plus_WD=NONE)
    with pytest.raises(UndefinedScoreError, match="cancel"):
        arithmetic_row(image * np.nan, minus_WD=NONE, plus_WD=NONE)
    with pytest.raises(ValueError, match=r"plus has shape \(1, 4\), the row \(5,\)"):
        arithmetic_row(image, minus_WD=NONE, plus_WD=draw(1, 4))


@pytest.mark.parametrize("top", [1, 4, 29])
def test_nearest_is_a_sorted_list_without_the_question(top, monkeypatch):
    images, own = draw(30, 5), np.array([3, 3, 17])
    queries = draw(3, 5, seed=9)
    for cells in (2**22, 30):  # in one block, and a block a query
        monkeypatch.setattr("mcse.metrics.regularities._BLOCK_CELLS", cells)
        found = nearest(queries, images, top=top, own_Q=own)
        for row in range(3):
            cosine = [float(queries[row] @ image) for image in images]
            order = [place for place in sorted(range(30), key=lambda place: -cosine[place]) if place != own[row]]
            assert found[row].tolist() == order[:top]
    assert (nearest(images, images, top=1)[:, 0] == np.arange(30)).all()


def test_ties_count_against_the_encoder():
    images = np.repeat(draw(1, 5), 10, axis=0) * (1 + 1e-8 * np.arange(10)[:, None]).astype(np.float32)
    right = np.zeros((1, 10), dtype=bool)
    right[0, [0, 3, 9]] = True
    found = nearest(images[:1], images, top=10, right_QN=right)
    assert found[0].tolist() == [1, 2, 4, 5, 6, 7, 8, 0, 3, 9]
    assert rerank(found[:, ::-1], images, right_QN=right[:, :])[0].tolist()[-3:] == [9, 3, 0]
    assert precision_at(found, right, k=4).tolist() == [0]
    assert nearest(images[:1], images, top=3)[0].tolist() == [0, 1, 2]


def test_reranking_sorts_by_the_mean_of_what_was_found():
    images = draw(20, 5)
    found = nearest(draw(4, 5, seed=3), images, top=7)
    again = rerank(found, images)
    for before, after in zip(found.tolist(), again.tolist(), strict=True):
        mean = sum(images[place].astype(np.float64) for place in before) / 7
        assert after == sorted(before, key=lambda place: -float(images[place] @ mean))
    assert (again != found).any()
    outlier = unit([[1, 0.1], [1, 0], [1, 0.05], [0, 1]])
    assert rerank(np.array([[3, 0, 1, 2]]), outlier)[0].tolist()[-1] == 3


def test_precision_counts_the_first_k():
    found = np.array([[2, 0, 1], [1, 2, 0]])
    right = np.array([[True, False, True], [True, False, False]])
    np.testing.assert_allclose(precision_at(found, right, k=2), [100, 0])
    np.testing.assert_allclose(precision_at(found, right, k=3), [200 / 3, 100 / 3])
    with pytest.raises(ValueError, match="k must be from 1 to the 3 found, got 4"):
        precision_at(found, right, k=4)
    with pytest.raises(UndefinedScoreError, match="at least one query"):
        precision_at(found[:0], right[:0], k=1)


def test_bad_calls_are_refused():
    images = draw(4, 5)
    with pytest.raises(ValueError, match="top must be from 1 to the 3 images to be found, got 4"):
        nearest(images, images, top=4, own_Q=np.arange(4))
    with pytest.raises(ValueError, match=r"shapes \(4, 5\) and \(4, 6\)"):
        nearest(images, draw(4, 6), top=1)
    images[2] = np.nan
    with pytest.raises(UndefinedScoreError, match="image rows: row 2 of 4 is not finite"):
        nearest(draw(1, 5), images, top=1)
