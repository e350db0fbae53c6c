"""The cosine embedding loss is PyTorch's, of pairs and wrong pairs in one sum."""

import torch
import torch.nn.functional as F

from mcse.losses.contrastive import unit_rows
from mcse.losses.matching import cosine_embedding


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
