"""Angular margins, a teacher's filter and positives of other rows, each against its definition in loops."""

import math

import pytest
import torch

from mcse.losses.contrastive import Margin, TeacherFilter, TeacherRows, count_left_out, info_nce, unit_rows

B, N, OFFSET, TAU = 3, 7, 2, 0.05


@pytest.fixture
def rows():
    torch.manual_seed(0)
    query, key, teacher = torch.randn(B, 4), torch.randn(N, 4), torch.randn(N, 5)
    return unit_rows(query.double()), unit_rows(key.double()), unit_rows(teacher.double())


def _teacher(rows) -> TeacherRows:
    return TeacherRows(query_BF=rows[OFFSET : OFFSET + B], key_NF=rows)


def _in_loops(query, key, logit_of, *, left_out=lambda i, j: False) -> float:
    """Cross-entropy from the angle of each pair, by arccos."""
    total = 0.0
    for i in range(B):
        angles = [math.acos(max(-1.0, min(1.0, float(query[i] @ key[j])))) for j in range(len(key))]
        own = i + OFFSET
        logits = {j: logit_of(i, j, angles[j]) for j in range(len(key)) if j == own or not left_out(i, j)}
        total += math.log(sum(map(math.exp, logits.values()))) - logits[own]
    return total


@pytest.mark.parametrize("positive", [0.0, 0.17])
@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("negative", [0.0, 0.15, 0.6])
def test_margins_equal_their_definition_by_arccos(rows, negative, with_teacher, positive) -> None:
    query, key, teacher = rows

    def logit(i, j, angle):
        if j == i + OFFSET:
            return math.cos(angle + positive) / TAU
        alpha = float(teacher[i + OFFSET] @ teacher[j]) if with_teacher else 0.0
        return math.cos(angle - (1 - alpha) * negative if angle > negative else angle) / TAU

    margin = Margin(negative=negative, positive=positive, teacher=_teacher(teacher) if with_teacher else None)
    ours = info_nce(query, key, temperature=TAU, offset=OFFSET, margin=margin)
    assert ours.item() == pytest.approx(_in_loops(query, key, logit), rel=1e-10)


