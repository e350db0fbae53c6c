"""List losses, divergences and contrast of dimensions, each against its definition in loops of Python floats."""

import math

import pytest
import torch

from mcse.losses.contrastive import TeacherRows, info_nce, unit_rows
from mcse.losses.dimensions import dimension_contrast
from mcse.losses.distillation import consistency, list_mle, list_net, similarity_kl

B, N, OFFSET, TAU = 3, 6, 2, 0.1


@pytest.fixture
def rows():
    torch.manual_seed(1)
    return tuple(unit_rows(torch.randn(N, width).double()) for width in (4, 4, 5))


def _own(rows):
    return rows[OFFSET : OFFSET + B]


def _taught(teacher) -> TeacherRows:
    return TeacherRows(query_BF=_own(teacher), key_NF=teacher)


def _softmax(values):
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_list_net_equals_its_definition(rows) -> None:
    left, right, teacher = rows
    expected = 0.0
    for i in range(OFFSET, OFFSET + B):
        others = [j for j in range(N) if j != i]
        wanted = _softmax([float(teacher[i] @ teacher[j]) / 0.05 for j in others])
        given = _softmax([float(left[i] @ right[j]) / TAU for j in others])
        expected -= sum(q * math.log(p) for q, p in zip(wanted, given, strict=True))
    ours = list_net(_own(left), right, _taught(teacher), temperature=TAU, teacher_temperature=0.05, offset=OFFSET)
    assert ours.item() == pytest.approx(expected, rel=1e-10)


def test_list_mle_equals_its_definition(rows) -> None:
    """The naive form, which overflows at small temperatures: a product of one softmax after another."""
    left, right, teacher = rows
    expected = 0.0
    for i in range(OFFSET, OFFSET + B):
        order = sorted(range(N), key=lambda j: -float(teacher[i] @ teacher[j]))
        exps = [math.exp(float(left[i] @ right[j]) / TAU) for j in order]
        expected -= sum(math.log(exps[k] / sum(exps[k:])) for k in range(N))
    ours = list_mle(_own(left), right, _taught(teacher), temperature=TAU)
    assert ours.item() == pytest.approx(expected, rel=1e-10)


def test_list_mle_of_equal_logits_is_log_n_factorial_and_survives_small_temperatures() -> None:
    same = torch.ones(1, 1, dtype=torch.float64)
    taught = TeacherRows(query_BF=torch.randn(1, 3).double(), key_NF=torch.randn(128, 3).double())
    ours = list_mle(same, same.expand(128, 1), taught, temperature=TAU)
    assert ours.item() == pytest.approx(math.lgamma(129), rel=1e-12)
    left, right = unit_rows(torch.randn(4, 3)), unit_rows(torch.randn(9, 3))
    taught = TeacherRows(query_BF=torch.randn(4, 3), key_NF=torch.randn(9, 3))
    assert math.isfinite(list_mle(left, right, taught, temperature=1e-3).item())


def test_list_mle_begins_with_info_nce(rows) -> None:
    """The own key is the teacher's first, so that the first part of the sum is that of the contrast."""
    left, right, teacher = rows
    whole = list_mle(_own(left), right, _taught(teacher), temperature=TAU)
    rest = 0.0
    for i in range(OFFSET, OFFSET + B):
        order = sorted(range(N), key=lambda j: -float(teacher[i] @ teacher[j]))
        assert order[0] == i
        logits = [float(left[i] @ right[j]) / TAU for j in order[1:]]
        rest += sum(math.log(sum(map(math.exp, logits[k:]))) - logits[k] for k in range(N - 1))
    contrast = info_nce(_own(left), right, temperature=TAU, offset=OFFSET)
    assert whole.item() == pytest.approx(contrast.item() + rest, rel=1e-10)


