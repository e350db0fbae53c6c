"""Steps by two routes: chunked or whole, accumulated or averaged by hand, clipped and updated by AdamW's definition."""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

import pytest
import torch

from mcse.models.text_encoder import TextEncoder
from mcse.recipes import method
from mcse.recipes.graphs import with_graphs
from mcse.recipes.launch import load_config
from mcse.training.config import TrainConfig
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, entries, one_thread, own_cache, run, tensors
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_run import build_tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def still(tmp_path_factory, equal_views):
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


def build(still, recipe, keys):
    with one_thread(), own_cache(still):
        config = load_config(None, arguments_of(still, recipe, still / "unused", keys))
        return method(recipe).build(config, start_runtime(precision="fp32", seed=config.seed))


def gradients(built, batches):
    """The mean over batches of the total loss's gradient, and of the loss."""
    built.model.train()
    built.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = total_loss(built.step(built.model, batch), device=CPU) / len(batches)
        loss.backward()
        total += loss.item()
    return {name: parameter.grad.clone() for name, parameter in built.model.named_parameters()}, total


@pytest.mark.parametrize(
    ("recipe", "keys", "step"),
    [
        ("simcse", {}, 0),
        ("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.5}, 1),
        ("mcse", {"loss.mlm_weight": 0.1, "encoder.pooling": "mean"}, 0),
    ],
)
def test_encoding_in_chunks_changes_neither_loss_nor_gradient(recipe, keys, step, still):
    """Chunks that do not divide the batch, and more chunks than rows."""
    built = build(still, recipe, keys | {"encoder.length_chunks": 3})
    built.model.double()
    encoder = next(module for module in built.model.modules() if isinstance(module, TextEncoder))
    assert encoder.length_chunks == 3
    batch = built.stream.batch(step)
    if recipe == "mcse":
        batch = replace(batch, image_BF=batch.image_BF.double())
    results = {}
    for chunks in (3, 1, 2, 100):
        encoder.length_chunks = chunks
        results[chunks] = gradients(built, [batch])
    whole, loss = results.pop(1)
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    for cut, value in results.values():
        assert value == pytest.approx(loss, rel=1e-10)
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, rtol=0, atol=1e-10)


def in_graphs(built, **keys):
    """What ``train.graphs: compile`` makes of a run, with the widths that it chose."""
    train = TrainConfig(batch_size=8, max_steps=6, graphs="compile", **keys)
    made = with_graphs(built, train, device=CPU)
    return made, encoder_of(made).widths


def encoder_of(built):
    return next(module for module in built.model.modules() if isinstance(module, TextEncoder))


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        ("simcse", {}),
        ("simcse", {"encoder.length_chunks": 3, "encoder.pooling": "max"}),
        ("mcse", {"loss.mlm_weight": 0.1, "encoder.pooling": "mean"}),
    ],
)
def test_static_widths_change_neither_loss_nor_gradient(recipe, keys, still, monkeypatch):
    seen = set()

    def noting(function, *, dynamic):
        assert not dynamic

        def noted(**given):
            seen.add(tuple(given["input_ids"].shape))
            return function(**given)

        return noted

    monkeypatch.setattr(torch, "compile", noting)
    built = build(still, recipe, keys)
    built.model.double()
    batches = [built.stream.batch(step) for step in range(4)]
    if recipe == "mcse":
        batches = [replace(b, image_BF=b.image_BF.double()) if hasattr(b, "image_BF") else b for b in batches]
    expected, loss = gradients(built, batches)
    made, widths = in_graphs(built)
    found, value = gradients(made, batches)
    assert {width for _, width in seen} <= set(widths)
    assert widths
    assert all(width % 8 == 0 for width in widths)
    assert value == pytest.approx(loss, rel=1e-10)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10, msg=name)


@pytest.mark.slow
def test_an_epoch_of_any_widths_is_compiled_into_few_graphs(still, tmp_path, monkeypatch):
    """By a compiler that counts, and changes nothing."""
    draw, words = random.Random(0), (still / "sentences.txt").read_text().split()
    lines = [" ".join(draw.choices(words, k=draw.randint(1, 24))) for _ in range(240)]
    (tmp_path / "uneven.txt").write_text("\n".join(lines) + "\n")
    compiled, plain = [], torch.compile

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(plain, backend=count))
    torch._dynamo.reset()
    built, widths = in_graphs(build(still, "simcse", {"data.sentences": tmp_path / "uneven.txt"}))
    batches = [built.stream.batch(step) for step in range(built.stream.steps_per_epoch)]
    assert len({batch.query.input_ids_BT.shape[1] for batch in batches}) > len(widths)
    gradients(built, batches)
    assert 1 < len(compiled) <= len(widths) <= 4


