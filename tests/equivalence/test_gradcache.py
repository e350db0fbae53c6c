"""Cached contrastive steps: rows chunk by chunk and again, with the loss and gradient of the plain step."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace

import pytest
import torch

from mcse.training.gradcache import CachedForward, _join
from mcse.training.loop import total_loss
from mcse.types import MaskedTokens, PairBatch, SentenceBatch, TokenBatch
from mcse.types.batches import split_batch
from tests.equivalence.test_steps import CPU, build
from tests.fixtures.launch import assert_same_run, entries, one_thread, own_cache, run
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import build_tiny_run

STORED = [{"name": "bert", "store": "rows"}]
CASES = {
    "simcse": ("simcse", {}, 0),
    "supervised": ("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.5}, 1),
    "mlm": ("simcse", {"loss.mlm_weight": 0.1, "encoder.length_chunks": 2}, 0),
    "pairs": ("mcse", {"loss.mlm_weight": 0.1, "data.captions.per_image": "all"}, 0),
    "terms": (
        "simcse",
        {"loss.off_dropout": {"positive_weight": 0.9}, "loss.dimension_contrast": {}, "loss.consistency": {}},
        0,
    ),
    "rankcse": ("rankcse", {}, 0),
    "kdmcse": ("kdmcse", {"data.captions.per_image": "all", "teachers": STORED}, 0),
    "dalr": ("dalr", {"data.captions.per_image": "all"}, 0),
    "text alone": ("mcse", {"loss.mlm_weight": 0.1}, 1),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return with_rows(build_tiny_run(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def still(tmp_path_factory, equal_views):
    return with_rows(build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0))


def with_rows(folder):
    store_rows(folder)
    return folder


def prepared(folder, case, *, dtype=torch.float64):
    recipe, keys, step = CASES[case]
    built = build(folder, recipe, keys | {"train.batch_size": 8})
    built.model.to(dtype)
    built.model.train()
    batch = built.stream.batch(step)
    if isinstance(batch, PairBatch):
        batch = replace(batch, image_BF=batch.image_BF.to(dtype))
    return built, batch


def plain_in_chunks(model, chunk_size):
    """The same chunks with their graphs, all held at once: what the cache must equal, dropout included."""

    def forward(batch):
        parts = [model(chunk) for chunk in split_batch(batch, chunk_size)]
        return _join(parts, lambda tensors: torch.cat(list(tensors)))

    return forward


def measured(built, forward, batch, *, autocast=contextlib.nullcontext):
    """Loss, gradients, and a draw afterwards, from a fixed random state."""
    built.model.zero_grad()
    torch.manual_seed(3)
    with autocast():
        terms = built.step(forward, batch)
    loss = total_loss(terms, device=CPU)
    loss.backward()
    if isinstance(forward, CachedForward):
        forward.backward(syncs=True)
    gradients = {name: parameter.grad.clone() for name, parameter in built.model.named_parameters()}
    return loss.item(), gradients, torch.rand(4).tolist()


def cached(built, batch, chunk_size, *, autocast=contextlib.nullcontext):
    return CachedForward(
        built.model, batch, chunk_size=chunk_size, device=CPU, autocast=autocast, no_sync=contextlib.nullcontext
    )


def assert_close(ours, theirs, *, tolerance):
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    assert max(gradient.abs().max() for gradient in theirs[1].values()) > 1e-3
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_with_dropout_it_is_the_plain_step_over_the_same_chunks(case, chunk_size, tiny):
    """Chunks that divide eight and that do not; the same masks in both passes, and the same draws afterwards."""
    built, batch = prepared(tiny, case)
    theirs = measured(built, plain_in_chunks(built.model, chunk_size), batch)
    ours = measured(built, cached(built, batch, chunk_size), batch)
    assert_close(ours, theirs, tolerance=1e-10)
    assert ours[2] == theirs[2], "the step leaves the generator where the plain step leaves it"
    torch.manual_seed(4)
    other = total_loss(built.step(built.model, batch), device=CPU)
    assert abs(other.item() - ours[0]) > 1e-4, "dropout is drawn at all"


@pytest.mark.parametrize("case", CASES)
def test_without_dropout_it_is_the_whole_batch_at_once(case, still):
    built, batch = prepared(still, case)
    assert_close(measured(built, cached(built, batch, 3), batch), measured(built, built.model, batch), tolerance=1e-10)


def test_without_replayed_masks_the_gradient_is_another(tiny, monkeypatch):
    """What the random states are for: the test above sees it when they are not put back."""
    built, batch = prepared(tiny, "simcse")
    theirs = measured(built, plain_in_chunks(built.model, 3), batch)
    monkeypatch.setattr("mcse.training.gradcache._RandomState.restore", lambda _: None)
    ours = measured(built, cached(built, batch, 3), batch)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-10), "the loss does not show it"
    assert max((ours[1][name] - gradient).abs().max() for name, gradient in theirs[1].items()) > 1e-3


@pytest.mark.parametrize("case", ["simcse", "pairs"])
def test_under_bf16(case, tiny):
    """The first pass leaves casts without a graph behind; the second must not find them."""
    built, batch = prepared(tiny, case, dtype=torch.float32)

    def autocast(*, cache_enabled):
        return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache_enabled)

    # A cast that is kept adds up its uses' gradients in bf16, over all chunks of the plain step and within one of ours.
    fresh, kept = (functools.partial(autocast, cache_enabled=enabled) for enabled in (False, True))
    theirs = measured(built, plain_in_chunks(built.model, 3), batch, autocast=fresh)
    assert_close(
        measured(built, cached(built, batch, 3, autocast=fresh), batch, autocast=fresh), theirs, tolerance=1e-6
    )
    ours = measured(built, cached(built, batch, 3, autocast=kept), batch, autocast=kept)
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loop_takes_cached_steps(accumulation, still, tmp_path):
    """The same run with and without, to rounding; what it says at the start; and it resumes bit for bit."""
    keys = {
        "train.accumulation_steps": accumulation,
        "train.log_steps": 1,
        "optim.epsilon": 1e-4,
        "optim.schedule": "constant",
    }
    chunks = keys | {"train.cached_chunk_size": 3}
    with one_thread(), own_cache(still):
        assert run(still, "mcse", tmp_path / "plain", keys) == 0
        assert run(still, "mcse", tmp_path / "cached", chunks) == 0
        assert run(still, "mcse", tmp_path / "again", chunks | {"train.max_steps": 3}) == 0
        assert run(still, "mcse", tmp_path / "again", chunks | {"train.resume": "auto"}) == 0
    assert '"cached chunks of": 3' in (tmp_path / "cached" / "run.json").read_text()
    plain, ours = ([e["loss"] for e in entries(tmp_path / name) if "loss" in e] for name in ("plain", "cached"))
    assert len(plain) == 6
    assert ours == pytest.approx(plain, rel=1e-4)
    assert_same_run(tmp_path / "cached", tmp_path / "again")
    norms = [[e["grad_norm"] for e in entries(tmp_path / name) if "loss" in e] for name in ("plain", "cached")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_chunk_as_large_as_the_batch_is_refused(still, tmp_path, capsys):
    assert run(still, "simcse", tmp_path / "run", {"train.cached_chunk_size": 8}) == 2
    assert "train.cached_chunk_size: 8 would do nothing" in capsys.readouterr().err


def test_a_step_that_calls_its_model_twice_is_refused(still):
    built, batch = prepared(still, "simcse")
    forward = cached(built, batch, 3)
    forward(batch)
    with pytest.raises(RuntimeError, match="calls its model more than once"):
        forward(batch)


def test_split_keeps_views_together_and_cuts_padding():
    ids_BT = torch.arange(12).reshape(3, 4)
    mask_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    query = TokenBatch(ids_BT, mask_BT)
    views = TokenBatch(torch.cat([ids_BT, ids_BT + 100]), mask_BT.repeat(2, 1))
    batch = SentenceBatch(query, masked=MaskedTokens(views, label_BT=views.input_ids_BT * 2))
    first, second = split_batch(batch, 2)
    assert first.query.input_ids_BT.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert second.query.input_ids_BT.tolist() == [[8, 9, 10, 11]]
    assert first.masked.tokens.input_ids_BT[:, 0].tolist() == [0, 4, 100, 104]
    assert second.masked.tokens.input_ids_BT[:, 0].tolist() == [8, 108]
    assert second.masked.label_BT[:, 0].tolist() == [16, 216]
    assert first.positive is None
