"""Ranks with many ties, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.metrics import retrieval as metrics
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.retrieval import best_ranks, recall_at
from tests.fixtures.ranks import loop_ranks, unit


@pytest.mark.parametrize("cells", [1, 50, 2**24])
def test_ranks_equal_a_loop_with_many_ties(cells, monkeypatch):
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", cells)
    generator = np.random.default_rng(0)
    images, captions = generator.integers(-1, 2, (12, 3)), generator.integers(-1, 2, (30, 3))
    image_of = np.r_[np.arange(12), generator.integers(0, 12, 18)]
    found = best_ranks(images.astype(np.float32), captions.astype(np.float32), group_Q=range(12), group_T=image_of)
    assert found.tolist() == loop_ranks(images, captions, range(12), image_of)
    assert len(set(found.tolist())) > 4
    found = best_ranks(captions.astype(np.float32), images.astype(np.float32), group_Q=image_of, group_T=range(12))
    assert found.tolist() == loop_ranks(captions, images, image_of, range(12))

    query = np.flatnonzero(np.bincount(image_of)[image_of] > 1)
    rows = captions.astype(np.float32)
    found = best_ranks(rows[query], rows, group_Q=image_of[query], group_T=image_of, own_Q=query)
    assert found.tolist() == loop_ranks(captions[query], captions, image_of[query], image_of, own=query)
    with_itself = best_ranks(rows[query], rows, group_Q=image_of[query], group_T=image_of)
    assert (with_itself <= found).all()
    assert (with_itself < found).any()


def test_equal_rows_rank_last_and_so_do_rows_that_differ_by_rounding():
    generator = np.random.default_rng(1)
    for rows in (np.ones((8, 4)) / 2, np.ones((8, 4)) / 2 + 1e-8 * generator.standard_normal((8, 4))):
        rank = best_ranks(rows.astype(np.float32), rows.astype(np.float32), group_Q=range(8), group_T=range(8))
        assert rank.tolist() == [8] * 8
    assert recall_at(rank, 1) == recall_at(rank, 7) == 0
    assert recall_at(rank, 8) == 100


def test_rank_is_that_of_the_best_caption_and_other_right_ones_do_not_count():
    query = np.array([[1.0, 0.0]])
    targets = unit([[0.9, 0.1], [0.8, 0.3], [0.7, 0.6], [0.1, 1.0]])
    assert best_ranks(query, targets, group_Q=[0], group_T=[1, 0, 0, 0]).tolist() == [2]
    assert best_ranks(query, targets, group_Q=[0], group_T=[0, 1, 1, 0]).tolist() == [1]
    assert best_ranks(query, targets, group_Q=[0], group_T=[1, 1, 1, 0]).tolist() == [4]


def test_metric_refuses_bad_input():
    rows = np.eye(3)
    with pytest.raises(ValueError, match=r"equal width, got shapes \(3, 3\) and \(3, 2\)"):
        best_ranks(rows, rows[:, :2], group_Q=range(3), group_T=range(3))
    with pytest.raises(ValueError, match=r"one group a row, got groups of shapes \(2,\) for 3 queries"):
        best_ranks(rows, rows, group_Q=range(2), group_T=range(3))
    with pytest.raises(ValueError, match="query 2 has no right target"):
        best_ranks(rows, rows, group_Q=range(3), group_T=[0, 1, 1])
    with pytest.raises(ValueError, match="query 1 has no right target"):
        best_ranks(rows, rows, group_Q=[0, 1, 0], group_T=[0, 1, 0], own_Q=range(3))
    with pytest.raises(ValueError, match="query 0 has no right target"):
        best_ranks(rows, rows[:0], group_Q=range(3), group_T=[])
    with pytest.raises(UndefinedScoreError, match="at least one query"):
        best_ranks(rows[:0], rows, group_Q=[], group_T=range(3))
    broken = rows.copy()
    broken[1, 0] = np.nan
    with pytest.raises(UndefinedScoreError, match="1 of 3 target rows are not finite, first row 1"):
        best_ranks(rows, broken, group_Q=range(3), group_T=range(3))
    with pytest.raises(UndefinedScoreError, match="recall needs at least one query"):
        recall_at(np.array([], dtype=np.int64), 1)
