"""Stored rows are those of sentence-transformers, and stand for numbers within a step of what was stored."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from mcse.stored_rows import RowKind, quantize, restore, value_ranges


@pytest.fixture
def rows() -> np.ndarray:
    row_ND = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    row_ND[:, 3] = 0.25  # a column of one value
    row_ND[7] = 0
    return row_ND


@pytest.mark.parametrize(("kind", "theirs"), [("int8", "int8"), ("uint8", "uint8"), ("binary", "ubinary")])
def test_stored_rows_are_those_of_sentence_transformers(rows: np.ndarray, kind: RowKind, theirs: str) -> None:
    util = pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is not installed")
    asked = {} if kind == "binary" else {"calibration_embeddings": rows[:30]}
    expected = util.quantize_embeddings(rows, precision=theirs, **asked)
    stored = quantize(rows, kind, range_2D=value_ranges(rows[:30]))
    assert stored.dtype == expected.dtype
    np.testing.assert_array_equal(stored, expected)
    if kind != "binary":
        ranges = np.vstack([rows[:30].min(0), rows[:30].max(0)])
        dequantize = pytest.importorskip("sentence_transformers.util.quantization")._dequantize_embeddings
        given = restore(stored, kind, range_2D=value_ranges(rows[:30]))
        np.testing.assert_allclose(given, dequantize(expected, kind, ranges), atol=1e-6)


@pytest.mark.parametrize("kind", get_args(RowKind))
def test_what_is_restored_is_within_a_step(rows: np.ndarray, kind: RowKind) -> None:
    range_2D = value_ranges(rows)
    restored = restore(quantize(rows, kind, range_2D=range_2D), kind, range_2D=range_2D)
    assert restored.dtype == np.float32
    if kind == "binary":
        np.testing.assert_array_equal(restored, np.where(rows > 0, 1, -1))
        return
    steps = {"float32": 0.0, "float16": 2e-3}.get(kind, (range_2D[1] - range_2D[0]) / 255)
    assert (abs(restored - rows) <= steps * 1.001 + 1e-6).all()
    assert (restored != rows).any() == (kind != "float32")


def test_a_cosine_of_bits_counts_those_that_differ(rows: np.ndarray) -> None:
    sign = restore(quantize(rows, "binary", range_2D=value_ranges(rows)), "binary", range_2D=value_ranges(rows))
    differ = np.array([[np.mean((a > 0) != (b > 0)) for b in rows] for a in rows])
    np.testing.assert_allclose(sign @ sign.T / rows.shape[1], 1 - 2 * differ, atol=1e-6)
