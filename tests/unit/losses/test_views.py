"""Contrast of views against its definitions in plain loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mcse.losses.contrastive import info_nce
from mcse.losses.views import published_contrast, rank_of_class, supervised_contrast

LABELS = (7, 2, 7, 40, 2, 7, 11, 2)


def unit(rows, width=6, *, seed=0):
    return F.normalize(
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def khosla(views, labels, temperature):
    """Equation 2 of Khosla et al. 2020, view by view."""
    total = 0.0
    for i in range(len(views)):
        others = [a for a in range(len(views)) if a != i]
        partners = [p for p in others if labels[p] == labels[i]]
        below = sum(math.exp(float(views[i] @ views[a]) / temperature) for a in others)
        for p in partners:
            total -= math.log(math.exp(float(views[i] @ views[p]) / temperature) / below) / len(partners)
    return total


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supervised_contrast_is_equation_2(temperature):
    views, labels = unit(2 * len(LABELS)), torch.tensor(LABELS * 2)
    found = supervised_contrast(views, labels, views, labels, temperature=temperature)
    assert float(found) == pytest.approx(khosla(views, labels.tolist(), temperature), rel=1e-12)


def test_labels_of_their_own_give_simclr():
    """NT-Xent of Chen et al. 2020, equation 1: view i's partner is i + B, all 2B - 1 others are below."""
    size, temperature = 5, 0.2
    views = unit(2 * size)
    total = 0.0
    for i in range(2 * size):
        partner = (i + size) % (2 * size)
        below = sum(math.exp(float(views[i] @ views[k]) / temperature) for k in range(2 * size) if k != i)
        total -= float(views[i] @ views[partner]) / temperature - math.log(below)
    labels = torch.arange(size).repeat(2)
    assert float(supervised_contrast(views, labels, views, labels, temperature=temperature)) == pytest.approx(total)


def test_shares_of_processes_add_up():
    views, labels = unit(16), torch.tensor(LABELS * 2)
    whole = supervised_contrast(views, labels, views, labels, temperature=0.1)
    parts = [
        supervised_contrast(views[s : s + 4], labels[s : s + 4], views, labels, temperature=0.1, offset=s)
        for s in range(0, 16, 4)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)


def test_a_view_without_a_partner_counts_nothing():
    views = unit(3).requires_grad_()
    labels = torch.tensor([0, 0, 1])
    loss = supervised_contrast(views, labels, views, labels, temperature=0.1)
    assert float(loss) == pytest.approx(khosla(views.detach(), [0, 0, 1], 0.1))
    loss.backward()
    assert torch.isfinite(views.grad).all()


def released(first, second, labels, temperature):
    """VisualCSE's contrast as its code goes: cosines, and the index of an image's class among the unique ones."""
    unique = sorted(set(labels))
    total = 0.0
    for i in range(len(first)):
        cosines = [float(F.cosine_similarity(first[i], other, dim=0)) / temperature for other in second]
        target = unique.index(labels[i])
        total += math.log(sum(math.exp(cosine) for cosine in cosines)) - cosines[target]
    return total


def test_the_published_contrast_is_the_published_one():
    first, second, labels = unit(8), unit(8, seed=1), torch.tensor(LABELS)
    found = published_contrast(first, second, labels, labels, temperature=0.07)
    assert float(found) == pytest.approx(released(first, second, LABELS, 0.07), rel=1e-12)
    assert rank_of_class(labels, labels).tolist() == [1, 0, 1, 3, 0, 1, 2, 0]
    parts = [
        published_contrast(first[s : s + 2], second, labels[s : s + 2], labels, temperature=0.07)
        for s in range(0, 8, 2)
    ]
    assert float(sum(parts)) == pytest.approx(float(found), rel=1e-12)


def test_the_published_contrast_is_right_only_where_ranks_are_places():
    first, second = unit(4), unit(4, seed=1)
    in_order = torch.tensor([3, 5, 8, 9])
    right = float(info_nce(first, second, temperature=0.07))
    assert float(published_contrast(first, second, in_order, in_order, temperature=0.07)) == pytest.approx(right)
    another = torch.tensor([5, 3, 8, 9])
    assert float(published_contrast(first, second, another, another, temperature=0.07)) != pytest.approx(right)


def test_gradients_by_finite_differences():
    labels = torch.tensor(LABELS[:4] * 2)

    def supervised(rows):
        views = F.normalize(rows, dim=1)
        return supervised_contrast(views, labels, views, labels, temperature=0.3)

    def published(rows):
        first, second = F.normalize(rows, dim=1).chunk(2)
        return published_contrast(first, second, labels[:4], labels[:4], temperature=0.3)

    rows = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(supervised, rows)
    assert torch.autograd.gradcheck(published, rows)


@pytest.mark.parametrize("loss", [supervised_contrast, published_contrast])
def test_temperatures_are_positive(loss):
    rows, labels = unit(2), torch.tensor([0, 1])
    given = (rows, labels, rows, labels) if loss is supervised_contrast else (rows, rows, labels, labels)
    with pytest.raises(ValueError, match="temperature"):
        loss(*given, temperature=0.0)


def test_half_precision_is_summed_in_float32():
    views, labels = unit(16).bfloat16(), torch.tensor(LABELS * 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = supervised_contrast(views, labels, views, labels, temperature=0.07)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(khosla(views.double(), labels.tolist(), 0.07), rel=1e-5)