@pytest.mark.slow
def test_compiled_static_passes_take_the_same_steps_and_their_masks_again(still, tmp_path):
    """Code is generated here, so one layer alone. Cached chunks need the masks of their first pass in the second."""
    quiet = {"encoder.name_or_path": build_tiny_bert(tmp_path / "still", layers=1, dropout=0.0)}
    batch = build(still, "simcse", quiet).stream.batch(0)
    eager, compiled = build(still, "simcse", quiet), in_graphs(build(still, "simcse", quiet))[0]
    compiled.model.load_state_dict(eager.model.state_dict())
    torch._dynamo.utils.counters.clear()
    (expected, loss), (found, value) = (gradients(built, [batch]) for built in (eager, compiled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert value == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    for module in compiled.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    encoder = encoder_of(compiled)

    def rows(seed, *, with_graph):
        torch.manual_seed(seed)
        with torch.set_grad_enabled(with_graph):
            return encoder(batch.query)

    first = rows(1, with_graph=False)
    torch.testing.assert_close(rows(1, with_graph=True).detach(), first)
    assert (rows(2, with_graph=False) - first).abs().max() > 0.01, "dropout is on"


@pytest.mark.parametrize(
    ("recipe", "keys", "kind", "message"),
    [
        ("simcse", {"encoder.packing": True}, "compile", "encoder.packing: false"),
        ("simcse", {"encoder.length_chunks": 2}, "cuda_graphs", "encoder.length_chunks"),
        ("simcse", {"encoder.gradient_checkpointing": True}, "cuda_graphs", "encoder.gradient_checkpointing"),
        ("simcse", {"encoder.attention": "eager"}, "cuda_graphs", "use compile"),
        ("vse", {}, "compile", "no Hugging Face encoder"),
    ],
)
def test_what_has_no_graphs_is_refused_by_key(recipe, keys, kind, message, still):
    train = TrainConfig(batch_size=8, max_steps=6, graphs=kind)
    with pytest.raises(ValueError, match=message):
        with_graphs(build(still, recipe, keys), train, device=CPU)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("train.graphs", "cuda_graphs", "use compile or off"), ("train.tf32", True, "train.tf32: needs a CUDA device")],
)
def test_what_only_a_gpu_has_is_refused_elsewhere(key, value, message, still, tmp_path, capsys):
    assert run(still, "simcse", tmp_path / "run", {key: value}) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "keys"), [("simcse", {}), ("simcse", {"loss.mlm_weight": 0.1}), ("mcse", {"loss.mlm_weight": 0.1})]
)
def test_one_update_is_adamw_on_the_mean_of_the_micro_batches(recipe, keys, still, tmp_path):
    """What accumulation promises: gradients are averaged over batches, each with its own negatives and its own tokens.

    It is not the gradient of one large batch: contrastive terms would see more negatives there, and the mean over
    masked tokens would weigh every token alike, whichever batch it came from.
    """
    rate, epsilon, limit = 1e-3, 1e-4, 0.1
    keys = keys | {
        "train.max_steps": 1,
        "train.log_steps": 1,
        "train.accumulation_steps": 3,
        "optim.learning_rate": rate,
        "optim.epsilon": epsilon,
        "optim.max_grad_norm": limit,
        "optim.weight_decay": 0.1,
        "optim.schedule": "constant",
    }
    assert run(still, recipe, tmp_path / "run", keys) == 0
    built = build(still, recipe, keys)
    with one_thread():
        mean, loss = gradients(built, [built.stream.batch(step) for step in range(3)])
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in mean.values()))
    assert norm > limit, "clipping must have something to do"
    written = entries(tmp_path / "run")[0]
    assert written["loss"] == pytest.approx(loss, rel=1e-5)
    assert written["grad_norm"] == pytest.approx(norm, rel=1e-5)
    after = tensors(tmp_path / "run" / "state")
    for name, parameter in built.model.named_parameters():
        clipped = mean[name] * (limit / norm)
        # AdamW's first step: both moments, freed of their bias, are the gradient and its square.
        decayed = parameter * (1 - rate * 0.1 * (parameter.ndim >= 2))
        expected = (decayed - rate * clipped / (clipped.abs() + epsilon)).detach()
        torch.testing.assert_close(after[f"step-00000001/model.safetensors:{name}"], expected, rtol=1e-5, atol=1e-6)


def test_accumulation_is_no_larger_batch(still):
    """Two batches of 8 are not one of 16, except for a mean over tokens that both have in equal number."""
    small, large = build(still, "simcse", {}), build(still, "simcse", {"train.batch_size": 16})
    halves, _ = gradients(small, [small.stream.batch(step) for step in range(2)])
    whole, _ = gradients(large, [large.stream.batch(0)])
    rows = torch.cat([small.stream.batch(step).query.input_ids_BT[:, :6] for step in range(2)])
    assert torch.equal(rows, large.stream.batch(0).query.input_ids_BT[:, :6]), "the same sentences"
    assert max((halves[name] - whole[name]).abs().max() for name in whole) > 1e-3