def test_a_negative_nearer_than_the_margin_stays_where_it_is() -> None:
    """The whole margin decides, not the part of it that a teacher leaves."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    near = torch.tensor([math.cos(0.14), math.sin(0.14)], dtype=torch.float64)
    key = torch.stack([query[0], near])
    for alpha in (0.0, 0.5):
        teacher = torch.tensor([[1.0, 0.0], [alpha, math.sqrt(1 - alpha**2)]], dtype=torch.float64)
        margin = Margin(negative=0.15, teacher=TeacherRows(query_BF=teacher[:1], key_NF=teacher))
        plain = info_nce(query, key, temperature=TAU)
        torch.testing.assert_close(info_nce(query, key, temperature=TAU, margin=margin), plain)


def test_a_dissimilar_negative_is_made_harder_by_the_published_size() -> None:
    """A cosine of 0.2 under a margin of 0.15 and temperature 0.05."""
    for alpha, added in ((0.0, 2.88), (0.5, 1.46), (0.8, 0.59), (0.95, 0.15)):
        teacher = torch.tensor([[1.0, 0.0], [alpha, math.sqrt(1 - alpha**2)]], dtype=torch.float64)
        margin = Margin(negative=0.15, teacher=TeacherRows(query_BF=teacher[:1], key_NF=teacher))
        cosine = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
        moved = margin.moved(cosine, torch.tensor([[True, False]]), start=0)
        assert (float(moved[0, 1]) - 0.2) / TAU == pytest.approx(added, abs=0.005)


@pytest.mark.parametrize(
    "given",
    [
        {"margin": (0.4, 0.2, True)},
        {"margin": (0.15, 0.0, False), "negatives": True},
        {"filter": {"threshold": 0.3}},
        {"filter": {"margin": 0.5}, "negatives": True},
        {"filter": {"margin": 0.4}, "positive": True},
    ],
)
def test_gradients_are_finite_differences_and_blocks_change_nothing(rows, given) -> None:
    query, key, teacher = (part.clone() for part in rows)
    more = unit_rows(torch.randn(3, 4).double()) if given.get("negatives") else None
    positive = torch.rand(B).double() if given.get("positive") else torch.zeros(B).double()
    margin = filtering = None
    if "margin" in given:
        negative, at_positive, taught = given["margin"]
        margin = Margin(negative=negative, positive=at_positive, teacher=_teacher(teacher) if taught else None)
    if "filter" in given:
        filtering = TeacherFilter(teacher=_teacher(teacher), **given["filter"])

    def loss(query, key, positive, logits_at_once=10**9):
        return info_nce(
            query,
            key,
            temperature=0.2,
            offset=OFFSET,
            positive_B=positive if given.get("positive") else None,
            negative_QD=more,
            margin=margin,
            filtering=filtering,
            logits_at_once=logits_at_once,
        )

    tensors = [tensor.requires_grad_() for tensor in (query, key, positive)]
    assert torch.autograd.gradcheck(loss, tensors)
    whole = torch.autograd.grad(loss(*tensors), tensors, allow_unused=True)
    parts = torch.autograd.grad(loss(*tensors, logits_at_once=N), tensors, allow_unused=True)
    assert loss(*tensors).item() == pytest.approx(loss(*tensors, logits_at_once=N).item(), abs=1e-12)
    for one, other in zip(whole, parts, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [{"threshold": 0.2}, {"margin": 0.6}])
def test_the_filter_leaves_out_what_a_teacher_holds_to_be_near(rows, rule) -> None:
    query, key, teacher = rows
    # Another view, so that a query and its own positive have a cosine below 1.
    other = unit_rows(teacher + 0.5 * torch.randn(N, 5).double())
    given = TeacherRows(query_BF=other[OFFSET : OFFSET + B], key_NF=teacher)

    def left_out(i, j):
        cosine, own = float(other[i + OFFSET] @ teacher[j]), float(other[i + OFFSET] @ teacher[i + OFFSET])
        if "threshold" in rule:
            return cosine > rule["threshold"]
        return cosine > own - rule["margin"]

    filtering = TeacherFilter(teacher=given, **rule)
    ours = info_nce(query, key, temperature=TAU, offset=OFFSET, filtering=filtering)
    expected = _in_loops(query, key, lambda i, j, angle: math.cos(angle) / TAU, left_out=left_out)
    assert ours.item() == pytest.approx(expected, rel=1e-10)
    counted = sum(left_out(i, j) for i in range(B) for j in range(N) if j != i + OFFSET)
    assert 0 < counted < B * (N - 1)
    for at_once in (10**9, N):
        assert int(count_left_out(filtering, offset=OFFSET, logits_at_once=at_once)) == counted


def test_a_filter_may_leave_out_nothing_or_all_but_the_positive(rows) -> None:
    query, key, teacher = rows
    for threshold, share in ((1.1, 0.0), (-1.1, 1.0)):
        filtering = TeacherFilter(teacher=_teacher(teacher), threshold=threshold)
        assert float(count_left_out(filtering, offset=OFFSET)) / (B * (N - 1)) == share
        loss = info_nce(query, key, temperature=TAU, offset=OFFSET, filtering=filtering)
        plain = info_nce(query, key, temperature=TAU, offset=OFFSET)
        assert loss.item() == (0.0 if share else pytest.approx(plain.item()))


def test_positives_of_other_rows_stand_for_the_diagonal(rows) -> None:
    query, key, _ = rows
    positive = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)

    def logit(i, j, angle):
        return float(positive[i]) / TAU if j == i + OFFSET else math.cos(angle) / TAU

    ours = info_nce(query, key, temperature=TAU, offset=OFFSET, positive_B=positive)
    assert ours.item() == pytest.approx(_in_loops(query, key, logit), rel=1e-10)


def test_a_margin_beyond_a_right_angle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin\.negative: must be between 0 and π/2"):
        Margin(negative=1.6)