def test_similarity_kl_equals_its_definition_and_is_zero_for_the_teacher_itself(rows) -> None:
    left, right, teacher = rows
    expected = 0.0
    for i in range(OFFSET, OFFSET + B):
        wanted = _softmax([float(teacher[i] @ teacher[j]) / 0.3 for j in range(N)])
        given = _softmax([float(left[i] @ right[j]) / TAU for j in range(N)])
        expected += sum(q * math.log(q / p) for q, p in zip(wanted, given, strict=True))
    ours = similarity_kl(_own(left), right, _taught(teacher), temperature=TAU, teacher_temperature=0.3)
    assert ours.item() == pytest.approx(expected, rel=1e-10)
    itself = similarity_kl(_own(teacher), teacher, _taught(teacher), temperature=TAU, teacher_temperature=TAU)
    assert itself.item() == pytest.approx(0, abs=1e-12)


def test_consistency_equals_its_definition(rows) -> None:
    left, right, _ = rows
    expected = 0.0
    for i in range(OFFSET, OFFSET + B):
        p = _softmax([float(left[i] @ right[j]) / TAU for j in range(N)])
        q = _softmax([float(right[i] @ left[j]) / TAU for j in range(N)])
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        expected += sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
    assert consistency(_own(left), _own(right), left, right, temperature=TAU).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1e-3, 0.05, 10.0])
def test_consistency_is_a_divergence(temperature) -> None:
    """0 where the views are equal, and between 0 and log 2 a row; minus an entropy would be negative."""
    left, right = unit_rows(torch.randn(16, 8)), unit_rows(torch.randn(16, 8))
    assert consistency(left, left, left, left, temperature=temperature).item() == pytest.approx(0, abs=1e-5)
    apart = consistency(left, right, left, right, temperature=temperature).item() / 16
    assert 0 < apart <= math.log(2) + 1e-6


def _losses(teacher):
    taught = _taught(teacher)

    def of(loss, **options):
        return lambda left, right, at_once: loss(_own(left), right, taught, **options, logits_at_once=at_once)

    return {
        "list_net": of(list_net, temperature=TAU, teacher_temperature=0.05, offset=OFFSET),
        "list_mle": of(list_mle, temperature=TAU),
        "similarity_kl": of(similarity_kl, temperature=TAU, teacher_temperature=0.3),
        "consistency": lambda left, right, at_once: consistency(
            _own(left), _own(right), left, right, temperature=TAU, logits_at_once=at_once
        ),
    }


@pytest.mark.parametrize("name", ["list_net", "list_mle", "similarity_kl", "consistency"])
def test_gradients_are_finite_differences_and_blocks_change_nothing(rows, name) -> None:
    left, right = (part.clone().requires_grad_() for part in rows[:2])
    loss = _losses(rows[2])[name]
    assert torch.autograd.gradcheck(lambda left, right: loss(left, right, 10**9), (left, right))
    whole = torch.autograd.grad(loss(left, right, 10**9), (left, right))
    parts = torch.autograd.grad(loss(left, right, N), (left, right))
    assert loss(left, right, N).item() == pytest.approx(loss(left, right, 10**9).item(), abs=1e-12)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_dimension_contrast_equals_batch_norm_and_loops() -> None:
    torch.manual_seed(2)
    left, right = torch.randn(8, 5).double(), torch.randn(8, 5).double()
    norm = torch.nn.BatchNorm1d(5, affine=False).double()
    view, other = norm(left), norm(right)
    expected = 0.0
    for d in range(5):
        logits = [sum(float(view[n, d] * other[n, e]) for n in range(8)) / 8 / 5.0 for e in range(5)]
        expected += (math.log(sum(map(math.exp, logits))) - logits[d]) / 5
    assert dimension_contrast(left, right, temperature=5.0).item() == pytest.approx(expected, rel=1e-10)
    order = torch.randperm(5)
    permuted = dimension_contrast(left[:, order], right[:, order], temperature=5.0)
    assert permuted.item() == pytest.approx(expected, rel=1e-10)
    inputs = (left.requires_grad_(), right.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: dimension_contrast(a, b, temperature=5.0), inputs)
