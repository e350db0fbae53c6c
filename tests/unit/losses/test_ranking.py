"""The ranking loss equals its definition, written in loops."""

from __future__ import annotations

import pytest
import torch

from mcse.losses.contrastive import unit_rows
from mcse.losses.ranking import ranking_loss


def rows(seed: int, count: int = 6) -> torch.Tensor:
    return unit_rows(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def by_loops(query, key, *, margin, negatives, offset=0, excluded=None):
    """Kiros et al., eq. 1, one direction; VSE++, eq. 6, under ``hardest``."""
    total = 0.0
    for i in range(len(query)):
        right = float(query[i] @ key[offset + i])
        hinges = [0.0]
        for k in range(len(key)):
            if k == offset + i or (excluded is not None and bool(excluded[i, k])):
                continue
            hinges.append(max(0.0, margin - right + float(query[i] @ key[k])))
        total += sum(hinges) if negatives == "sum" else max(hinges)
    return total


@pytest.mark.parametrize("negatives", ["sum", "hardest"])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
def test_equals_its_definition_in_loops(negatives, margin):
    query, key = rows(0), rows(1)
    expected = by_loops(query, key, margin=margin, negatives=negatives)
    assert ranking_loss(query, key, margin=margin, negatives=negatives).item() == pytest.approx(expected, rel=1e-12)
    # Neither all hinges are open nor none: the clamp is at work.
    assert 0 < expected < 6 * 5 * 3


@pytest.mark.parametrize("negatives", ["sum", "hardest"])
def test_masked_keys_and_an_offset(negatives):
    query, key = rows(0, 3), rows(5, 9)
    image_id = torch.tensor([4, 4, 0, 1, 2, 2, 3, 1, 5])  # this process's are rows 3 to 5
    excluded = image_id[3:6, None] == image_id[None]
    excluded[0, (query[0] @ key.T).argmax()] = True
    expected = by_loops(query, key, margin=0.2, negatives=negatives, offset=3, excluded=excluded)
    found = ranking_loss(query, key, margin=0.2, negatives=negatives, offset=3, excluded_BN=excluded)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    plain = ranking_loss(query, key, margin=0.2, negatives=negatives, offset=3)
    assert plain.item() == pytest.approx(by_loops(query, key, margin=0.2, negatives=negatives, offset=3), rel=1e-12)
    assert plain.item() != pytest.approx(expected)


@pytest.mark.parametrize("negatives", ["sum", "hardest"])
def test_gradient_equals_finite_differences(negatives):
    query, key = rows(2, 4).requires_grad_(), rows(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k: ranking_loss(q, k, margin=0.3, negatives=negatives), (query, key), eps=1e-7, atol=1e-5
    )


def test_hardest_is_no_more_than_the_sum_and_equal_with_one_negative():
    query, key = rows(0, 2), rows(1, 2)
    both = [ranking_loss(query, key, margin=0.5, negatives=n).item() for n in ("sum", "hardest")]
    assert both[0] == pytest.approx(both[1])
    query, key = rows(0), rows(1)
    both = [ranking_loss(query, key, margin=0.5, negatives=n).item() for n in ("sum", "hardest")]
    assert both[0] > both[1] > 0


def test_right_pairs_far_apart_from_wrong_ones_cost_nothing():
    key = torch.eye(4, dtype=torch.float64)
    assert ranking_loss(key, key, margin=0.9).item() == 0
    assert ranking_loss(key, key, margin=1.5).item() == pytest.approx(12 * 0.5)


def test_rows_without_unit_norm_are_allowed():
    """The reference code leaves images as they are while training."""
    query, key = rows(0) * 3, rows(1)
    expected = by_loops(query, key, margin=0.2, negatives="sum")
    assert ranking_loss(query, key, margin=0.2).item() == pytest.approx(expected, rel=1e-12)


def test_wrong_settings_are_refused():
    query, key = rows(0), rows(1)
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        ranking_loss(query, key, margin=0)
    with pytest.raises(ValueError, match="sum or hardest, got 'all'"):
        ranking_loss(query, key, margin=0.2, negatives="all")
    with pytest.raises(ValueError, match="right keys end at row 8"):
        ranking_loss(query, key, margin=0.2, offset=2)


def test_bf16_rows_are_compared_in_float32() -> None:
    query, key = (torch.nn.functional.normalize(torch.randn(4, 8)).bfloat16() for _ in range(2))
    loss = ranking_loss(query, key, margin=0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ranking_loss(query.double(), key.double(), margin=0.2).item(), rel=1e-5)
