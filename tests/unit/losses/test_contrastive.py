"""Contrastive losses equal their definitions, written in loops."""

from __future__ import annotations

import math

import pytest
import torch

from mcse.losses import contrastive
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
    shown = torch.tensor([4, 1, 4, 3, 2])
    expected = 0.0
    for i in range(5):
        kept = [j for j in range(5) if (i, j) not in {(0, 2), (2, 0)}]
        scores = {j: float(query[i] @ key[j]) / 0.05 for j in kept}
        expected -= scores[i] - math.log(sum(math.exp(s) for s in scores.values()))
    loss = info_nce(query, key, temperature=0.05, query_id_B=shown, key_id_N=shown)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("logits_at_once", [2**22, 10])
def test_weights_multiply_the_losses_of_queries(logits_at_once: int) -> None:
    query, key, weight = _rows(0).requires_grad_(), _rows(1).requires_grad_(), torch.tensor([0.5, 2.0, 0.0, 1.0, 1.5])
    shown = torch.tensor([4, 1, 4, 3, 2])
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        scores = [query[i] @ key[j] / 0.1 for j in range(5) if i == j or shown[i] != shown[j]]
        own = query[i] @ key[i] / 0.1
        expected = expected + float(weight[i]) * (torch.logsumexp(torch.stack(scores), 0) - own)
    weight.requires_grad_()

    def loss(query_BD: torch.Tensor, key_ND: torch.Tensor) -> torch.Tensor:
        return info_nce(
            query_BD,
            key_ND,
            temperature=0.1,
            query_id_B=shown,
            key_id_N=shown,
            query_weight_B=weight,
            logits_at_once=logits_at_once,
        )

    torch.testing.assert_close(loss(query, key), expected)
    assert torch.autograd.gradcheck(loss, (query, key))
    ours, theirs = (torch.autograd.grad(total, [query, key]) for total in (loss(query, key), expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    loss(query, key).backward()
    assert weight.grad is None  # else the loss would be lowered by believing no pair


@pytest.mark.parametrize("logits_at_once", [2**22, 10])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(logits_at_once: int) -> None:
    counts, shown = torch.tensor([True, False, True, True, False]), torch.tensor([4, 1, 4, 3, 2])
    gradients = []
    for left_out in (False, True):
        query, key = _rows(0).requires_grad_(), _rows(1).requires_grad_()
        if left_out:
            loss = info_nce(
                query[counts], key[counts], temperature=0.05, query_id_B=shown[counts], key_id_N=shown[counts]
            )
        else:
            loss = info_nce(
                query,
                key,
                temperature=0.05,
                query_id_B=shown,
                key_id_N=shown,
                is_query_B=counts,
                is_key_N=counts,
                logits_at_once=logits_at_once,
            )
        loss.backward()
        gradients.append((loss.detach(), query.grad, key.grad))
    assert gradients[0][1][counts].abs().max() > 1e-3
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


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


def _gradients(query, others, loss) -> list[torch.Tensor]:
    leaves = [query.clone().requires_grad_(), *(rows.clone().requires_grad_() for rows in others)]
    value = loss(*leaves)
    # Not one, so that a backward pass that forgets what comes from above is seen.
    return [value.detach(), *torch.autograd.grad(value * 0.3, leaves)]


@pytest.mark.parametrize("at_once", [1, 12, 26, 80])
@pytest.mark.parametrize("kind", ["keys", "ids", "hard negatives"])
def test_blocks_of_queries_give_the_loss_and_gradient_of_all_at_once(kind: str, at_once: int) -> None:
    """Five queries, nine keys: blocks of one, of two that do not divide five, and all but the last key's worth."""
    query, others = _rows(0), [_rows(1, 9)]
    key_id_N = torch.tensor([7, 7, 1, 3, 2, 3, 1, 5, 6])
    if kind == "hard negatives":
        others.append(_rows(2, 9))

    def loss(query, key, *negative, logits_at_once=10**9):
        if negative:
            return info_nce_with_hard_negatives(
                query,
                key,
                *negative,
                temperature=0.07,
                offset=2,
                hard_negative_weight=0.7,
                logits_at_once=logits_at_once,
            )
        ids = {"query_id_B": key_id_N[2:7], "key_id_N": key_id_N} if kind == "ids" else {}
        return info_nce(query, key, temperature=0.07, offset=2, logits_at_once=logits_at_once, **ids)

    whole = _gradients(query, others, loss)
    blocks = _gradients(query, others, lambda *rows: loss(*rows, logits_at_once=at_once))
    assert all(part.abs().max() > 1e-3 for part in whole)
    for ours, expected in zip(blocks, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_more_logits_than_fit_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is obeyed by default: no product of queries and keys is larger."""
    largest = []
    plain = contrastive._Rule.loss

    def watched(self, start, query_bD, candidate_MD):
        largest.append(len(query_bD) * len(candidate_MD))
        return plain(self, start, query_bD, candidate_MD)

    monkeypatch.setattr(contrastive._Rule, "loss", watched)
    rows = unit_rows(torch.randn(3000, 2))
    loss = info_nce(rows, rows, temperature=0.05)
    assert len(largest) == 3
    assert max(largest) <= contrastive.LOGITS_AT_ONCE
    expected = torch.nn.functional.cross_entropy(rows @ rows.T / 0.05, torch.arange(3000), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("at_once", [10**9, 8], ids=["whole", "blocks"])
def test_bf16_rows_are_compared_in_float32(at_once: int) -> None:
    """Whether or not they went through ``unit_rows``, which makes float32 of them."""
    rows, keys = (torch.nn.functional.normalize(torch.randn(4, 8)).bfloat16() for _ in range(2))
    assert unit_rows(rows).dtype == torch.float32
    expected = info_nce(rows.double(), keys.double(), temperature=0.05).item()
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            query = rows.clone().requires_grad_()
            loss = info_nce(query, keys, temperature=0.05, logits_at_once=at_once)
            harder = info_nce_with_hard_negatives(rows, keys, keys, temperature=0.05, logits_at_once=at_once)
        assert loss.dtype == harder.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, query)
        assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize("side", ["query", "key"])
def test_a_row_of_zeros_has_no_gradient_and_leaves_the_others_theirs(side: str) -> None:
    """``F.normalize`` has a derivative of 1e12 there. A row without direction has a cosine of 0 with everything."""
    rows, others = torch.randn(4, 6), torch.randn(4, 6)
    rows[2] = 0
    rows.requires_grad_()
    pair = (unit_rows(rows), unit_rows(others))
    loss = info_nce(*(pair if side == "query" else reversed(pair)), temperature=0.05)
    loss.backward()
    assert unit_rows(rows)[2].tolist() == [0.0] * 6
    assert rows.grad is not None
    assert rows.grad[2].tolist() == [0.0] * 6
    kept = rows.detach().clone().requires_grad_()
    plain = kept / kept.norm(dim=1, keepdim=True).clamp(min=1e-12)
    pair = (plain, unit_rows(others))
    info_nce(*(pair if side == "query" else reversed(pair)), temperature=0.05).backward()
    assert kept.grad is not None
    for row in (0, 1, 3):
        torch.testing.assert_close(rows.grad[row], kept.grad[row])
    assert kept.grad[2].norm() > 1e10 * rows.grad.norm(), "what it is without"


def test_bad_input_is_refused_by_value() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        info_nce(_rows(0), _rows(1), temperature=0)
    with pytest.raises(ValueError, match="positives end at row 7"):
        info_nce(_rows(0), _rows(1), temperature=1, offset=2)
    with pytest.raises(ValueError, match="together or not at all"):
        info_nce(_rows(0), _rows(1), temperature=1, query_id_B=torch.arange(5))
    with pytest.raises(ValueError, match="5 positives but 4 hard negatives"):
        info_nce_with_hard_negatives(_rows(0), _rows(1), _rows(2, 4), temperature=1)
