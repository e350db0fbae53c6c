"""Losses of scored pairs against their definitions in loops, and against sentence-transformers' own."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcse.losses.ordinal import angle_similarity, bounded_margin, cosent, cosine_regression

WIDTHS = (6, 7)


def rows(number, width, *, seed):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosent_is_its_definition_in_loops():
    similarity, score = [0.9, 0.2, -0.4, 0.2, 0.7], [5.0, 1.0, 3.0, 3.0, 1.0]
    wrong = [math.exp(20 * (similarity[p] - similarity[q])) for p in range(5) for q in range(5) if score[p] < score[q]]
    found = cosent(torch.tensor(similarity, dtype=torch.float64), torch.tensor(score))
    assert len(wrong) == 8
    assert float(found) == pytest.approx(math.log(1 + sum(wrong)), rel=1e-12)


def test_cosent_of_equal_scores_is_zero_with_a_gradient_of_zero():
    similarity = torch.tensor([0.3, 0.1], requires_grad=True)
    loss = cosent(similarity, torch.ones(2))
    loss.backward()
    assert float(loss) == 0
    assert similarity.grad.tolist() == [0, 0]


def test_cosent_stays_finite_where_exponentials_do_not():
    assert float(cosent(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0]), scale=1e4)) == pytest.approx(2e4)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_angle_is_its_definition_over_complex_numbers(width):
    left, right = rows(4, width, seed=0), rows(4, width, seed=1)
    for row, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        a, b = (side + [0.0] * (width % 2) for side in (a, b))
        half = len(a) // 2
        z, w = ([complex(side[i], side[half + i]) for i in range(half)] for side in (a, b))
        squared = sum(abs(one) ** 2 for one in w)
        ratio = math.sqrt(sum(abs(one) ** 2 for one in z)) / math.sqrt(squared)
        quotients = [one * other.conjugate() / squared / ratio for one, other in zip(z, w, strict=True)]
        expected = abs(sum(one.real + one.imag for one in quotients))
        assert float(angle_similarity(left, right)[row]) == pytest.approx(expected, rel=1e-12)


def test_the_angle_of_a_complex_row_of_one_number_is_its_angle():
    for angle in (0.1, 0.8, 2.0):
        z = cmath.rect(3.0, angle)
        left, right = torch.tensor([[z.real, z.imag]]), torch.tensor([[2.0, 0.0]])
        assert float(angle_similarity(left, right)) == pytest.approx(abs(math.cos(angle) + math.sin(angle)), abs=1e-6)


@pytest.mark.parametrize("name", ["CoSENTLoss", "AnglELoss"])
@pytest.mark.parametrize("width", WIDTHS)
def test_sentence_transformers_has_the_same_value_and_gradient(name, width):
    losses = pytest.importorskip("sentence_transformers.losses")
    score = torch.tensor([0.1, 0.9, 0.4, 0.4, 1.0], dtype=torch.float64)
    ours = [rows(5, width, seed=seed).requires_grad_() for seed in (2, 3)]
    theirs = [row.detach().clone().requires_grad_() for row in ours]
    measure = F.cosine_similarity if name == "CoSENTLoss" else angle_similarity
    cosent(measure(*ours), score).backward()
    loss = getattr(losses, name)(model=None)
    loss.compute_loss_from_embeddings(theirs, score).backward()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)
        assert own.grad.abs().max() > 1e-3


def test_regression_is_the_squared_distance():
    cosine, target = [0.5, -0.1, 1.0], [1.0, 0.0, 1.0]
    expected = sum((c - t) ** 2 for c, t in zip(cosine, target, strict=True))
    assert float(cosine_regression(torch.tensor(cosine), torch.tensor(target))) == pytest.approx(expected)


def test_the_margin_is_its_definition_in_loops():
    positive, negative = [0.9, 0.9, 0.9, 0.9], [0.95, 0.7, 0.85, 0.2]
    expected = sum(max(0, n - p + 0.1) + max(0, -(n - p) - 0.3) for p, n in zip(positive, negative, strict=True))
    found = bounded_margin(torch.tensor(positive), torch.tensor(negative), lower=0.1, upper=0.3)
    assert float(found) == pytest.approx(expected)
    assert float(bounded_margin(torch.ones(1), torch.tensor([0.8]), lower=0.1, upper=0.3)) == 0


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="scale must be positive"):
        cosent(torch.ones(2), torch.ones(2), scale=0)
    with pytest.raises(ValueError, match="3 similarities but 2 scores"):
        cosent(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="lower must be below upper"):
        bounded_margin(torch.ones(1), torch.ones(1), lower=0.3, upper=0.1)
    assert np.isfinite(float(angle_similarity(torch.zeros(1, 4), torch.ones(1, 4))))
