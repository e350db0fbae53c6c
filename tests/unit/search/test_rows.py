"""Blocks of embeddings: the nearest are those that sorting everything finds, and nothing is copied twice."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import mcse.search.rows as module
from mcse.search.index_files import save_index
from mcse.search.rows import RowBlocks, nearest


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of seven embeddings of width 4, five queries at once."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 7 * 4 * 4)
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 5)


def pieces_of(rows_ND: np.ndarray, generator: np.random.Generator) -> RowBlocks:
    """The embeddings, added in pieces of random size."""
    rows, start = RowBlocks(), 0
    while start < len(rows_ND):
        size = int(generator.integers(1, 20))
        rows.append(rows_ND[start : start + size])
        start += size
    return rows


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("top_k", [1, 3, 40, 500])
def test_the_nearest_are_those_of_a_sorted_list(top_k: int) -> None:
    generator = np.random.default_rng(top_k)
    # Whole numbers: products are exact, and many of them are equal.
    row_ND = generator.integers(-2, 3, size=(300, 4)).astype(np.float32)
    query_QD = generator.integers(-2, 3, size=(12, 4)).astype(np.float32)
    found = nearest(query_QD, pieces_of(row_ND, generator), top_k=top_k)
    assert len(found) == 12
    for query_D, (scores, positions) in zip(query_QD, found, strict=True):
        wanted = sorted(range(300), key=lambda n: (-float(query_D @ row_ND[n]), n))[:top_k]
        assert positions.tolist() == wanted
        assert scores.tolist() == [float(query_D @ row_ND[n]) for n in wanted]


@pytest.mark.usefixtures("_small_blocks")
def test_a_later_block_wins_no_tie_by_rounding() -> None:
    row_ND = np.zeros((30, 4), dtype=np.float32)
    row_ND[:, 0] = 0.5 + 1e-8 * np.arange(30)  # the later, the larger, by less than counts
    [(scores, positions)] = nearest(np.eye(1, 4, dtype=np.float32), RowBlocks(row_ND), top_k=4)
    assert positions.tolist() == [0, 1, 2, 3]
    assert scores == pytest.approx(0.5)


@pytest.mark.usefixtures("_small_blocks")
def test_blocks_hold_what_was_added_and_copy_no_large_piece(tmp_path) -> None:
    generator = np.random.default_rng(1)
    row_ND = generator.standard_normal((200, 4), dtype=np.float32)
    rows = pieces_of(row_ND, generator)
    assert len(rows) == 200
    np.testing.assert_array_equal(np.concatenate(list(rows)), row_ND)
    assert max(map(len, rows)) <= 7
    rows.append(large := row_ND[:50])
    before = list(rows)
    rows.append(row_ND[:1])
    assert all(np.shares_memory(old, new) for old, new in zip(before, rows, strict=False))
    assert np.shares_memory(before[-1], large)
    save_index(tmp_path, {}, rows, kind="rows")
    [file] = tmp_path.glob("*.safetensors")
    np.testing.assert_array_equal(load_file(file)["embeddings"], np.concatenate([row_ND, row_ND[:50], row_ND[:1]]))
