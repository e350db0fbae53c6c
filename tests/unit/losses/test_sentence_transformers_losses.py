"""What docs/how-to/from-sentence-transformers.md says of losses: the library's own values and gradients."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mcse.recipes.tables.config import LossConfig
from mcse.recipes.tables.method import terms_of
from mcse.types import TableBatch, TokenBatch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the path, which the oldest version that we take has
    losses = pytest.importorskip("sentence_transformers.losses")

TEXTS = torch.arange(1, 25).reshape(6, 4)
WIDTHS = (8, 5, 2)


def leaves(views):
    """(6, V, 8) rows, and the same text by text, each with a gradient of its own."""
    rows = torch.randn(6, views, 8, generator=torch.Generator().manual_seed(views), dtype=torch.float64)
    return rows.requires_grad_(), [rows.detach()[:, view].clone().requires_grad_() for view in range(views)]


def batch_of(texts, value=None):
    tokens = TokenBatch.padded([np.array([1])] * texts.numel(), pad_id=0)
    return TableBatch(text_id_BV=texts, tokens=tokens, table=0, value_B=value)


def check_equal(term, ours, their_loss, theirs):
    own = term.sum / term.count
    own.backward()
    their_loss.backward()
    torch.testing.assert_close(own, their_loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, torch.stack([row.grad for row in theirs], dim=1), rtol=1e-7, atol=1e-12)
    assert ours.grad.abs().max() > 1e-3


@pytest.mark.parametrize("views", [2, 3, 4])
def test_contrast(views):
    ours, theirs = leaves(views)
    found = terms_of("contrast", ours, batch_of(TEXTS[:, :views]), LossConfig(), widths=(8,))["contrast"]
    check_equal(
        found, ours, losses.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(theirs, None), theirs
    )


def test_contrast_that_keeps_equal_texts():
    texts = TEXTS[:, :2].clone()
    texts[3, 1] = texts[0, 1]
    ours, theirs = leaves(2)
    found = terms_of("contrast", ours, batch_of(texts), LossConfig(false_negatives="keep"), widths=(8,))["contrast"]
    check_equal(
        found, ours, losses.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(theirs, None), theirs
    )


def test_both_directions():
    ours, theirs = leaves(2)
    config = LossConfig(directions="both")
    found = terms_of("contrast", ours, batch_of(TEXTS[:, :2]), config, widths=(8,))["contrast"]
    loss = losses.MultipleNegativesSymmetricRankingLoss(None)
    check_equal(found, ours, loss.compute_loss_from_embeddings(theirs, None), theirs)


def test_matryoshka():
    """``MatryoshkaLoss`` adds the inner loss of embeddings cut to each width, with weights of 1."""
    ours, theirs = leaves(2)
    found = terms_of("contrast", ours, batch_of(TEXTS[:, :2]), LossConfig(), widths=WIDTHS)["contrast"]
    inner = losses.MultipleNegativesRankingLoss(None)
    parts = [
        inner.compute_loss_from_embeddings([F.normalize(row[:, :width], dim=1) for row in theirs], None)
        for width in WIDTHS
    ]
    check_equal(found, ours, torch.stack(parts).sum(), theirs)


@pytest.mark.parametrize(
    ("loss", "name"), [("cosine", "CosineSimilarityLoss"), ("cosent", "CoSENTLoss"), ("angle", "AnglELoss")]
)
def test_scores(loss, name):
    score = torch.tensor([0.125, 0.875, 0.375, 0.375, 1.0, 0.0], dtype=torch.float64)
    ours, theirs = leaves(2)
    found = terms_of(loss, ours, batch_of(TEXTS[:, :2], score), LossConfig(), widths=(8,))[loss]
    check_equal(found, ours, getattr(losses, name)(None).compute_loss_from_embeddings(theirs, score), theirs)
