"""Contrastive losses equal their definitions, written in loops."""

from __future__ import annotations

import math

import pytest
import torch

from mcse.losses.contrastive import info_nce, info_nce_with_hard_negatives, unit_rows


def _rows(seed: int, count: int = 5) -> torch.Tensor:
    return unit_rows(torch.randn(count, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_info_nce_equals_its_definition() -> None:
    query, key, tau = _rows(0), _rows(1), 0.05
    expected = 0.0
    for i in range(5):
        scores = [float(query[i] @ key[j]) / tau for j in range(5)]
        expected -= scores[i] - math.log(sum(math.exp(s) for s in scores))
    assert info_nce(query, key, temperature=tau).item() == pytest.approx(expected, rel=1e-12)


def test_offset_names_the_positive() -> None:
    query, key = _rows(0), _rows(1, 9)
    rolled = torch.cat([key[3:], key[:3]])
    assert info_nce(query, key, temperature=0.1, offset=3).item() == pytest.approx(
        info_nce(query, rolled, temperature=0.1).item(), rel=1e-12
    )


def test_indistinguishable_keys_give_log_n() -> None:
    key = _rows(1, 1).repeat(6, 1)
    assert info_nce(_rows(0, 6), key, temperature=0.05).item() == pytest.approx(6 * math.log(6), rel=1e-12)


def test_excluded_keys_are_no_negatives_but_the_positive_stays() -> None:
    query, key = _rows(0), _rows(1)
    excluded = torch.zeros(5, 5, dtype=torch.bool)
    excluded[0, 0] = excluded[0, 2] = True
    expected = 0.0
    for i in range(5):
        kept = [j for j in range(5) if not (i == 0 and j == 2)]
        scores = {j: float(query[i] @ key[j]) / 0.05 for j in kept}
        expected -= scores[i] - math.log(sum(math.exp(s) for s in scores.values()))
    assert info_nce(query, key, temperature=0.05, excluded_BN=excluded).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_hard_negatives_equal_their_definition(weight: float) -> None:
    query, key, negative, tau = _rows(0), _rows(1), _rows(2), 0.05
    expected = 0.0
    for i in range(5):
        positives = [float(query[i] @ key[j]) / tau for j in range(5)]
        negatives = [float(query[i] @ negative[j]) / tau + (weight if i == j else 0.0) for j in range(5)]
        expected -= positives[i] - math.log(sum(math.exp(s) for s in positives + negatives))
    loss = info_nce_with_hard_negatives(query, key, negative, temperature=tau, hard_negative_weight=weight)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_bf16_rows_are_compared_in_float32() -> None:
    rows = torch.randn(4, 8).bfloat16()
    assert unit_rows(rows).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert info_nce(unit_rows(rows), unit_rows(rows), temperature=0.05).dtype == torch.float32


def test_bad_input_is_refused_by_value() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        info_nce(_rows(0), _rows(1), temperature=0)
    with pytest.raises(ValueError, match="positives end at row 7"):
        info_nce(_rows(0), _rows(1), temperature=1, offset=2)
    with pytest.raises(ValueError, match="5 positives but 4 hard negatives"):
        info_nce_with_hard_negatives(_rows(0), _rows(1), _rows(2, 4), temperature=1)
