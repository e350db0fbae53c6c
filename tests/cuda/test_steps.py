"""Each kind of step on fake CUDA tensors: devices and dtypes agree, dropout is there, the host waits for nothing."""

from __future__ import annotations

import collections
import contextlib

import pytest
import torch
from transformers import modeling_flash_attention_utils

from mcse.models import packing
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.runtime import start_runtime
from tests.cuda.fake import LOW, fake_cuda, run_steps
from tests.fixtures.launch import arguments_of, one_thread, own_cache
from tests.fixtures.teacher_stores import store_rows
from tests.fixtures.tiny_run import build_tiny_run

PAIRS = {"data.captions.per_image": "all", "mix.schedule": "every"}
CASES = {
    "simcse": ("simcse", {}),
    "supervised": ("simcse", {"data.sentences": "nli.csv", "loss.hard_negative_weight": 0.5}),
    "tables": ("tables", {}),
    "tables by scores": ("tables", {"data.table": "scored.csv"}),
    "mlm": ("simcse", {"loss.mlm_weight": 0.1}),
    "mcse": ("mcse", PAIRS),
    "mcse, mlm": ("mcse", PAIRS | {"loss.mlm_weight": 0.1}),
}
# Keys, and the passes of a batch's sentences through the encoder.
WAYS = {
    "plain": ({}, 1),
    "eager attention": ({"encoder.attention": "eager"}, 1),
    "packed": ({"encoder.packing": True}, 1),
    "packed, mean": ({"encoder.packing": True, "encoder.pooling": "mean"}, 1),
    "length chunks": ({"encoder.length_chunks": 3}, 3),
    "cached chunks": ({"train.cached_chunk_size": 5}, 4),
    "packed, cached chunks": ({"encoder.packing": True, "train.cached_chunk_size": 5}, 4),
    "accumulated": ({"train.accumulation_steps": 2}, 2),
}
IN_SHORT = ("plain", "packed")
TABLE = [
    pytest.param(case, way, precision, marks=[] if case == "simcse" and precision == "bf16" else [pytest.mark.slow])
    for case in CASES
    for way in (WAYS if case in ("simcse", "mcse") else IN_SHORT)
    for precision in (LOW if way in ("plain", "packed") and case in ("simcse", "mcse") else ("bf16",))
]
DROPOUTS_A_PASS = {"hidden": 5, "attention": 2}
"""Of the tiny encoder: after embeddings, attention and feed-forward of two layers; in their attention."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def take_steps(tiny, recipe, keys, *, monkeypatch, steps):
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        # Accelerate would refuse fp16 without a GPU: ``run_steps`` opens the precision itself.
        runtime = start_runtime(precision="fp32", seed=0, show_progress=False)
        run = method(recipe).build(config, runtime)
        return run_steps(run, config, runtime, monkeypatch=monkeypatch, folder=tiny / "unused", steps=steps)


WEIGHTS = 39
"""And buffers of the tiny encoder."""

STORED = {"teachers": [{"name": "a", "store": "rows"}], "loss.list_net": {}, "loss.margin": {"negative": 0.1}}
LIVE = {"teachers": [{"name": "a", "encoder": "bert", "pooling": "mean"}], "loss.list_net": {}}
READERS = {
    "stored": ("simcse", STORED),
    "stored, pairs": ("mcse", PAIRS | STORED),
    "live": ("simcse", LIVE),
    "guide": ("tables", {"loss.guide": {"model": "bert", "pooling": "cls"}}),
}


@pytest.mark.parametrize("way", ["plain", "cached chunks"])
@pytest.mark.parametrize("case", READERS)
def test_rows_of_a_teacher_or_guide_are_on_the_gpu_when_the_loss_reads_them(case, way, tiny, monkeypatch):
    recipe, keys = READERS[case]
    if keys is LIVE:
        keys = keys | {"teachers": [keys["teachers"][0] | {"encoder": str(tiny / "bert")}]}
    if recipe == "tables":
        keys = {"loss.guide": keys["loss.guide"] | {"model": str(tiny / "bert")}}
    elif not (tiny / "rows").is_dir():
        store_rows(tiny)
    keys = keys | WAYS[way][0] | {"train.precision": "bf16"}
    seen = take_steps(tiny, recipe, keys, monkeypatch=monkeypatch, steps=2)
    # A live teacher moves to the GPU with the first batch, once: as many copies as it has weights and buffers.
    moves = sum(count for wait, count in seen.waits.items() if "module.to(" in wait)
    assert (moves == sum(seen.waits.values()) == WEIGHTS) if case == "live" else not seen.waits
    assert {"list_net"} <= seen.terms or recipe == "tables"


@pytest.mark.parametrize(("case", "way", "precision"), TABLE)
def test_a_step(case, way, precision, tiny, monkeypatch):
    recipe, keys = CASES[case]
    added, passes = WAYS[way]
    # One batch of text and one of pairs.
    steps = 2 if recipe == "mcse" else 1
    keys = keys | added | {"train.precision": precision}
    seen = take_steps(tiny, recipe, keys, monkeypatch=monkeypatch, steps=steps)
    assert not seen.waits
    assert bool(seen.copies) == ("cached" not in way), "but for chunks, batches come on a stream of their own"
    first = {"tables": "contrast", "tables by scores": "cosent"}.get(case, "text_text")
    terms = {first} | ({"mlm"} if "mlm" in case else set()) | ({"text_image"} if recipe == "mcse" else set())
    assert seen.terms == terms
    # The language model's copies are neither packed nor cut by length.
    passes += ("mlm" in case) * (1 if way == "packed" else passes)
    assert {rate for _, rate in seen.dropouts} == {0.1}
    assert len(seen.dropouts) == steps * passes * sum(DROPOUTS_A_PASS.values())
    if "packed" in way:
        in_kernels = [name for name, _ in seen.dropouts if "attention_forward" in name]
        plain = DROPOUTS_A_PASS["attention"] * ("mlm" in case)
        assert len(in_kernels) == steps * (passes * DROPOUTS_A_PASS["attention"] - plain)
    low = LOW[precision] or torch.float32
    # Scores are compared pair by pair, without a product.
    in_loss = set() if case == "tables by scores" else {torch.float32}
    assert seen.dtypes >= {low} | in_loss, "the loss's product is in float32"
    assert seen.dtypes <= {low, torch.float32}
    assert {dtype for _, dtype in seen.kernels} <= {low}


@pytest.mark.parametrize(("precision", "kernel"), [("bf16", "_flash"), ("fp16", "_flash"), ("fp32", "_efficient")])
def test_packed_attention_takes_the_fastest_kernel(precision, kernel, tiny, monkeypatch):
    """As on a GPU that has flash attention, which takes half precision alone."""
    monkeypatch.setattr(packing, "_has_flash_attention", lambda: True)
    keys = {"encoder.packing": True, "train.precision": precision}
    seen = take_steps(tiny, "simcse", keys, monkeypatch=monkeypatch, steps=1)
    assert not seen.waits
    assert {name for name, _ in seen.kernels} == {f"{kernel}_attention_forward"}
    assert collections.Counter(name for name, _ in seen.dropouts)[f"{kernel}_attention_forward"] == 2


def test_flash_attns_kernel_is_asked_on_the_gpu_and_waits_for_nothing(tiny, monkeypatch):
    """By transformers' own way to it, with a stand-in of the kernel, which is no operation of PyTorch's."""
    asked = []

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
    ):
        assert {x.device.type for x in (q, k, v, cu_seqlens_q, cu_seqlens_k)} == {"cuda"}
        assert {x.dtype for x in (q, k, v)} == {torch.bfloat16}
        asked.append((max_seqlen_q, dropout_p, causal))
        return q + k + v

    found = (None, flash_attn_varlen_func, None, None, None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *_, **__: found)
    monkeypatch.setattr(packing, "is_flash_attn_2_available", lambda: True)
    keys = {"encoder.packing": True, "encoder.attention": "flash_attention_2", "train.precision": "bf16"}
    seen = take_steps(tiny, "simcse", keys, monkeypatch=monkeypatch, steps=1)
    assert not seen.waits
    assert not seen.kernels
    assert [(rate, causal) for _, rate, causal in asked] == [(0.1, False)] * 2
    assert all(isinstance(longest, int) for longest, *_ in asked)


@pytest.mark.parametrize("way", ["plain", "packed"])
@pytest.mark.parametrize("rate", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_without_one_kind_of_dropout_the_count_shows_it(rate, way, tiny, tmp_path, monkeypatch):
    """What the tests above rely on: each kind is among what they count, at its own rate."""
    still = build_tiny_run(tmp_path / "still")
    path = still / "bert" / "config.json"
    path.write_text(path.read_text().replace(f'"{rate}": 0.1', f'"{rate}": 0.0'))
    seen = take_steps(still, "simcse", WAYS[way][0], monkeypatch=monkeypatch, steps=1)
    left = "attention" if "hidden" in rate else "hidden"
    assert len(seen.dropouts) == DROPOUTS_A_PASS[left]


def ask(x):
    return bool(x.sum() > 0)


def scalar(x):
    return x.sum().item()


def mask(x):
    return x[x > 0]


def listed(x):
    return x.tolist()


def host(x):
    return x.cpu()


def plain_memory(x):
    return torch.zeros(3).to(x.device, non_blocking=True)


def blocking(x):
    return torch.zeros(3).pin_memory().to(x.device)


def numbers(x):
    return torch.tensor([1.0, 2.0], device=x.device)


def assigned(x):
    row = torch.arange(2, device=x.device)
    x.view(2, 2)[row, row] = 3.0


def counted(x):
    return x.nonzero()


def early(x):
    with torch.cuda.stream(torch.cuda.Stream()):
        other = torch.zeros(4).pin_memory().to(x.device, non_blocking=True)
    return other + x


WAITS = [ask, scalar, mask, listed, host, plain_memory, blocking, numbers, assigned, counted, early]


@pytest.mark.parametrize("waits", WAITS)
def test_what_waits_is_seen(waits, monkeypatch):
    with fake_cuda(monkeypatch) as (_, watch):
        x = torch.ones(4, device="cuda")
        watch.counts = True
        torch.zeros(3).pin_memory().to("cuda", non_blocking=True) * x[:3]
        assert not watch.seen.waits
        with contextlib.suppress(Exception):
            waits(x)
    assert sum(watch.seen.waits.values()) >= 1
