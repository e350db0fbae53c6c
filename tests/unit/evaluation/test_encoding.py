"""Rows of distinct sentences, encoded once and checked."""

from __future__ import annotations

import numpy as np
import pytest

from mcse.evaluation.encoding import RowStore, encode_distinct
from tests.fixtures.stub_encoders import CIRCLE, FixedEncoder


def test_rows_that_should_be_unit_rows_are_checked():
    with pytest.raises(ValueError, match=r"other than unit norm \(5\) for 1 of 4 sentences: 'c'"):
        encode_distinct(FixedEncoder(CIRCLE | {"c": [3.0, 4.0]}), list("abcd"), batch_size=4)


def test_a_row_store_encodes_once_and_keeps_raw_rows():
    encoder = FixedEncoder(CIRCLE | {"c": [3.0, 4.0], "d": [0.0, 0.0]})
    store = RowStore(encoder, batch_size=2)
    assert store.raw(["c", "a", "c"]).tolist() == [[3, 4], CIRCLE["a"], [3, 4]]
    np.testing.assert_allclose(store.unit(["d", "c"]), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert len(store) == 3
