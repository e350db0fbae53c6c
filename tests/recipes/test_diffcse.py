"""DiffCSE: its loss in loops, what it exports and what it keeps, its controls, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModel

from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.recipes import method
from mcse.recipes.diffcse.config import LossConfig
from mcse.recipes.diffcse.method import rtd_terms
from mcse.recipes.launch import load_config
from mcse.run_folder import saved_states
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, entries, losses, own_cache, run, tensors
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_run import build_tiny_run

EVERY = {"train.log_steps": 1}
UNEVEN = {"data.sentences": "uneven.txt", "train.batch_size": 32}
WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def still(tmp_path_factory, equal_views):
    return build_tiny_run(tmp_path_factory.mktemp("still"), dropout=0.0)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(tiny, "diffcse", folder, EVERY | {"train.save_steps": 3}) == 0
    return folder


def built(tiny, keys=None):
    with own_cache(tiny):
        config = load_config(None, arguments_of(tiny, "diffcse", tiny / "unused", keys))
        return config, method("diffcse").build(config, start_runtime(precision="fp32", seed=config.seed))


# --- the loss


def in_loops(rows, *, temperature, weight, reduction):
    """The loss of one batch from its rows: InfoNCE over cosines, and the mean cross-entropy of every token."""
    query, key = rows.text.query_BD.tolist(), rows.text.positive_BD.tolist()

    def cosine(left, right):
        return sum(a * b for a, b in zip(left, right, strict=True)) / math.hypot(*left) / math.hypot(*right)

    contrast = 0.0
    for i, left in enumerate(query):
        scores = [math.exp(cosine(left, right) / temperature) for right in key]
        contrast -= math.log(scores[i] / sum(scores)) / len(query)
    costs, replaced, real_tokens = [], 0, 0
    for logits, labels, real in zip(
        rows.logit_RT2.tolist(), rows.replaced_RT.tolist(), rows.real_RT.tolist(), strict=True
    ):
        for (zero, one), label, is_real in zip(logits, labels, real, strict=True):
            assert is_real or not label
            replaced, real_tokens = replaced + label, real_tokens + is_real
            if is_real or reduction == "all":
                costs.append(-math.log(math.exp(one if label else zero) / (math.exp(zero) + math.exp(one))))
    return contrast, sum(costs) / len(costs), replaced / real_tokens, contrast + weight * sum(costs) / len(costs)


@pytest.mark.parametrize("head", ["batch_norm", "tanh"])
@pytest.mark.parametrize("reduction", ["all", "real"])
def test_the_loss_is_its_definition(reduction, head, tiny):
    keys = {"loss.rtd_reduction": reduction, "loss.rtd_weight": 0.3, "loss.temperature": 0.2, "head": head}
    _, run = built(tiny, keys | UNEVEN)
    run.model.double().train()
    seen = []
    run.model.register_forward_hook(lambda *given: seen.append(given[-1]))
    terms = run.step(run.model, run.stream.batch(0))
    contrast, rtd, replaced, total = in_loops(seen[0], temperature=0.2, weight=0.3, reduction=reduction)
    assert not seen[0].real_RT.all(), "the batch holds padding"
    means = {name: float(term.sum.detach()) / float(term.count) for name, term in terms.items()}
    assert means == pytest.approx({"text_text": contrast, "rtd": rtd, "rtd_replaced": replaced}, rel=1e-10)
    assert {name: term.weight for name, term in terms.items() if term.is_loss} == {"text_text": 1.0, "rtd": 0.3}
    assert total_loss(terms, device=torch.device("cpu")).item() == pytest.approx(total, rel=1e-6)
    if head == "batch_norm":
        both = torch.cat([seen[0].text.query_BD, seen[0].text.positive_BD])
        torch.testing.assert_close(both.mean(0), torch.zeros(32).double(), rtol=0, atol=1e-9)
        assert not torch.allclose(seen[0].text.query_BD.mean(0), torch.zeros(32).double(), atol=1e-6), "both views"


def test_padding_counts_as_told(tiny):
    """Both means from the same rows; once padding is told without error, the factor between them is as documented."""
    _, run = built(tiny, UNEVEN)
    with torch.no_grad():
        rows = run.model(run.stream.batch(0))
        rows.logit_RT2[~rows.real_RT] = torch.tensor([30.0, -30.0])
    means = {}
    for reduction in ("all", "real"):
        term = rtd_terms(rows, LossConfig(rtd_reduction=reduction))["rtd"]
        means[reduction] = float(term.sum) / float(term.count)
    tokens, real = rows.real_RT.numel(), int(rows.real_RT.sum())
    assert real < tokens
    assert means["real"] == pytest.approx(means["all"] * tokens / real, rel=1e-6)


def test_views_have_masks_of_their_own_that_seed_and_step_name(tiny):
    _, run = built(tiny, {"generator.mask_share": 0.3})
    batches = [run.stream.batch(step) for step in range(8)]
    chosen = [batch.masked.label_BT >= 0 for batch in batches]
    first, second = zip(*(mask.chunk(2) for mask in chosen), strict=True)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    words = [batch.query.attention_mask_BT.sum() - 2 * len(batch.query) for batch in batches]
    share = sum(mask.sum() for mask in chosen) / (2 * sum(words))
    assert float(share) == pytest.approx(0.3, abs=0.04)
    _, again = built(tiny, {"generator.mask_share": 0.3})
    assert torch.equal(again.stream.batch(3).masked.tokens.input_ids_BT, batches[3].masked.tokens.input_ids_BT)


def test_bf16_gives_the_losses_of_fp32_to_its_digits(tiny, tmp_path):
    for precision in ("fp32", "bf16"):
        assert run(tiny, "diffcse", tmp_path / precision, EVERY | {"train.precision": precision}) == 0
    for name in ("loss.text_text", "loss.rtd"):
        low, high = losses(tmp_path / "bf16", name), losses(tmp_path / "fp32", name)
        assert low[0] == pytest.approx(high[0], rel=0.03), name
        assert low != high


# --- controls


def test_weight_zero_is_simcse(still, tmp_path):
    keys = EVERY | {"optim.max_grad_norm": 1e9}
    assert run(still, "diffcse", tmp_path / "zero", keys | {"loss.rtd_weight": 0.0, "head": "tanh"}) == 0
    assert run(still, "simcse", tmp_path / "simcse", keys) == 0
    assert losses(tmp_path / "zero") == losses(tmp_path / "simcse")
    ours, theirs = (tensors(tmp_path / name / "last") for name in ("zero", "simcse"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(tmp_path / "zero", "loss.rtd")


def test_without_the_gradient_the_encoder_is_simcse_and_the_discriminator_still_learns(still, tmp_path):
    keys = EVERY | {"optim.max_grad_norm": 1e9, "loss.rtd_weight": 0.5, "head": "tanh"}
    assert run(still, "diffcse", tmp_path / "stopped", keys | {"loss.stop_gradient": True}) == 0
    assert run(still, "diffcse", tmp_path / "lit", keys) == 0
    assert run(still, "simcse", tmp_path / "simcse", EVERY | {"optim.max_grad_norm": 1e9}) == 0
    assert losses(tmp_path / "stopped", "loss.text_text") == losses(tmp_path / "simcse", "loss.text_text")
    assert losses(tmp_path / "lit", "loss.text_text") != losses(tmp_path / "simcse", "loss.text_text")
    falling = losses(tmp_path / "stopped", "loss.rtd")
    assert falling[-1] < falling[0]


def test_captions_are_trained_on_as_text(tiny, tmp_path):
    keys = EVERY | {"data.captions": "captions.csv", "mix.schedule": "every", "data.repetition": 0.3}
    assert run(tiny, "diffcse", tmp_path / "mixed", keys) == 0
    assert json.loads((tmp_path / "mixed" / "run.json").read_text())["facts"]["captions"] == 48
    assert len(losses(tmp_path / "mixed", "loss.rtd")) == 6


# --- what is saved


def test_what_is_exported_is_the_sentence_encoder_alone(finished, tiny, tmp_path):
    assert run(tiny, "simcse", tmp_path / "simcse", EVERY) == 0
    for part in ("best", "last"):
        ours = {path.relative_to(finished / part).as_posix() for path in (finished / part).rglob("*") if path.is_file()}
        theirs = {
            path.relative_to(tmp_path / "simcse" / part).as_posix()
            for path in (tmp_path / "simcse" / part).rglob("*")
            if path.is_file()
        }
        assert ours == theirs - {"heads.safetensors"}
    stored = tensors(finished / "last")
    loaded = AutoModel.from_pretrained(finished / "last", add_pooling_layer=False)
    names = {name.partition(":")[2]: tensor for name, tensor in stored.items()}
    assert names.keys() == loaded.state_dict().keys()
    assert all(torch.equal(names[name], tensor) for name, tensor in loaded.state_dict().items())
    state = saved_states(finished / "state")[-1]
    trained = {name.partition(":")[2]: t for name, t in tensors(state).items()}
    first, second = (trained[f"{part}.backbone.{WORDS}"] for part in ("text.encoder", "discriminator"))
    assert torch.equal(first, names[WORDS])
    assert not torch.equal(second, names[WORDS])
    assert not torch.equal(second, tensors(tiny / "bert")[f"model.safetensors:bert.{WORDS}"]), "it trains"
    assert not [name for name in trained if "generator" in name or "predictions" in name]
    rows = SentenceEncoder.from_pretrained(str(finished)).encode(["the dog runs in the park"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_simcses_head_is_exported_as_simcse_exports_it(tiny, tmp_path):
    keys = {"head": "tanh", "encoder.pooling": "cls_with_head"}
    assert run(tiny, "diffcse", tmp_path / "run", keys) == 0
    assert [name for name in tensors(tmp_path / "run" / "last") if "text_head" in name]


def test_a_run_says_what_its_models_were_read_of_and_logs_its_term(finished, tiny):
    told = json.loads((finished / "run.json").read_text())
    digests = {
        role: {f["digest"] for f in told["data"] if f["role"] == role}
        for role in ("encoder", "discriminator", "generator")
    }
    assert digests["encoder"] == digests["discriminator"] == digests["generator"] != set()
    for line in (line for line in entries(finished) if "loss" in line):
        assert line["loss"] == pytest.approx(line["loss.text_text"] + 0.005 * line["loss.rtd"], rel=1e-5)
        assert line["weight.rtd"] == 0.005
        assert 0 < line["rtd_replaced"] < 1


# --- refusals


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train.cached_chunk_size": 4}, "train.cached_chunk_size: diffcse needs a whole batch in one forward pass"),
        ({"encoder.pooling": "cls_with_head"}, "encoder.pooling: cls_with_head would save a head that normalises"),
        ({"encoder.frozen": True}, "encoder.frozen: true would train a head and a discriminator"),
        ({"data.sentences": "nli.csv"}, "data.sentences.table: diffcse makes its positives by dropout"),
        ({"controls.num_pairs": 3}, "controls.num_pairs: 3 would do nothing"),
        ({"generator.mask_share": 0}, "generator.mask_share: must be above 0 and at most 1, got 0"),
        ({"generator.mask_share": 1.5}, "generator.mask_share: must be above 0 and at most 1, got 1.5"),
        ({"loss.rtd_weight": -1}, "loss.rtd_weight: must be 0 or more, got -1"),
        ({"loss.temperature": 0}, "loss.temperature: must be positive, got 0"),
        ({"generator.name_or_path": ...}, "generator.name_or_path"),
        ({"data.max_length": 500}, "data.max_length: 500 is more than the 128 tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(keys, message, tiny, tmp_path, capsys):
    assert run(tiny, "diffcse", tmp_path / "run", keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_generator_of_another_vocabulary_is_refused(tiny, tmp_path, capsys):
    other = build_tiny_bert(tmp_path / "other", vocab_size=100)
    assert run(tiny, "diffcse", tmp_path / "run", {"generator.name_or_path": other}) == 2
    assert "has another vocabulary than encoder.name_or_path" in capsys.readouterr().err
