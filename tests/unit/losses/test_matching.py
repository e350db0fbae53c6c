"""The cosine embedding loss is PyTorch's, of pairs and wrong pairs in one sum."""

import torch
import torch.nn.functional as F

from mcse.losses.contrastive import unit_rows
from mcse.losses.matching import cosine_embedding
from mcse.losses.pair_matching import matching_loss


def test_it_is_pytorchs_loss_of_both_kinds_of_pairs() -> None:
    torch.manual_seed(0)
    left, right, wrong = (torch.randn(6, 4).double().requires_grad_() for _ in range(3))
    counts = torch.tensor([True, True, False, True, True, False])
    ours = cosine_embedding(*map(unit_rows, (left, right, wrong)), counts, margin=0.2)
    expected = F.cosine_embedding_loss(left, right, torch.ones(6), reduction="sum")
    expected = expected + F.cosine_embedding_loss(left[counts], wrong[counts], -torch.ones(4), 0.2, reduction="sum")
    torch.testing.assert_close(ours, expected)
    mine, theirs = (torch.autograd.grad(loss, [left, right, wrong]) for loss in (ours, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_pairs_that_are_not_judged_are_as_if_they_were_not_there() -> None:
    torch.manual_seed(0)
    logit, label = torch.randn(6).double().requires_grad_(), torch.tensor([1, 0, 1, 0, 0, 1])
    judged = torch.tensor([True, True, False, True, False, True])
    ours = matching_loss(logit, label, is_judged_M=judged)
    expected = F.binary_cross_entropy(logit.sigmoid()[judged], label[judged].double(), reduction="sum")
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, logit), torch.autograd.grad(expected, logit))
