"""Blocks of embeddings: the nearest are those that sorting everything finds, and nothing is copied twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import load_file

import mcse.search.rows as module
from mcse.search.index_files import read_index, save_index
from mcse.search.rows import IndexRows, RowBlocks, nearest
from mcse.stored_rows import RowKind, quantize, restore, value_ranges


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
    save_index(tmp_path, {}, IndexRows.of(rows), kind="rows")
    [file] = tmp_path.glob("*.safetensors")
    np.testing.assert_array_equal(load_file(file)["embeddings"], np.concatenate([row_ND, row_ND[:50], row_ND[:1]]))


def unit_rows(number: int, width: int, *, seed: int) -> np.ndarray:
    row_ND = np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32)
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("width", [8, 20, 64, 72])
@pytest.mark.parametrize("kind", ["float16", "int8", "uint8"])
def test_small_rows_are_searched_by_what_they_stand_for(kind: RowKind, width: int) -> None:
    row_ND, query_QD = unit_rows(90, width, seed=0), unit_rows(12, width, seed=1)
    ranges = value_ranges(row_ND[:40])
    rows = IndexRows(rows=kind, ranges=ranges if kind != "float16" else None)
    for start in range(0, 90, 30):
        rows.append(row_ND[start : start + 30])
    stored = quantize(row_ND, kind, range_2D=ranges)
    assert rows.num_bytes == stored.nbytes
    numbers = restore(stored, kind, range_2D=ranges).astype(np.float64)
    numbers += 0 if kind == "float16" else (ranges[1] - ranges[0]) / 255 / 2
    for query_D, (scores, positions) in zip(query_QD, rows.nearest(query_QD, top_k=5), strict=True):
        wanted = np.array([sum(a * b for a, b in zip(query_D, row_D, strict=True)) for row_D in numbers])
        np.testing.assert_allclose(scores, np.sort(wanted)[::-1][:5], atol=1e-5)
        np.testing.assert_allclose(wanted[positions], scores, atol=1e-5)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("width", [8, 20, 64, 72, 384])
def test_bits_are_searched_by_those_that_differ(width: int) -> None:
    row_ND, query_QD = unit_rows(90, width, seed=2), unit_rows(12, width, seed=3)
    rows = RowBlocks(row_ND, kind="binary")
    assert rows.num_bytes == 90 * -(-width // 8)
    for query_D, (scores, positions) in zip(query_QD, nearest(query_QD, rows, top_k=90), strict=True):
        differ = [sum((a > 0) != (b > 0) for a, b in zip(query_D, row_D, strict=True)) for row_D in row_ND]
        wanted = sorted(range(90), key=lambda n: (differ[n], n))
        assert positions.tolist() == wanted
        np.testing.assert_allclose(scores, [1 - 2 * differ[n] / width for n in wanted], atol=1e-6)


def test_finer_rows_score_again_what_bits_found() -> None:
    row_ND, query_QD = unit_rows(400, 32, seed=4), unit_rows(20, 32, seed=5)
    exact = [np.argsort(-(row_ND @ query_D), kind="stable")[:10] for query_D in query_QD]

    def recall(rows: IndexRows) -> float:
        rows.append(row_ND)
        found = rows.nearest(query_QD, top_k=10)
        return float(np.mean([len({*wanted} & {*got}) for wanted, (_, got) in zip(exact, found, strict=True)])) / 10

    bits, again = recall(IndexRows(rows="binary")), recall(IndexRows(rows="binary", rescore="int8"))
    assert bits < again - 0.05
    assert recall(IndexRows(rows="int8")) > 0.95
    # Of the forty nearest by bits, in the order of the finer rows.
    rows = IndexRows(rows="binary", rescore="float32")
    rows.append(row_ND)
    assert rows.fine is not None
    for query_D, (scores, positions) in zip(query_QD, rows.nearest(query_QD, top_k=10), strict=True):
        differ = ((query_D > 0) != (row_ND > 0)).sum(1)
        candidates = np.argsort(differ, kind="stable")[:40]
        wanted = candidates[np.argsort(-(row_ND[candidates] @ query_D), kind="stable")][:10]
        assert positions.tolist() == wanted.tolist()
        np.testing.assert_allclose(scores, row_ND[wanted] @ query_D, atol=1e-6)
    with pytest.raises(ValueError, match="rescoring by binary is no finer than the rows, int8"):
        IndexRows(rows="int8", rescore="binary")


@dataclass(frozen=True)
class Nothing:
    """Content of an index without any."""


@pytest.mark.parametrize(
    ("kind", "rescore"), [("float16", None), ("int8", None), ("uint8", "float16"), ("binary", None), ("binary", "int8")]
)
def test_small_rows_come_back_with_their_ranges(kind: RowKind, rescore: RowKind | None, tmp_path) -> None:
    rows = IndexRows(rows=kind, rescore=rescore)
    rows.append(unit_rows(50, 20, seed=6))
    save_index(tmp_path, {}, rows, kind="rows")
    query_QD = unit_rows(3, 20, seed=7)
    with read_index(tmp_path, Nothing, kind="rows") as (_, again):
        assert again.num_bytes == rows.num_bytes
        for (scores, positions), (wanted, places) in zip(
            again.nearest(query_QD, top_k=5), rows.nearest(query_QD, top_k=5), strict=True
        ):
            np.testing.assert_array_equal(positions, places)
            np.testing.assert_array_equal(scores, wanted)
        more = unit_rows(4, 20, seed=8)
        again.append(more)
        rows.append(more)
        np.testing.assert_array_equal(again.restored(range(54)), rows.restored(range(54)))
    content = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(content.replace(f'"{kind}"', '"float32"', 1))
    with (
        pytest.raises(ValueError, match=r"holds embeddings of .*, not float32 rows"),
        read_index(tmp_path, Nothing, kind="rows"),
    ):
        pass


def test_fewer_rows_to_score_again_are_damage(tmp_path) -> None:
    rows = IndexRows(rows="binary", rescore="int8")
    rows.append(unit_rows(50, 20, seed=6))
    assert rows.fine is not None
    rows.fine = RowBlocks.of_stored(next(iter(rows.fine))[:40], kind="int8", width=20, ranges=rows.ranges)
    save_index(tmp_path, {}, rows, kind="rows")
    with (
        pytest.raises(ValueError, match="damaged, .* holds 50 embeddings, and 40 to score again"),
        read_index(tmp_path, Nothing, kind="rows"),
    ):
        pass


def test_storing_what_was_restored_changes_nothing() -> None:
    """An index that takes over what is unchanged must not wander with each call."""
    rows = RowBlocks(unit_rows(200, 24, seed=9), kind="int8")
    again = RowBlocks(rows.restored(range(200)), kind="int8", ranges=rows.ranges)
    np.testing.assert_array_equal(np.concatenate(list(again)), np.concatenate(list(rows)))


@pytest.mark.parametrize("kind", ["float16", "int8", "uint8", "binary"])
def test_a_large_piece_is_quantized_a_block_at_a_time(kind, monkeypatch) -> None:
    given = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 16 * 7)  # seven rows
    sizes = []

    def watched(row_ND, *rest, **options):
        sizes.append(len(row_ND))
        return quantize(row_ND, *rest, **options)

    monkeypatch.setattr(module, "quantize", watched)
    stored = RowBlocks(given, kind=kind)
    assert max(sizes) == 7
    expected = quantize(given, kind, range_2D=value_ranges(given))
    np.testing.assert_array_equal(np.concatenate(list(stored)), expected)
    assert len(stored) == 100
