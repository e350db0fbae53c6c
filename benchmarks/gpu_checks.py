"""Parts of ``gpu.py`` that ask whether steps on a GPU are right."""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import nn

from benchmarks.gpu_bench import WAYS, Bench, Built, apart, mlm_folder, set_tf32
from mcse.models import packing
from mcse.nn.dropout import set_rates
from mcse.recipes.launch import load_config, train
from mcse.types import PairBatch, TokenBatch, to_device
from mcse.types.batches import split_batch


def waits(bench: Bench) -> None:
    """Steps in which the host would wait for the GPU, as PyTorch itself counts them."""
    small = bench.small()
    cases: dict[str, dict[str, Any]] = {
        "simcse": {},
        "simcse, mlm": {"loss__mlm_weight": 0.1},
        "simcse, length chunks": {"encoder__length_chunks": 4, "encoder__packing": "false"},
        "simcse, cached chunks": {"train__cached_chunk_size": 24},
        "mcse": {"recipe": "mcse"},
    }
    for case, keys in cases.items():
        if "mlm" in case:
            keys = keys | {"encoder__name_or_path": mlm_folder(bench)}
        built = bench.build(small, precision="bf16", **keys)
        for way in ("padded",) if "length" in case else ("padded", "packed"):
            loop = built.go(way).loop(bench.scratch, steps=6)
            with loop.prefetcher, warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for step in range(6):
                    if step == 4:
                        time.sleep(0.2)
                        bench.wait()
                        said.clear()
                        if bench.is_cuda:
                            torch.cuda.set_sync_debug_mode("warn")
                    loop._step()
            if bench.is_cuda:
                torch.cuda.set_sync_debug_mode("default")
            seen = [f"{Path(w.filename).name}:{w.lineno}" for w in said if "called a synchronizing" in str(w.message)]
            bench.found.check(f"waits in 2 steps, {case}, {way}", len(seen), 0, ", ".join(sorted(set(seen))))


def steps(bench: Bench) -> None:
    """One step by every way, without dropout: loss and gradient are those of the host."""
    found, host = bench.found, torch.device("cpu")
    for recipe in ("simcse", "mcse"):
        built = _still(bench.build(bench.small(), recipe=recipe))
        batch = next(built.run.stream.batch(step) for step in range(9) if recipe == "simcse" or _is_paired(built, step))
        loss, expected = built.go("padded").gradient(batch, host)
        for way in WAYS:
            value, gradient = built.go(way).gradient(batch, bench.device)
            found.check(f"{recipe}, fp32, {way} against the host: loss", abs(value / loss - 1), 1e-4)
            found.check(f"{recipe}, fp32, {way} against the host: gradient", apart(gradient, expected), 1e-3)
        set_tf32(True)
        _, gradient = built.go("padded").gradient(batch, bench.device)
        found.check(f"{recipe}, tf32, padded against the host: gradient", apart(gradient, expected), 3e-2)
        set_tf32(False)
        for way in ("padded", "packed"):
            _, gradient = built.go(way).gradient(
                batch, bench.device, forward=built.cached(batch, bench.size(24, 3), bench.device)
            )
            found.check(f"{recipe}, fp32, {way}, cached chunks: gradient", apart(gradient, expected), 1e-3)
        low = _still(bench.build(bench.small(), recipe=recipe, precision="bf16"))
        low.model.load_state_dict(built.model.state_dict())
        for way in WAYS:
            value, gradient = low.go(way).gradient(batch, bench.device)
            found.check(f"{recipe}, bf16, {way}: loss", abs(value / loss - 1), 3e-2)
            found.check(f"{recipe}, bf16, {way}: gradient", apart(gradient, expected), 0.15)


def fifty(bench: Bench) -> None:
    """Fifty steps by every way, without dropout: the losses are those of the padded one."""
    number = bench.size(50, 4)
    for precision, limit in (("fp32", 1e-2), ("bf16", 0.2)):
        losses: dict[str, torch.Tensor] = {}
        for way in WAYS:
            keys = {"optim__learning_rate": 1e-4, "optim__epsilon": 1e-6}
            loop = (
                _still(bench.build(bench.small(), precision=precision, **keys))
                .go(way)
                .loop(bench.scratch, steps=number)
            )
            with loop.prefetcher:
                for _ in range(number):
                    loop._step()
            losses[way] = torch.stack([loss.detach().float().cpu() for loss in loop.meter._losses])
            if way != "padded":
                distance = ((losses[way] - losses["padded"]).abs() / losses["padded"].abs().clamp(min=1e-2)).max()
                bench.found.check(f"{precision}, {way}: losses of {number} steps against padded", distance, limit)


def _still(built: Built) -> Built:
    """Without dropout, which recipes ask for."""
    for module in built.model.modules():
        set_rates(module, 0.0)
    return built


def _is_paired(built: Built, step: int) -> bool:
    return isinstance(built.run.stream.batch(step), PairBatch)


def dropout(bench: Bench) -> None:
    """Rates of every kernel's dropout; two views differ; chunks replay their masks; graphs draw anew."""
    attention_rates(bench)
    found = bench.found
    rate = (F.dropout(torch.ones(2**22, device=bench.device), 0.1) == 0).float().mean()
    found.check("hidden dropout: rate, from 0.1", abs(float(rate) - 0.1), 1e-3)
    for way in ("padded", "packed", "graphs"):
        built = bench.build(bench.small(), precision="bf16").go(way)
        built.model.to(bench.device).train()
        batch = to_device(built.run.stream.batch(0), bench.device)
        with torch.no_grad(), built.runtime.accelerator.autocast():
            first, again = (built.model(batch) for _ in range(2))
        views = F.cosine_similarity(first.query_BD.float(), first.positive_BD.float()).mean()
        found.check(f"{way}: cosine of two views of a sentence", float(views), 0.999)
        anew = F.cosine_similarity(first.query_BD.float(), again.query_BD.float()).mean()
        found.check(f"{way}: cosine of two passes", float(anew), 0.999)
    # The same masks in the second pass, or else the gradient of another batch.
    built = bench.build(bench.small())
    batch, size = built.run.stream.batch(0), bench.size(24, 3)

    def in_chunks(_: Any) -> Any:
        from mcse.training.gradcache import _join

        parts = [built.model(to_device(chunk, bench.device)) for chunk in split_batch(batch, size)]
        return _join(parts, lambda tensors: torch.cat(list(tensors)))

    for way in ("padded", "packed"):
        built.go(way)
        loss, expected = built.gradient(batch, bench.device, forward=in_chunks)
        value, gradient = built.gradient(batch, bench.device, forward=built.cached(batch, size, bench.device))
        found.check(f"cached chunks with dropout, {way}: loss", abs(value / loss - 1), 1e-5)
        found.check(f"cached chunks with dropout, {way}: gradient", apart(gradient, expected), 1e-3)
    built.go("graphs")
    value, gradient = built.gradient(batch, bench.device, forward=built.cached(batch, size, bench.device))
    again, repeated = built.gradient(batch, bench.device, forward=built.cached(batch, size, bench.device))
    found.check("cached chunks, graphs: the same seed gives the same loss", abs(value / again - 1), 1e-6)
    with without_capture():
        _, eager = built.gradient(batch, bench.device, forward=built.cached(batch, size, bench.device))
    found.check("cached chunks, graphs against eager passes: gradient", apart(gradient, eager), 1e-4)
    found.check("cached chunks, graphs: the same seed gives the same gradient", apart(gradient, repeated), 1e-5)
    plain, expected = built.gradient(batch, bench.device)
    with without_capture():
        value, gradient = built.gradient(batch, bench.device)
    found.check("graphs draw the masks that eager passes draw: loss", abs(plain / value - 1), 1e-5)
    found.check("graphs draw the masks that eager passes draw: gradient", apart(gradient, expected), 1e-4)


@contextlib.contextmanager
def without_capture() -> Iterator[None]:
    """Graphs' shapes, launched one by one."""
    from mcse.models.graphs import Graphs

    run, Graphs.run = Graphs.run, lambda _, function, inputs, key: function(*inputs)
    try:
        yield
    finally:
        Graphs.run = run


def attention_rates(bench: Bench) -> None:
    """With equal scores and one-hot values an output row is the row of probabilities after dropout."""
    length, heads, width, number = 32, 4, 64, bench.size(256, 4)
    mask = torch.ones(number, length, dtype=torch.long)
    packed = packing.pack(to_device(TokenBatch(mask, mask), bench.device))
    for dtype in (torch.bfloat16, torch.float32):
        query = torch.zeros(number, heads, length, width, device=bench.device, dtype=dtype)
        value = F.one_hot(torch.arange(length, device=bench.device), width).to(dtype).expand_as(query).contiguous()
        allowed = torch.ones(number, 1, length, length, dtype=torch.bool, device=bench.device)
        padded, _ = packing.attend(nn.Module(), query, query, value, allowed, dropout=0.1)
        rows = [x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for x in (query, value)]
        with packing.attention_over(packed):
            by_bounds, _ = packing.attend(nn.Module(), rows[0], rows[0], rows[1], None, dropout=0.1)
        for name, output in (("padded", padded), ("packed", by_bounds)):
            weight = output.reshape(-1, heads, width)[..., :length].float()
            rate = (weight == 0).float().mean()
            title = f"attention, {name}, {str(dtype).removeprefix('torch.')}"
            bench.found.check(f"{title}: rate, from 0.1", abs(float(rate) - 0.1), bench.size(2e-3, 5e-2))
            bench.found.check(f"{title}: mean of probabilities, from 1", abs(float(weight.sum(-1).mean()) - 1), 0.03)


def training(bench: Bench) -> None:
    """Fifty steps lower the loss, by every way alike."""
    number = bench.size(50, 6)
    for recipe, precision, way in (
        ("simcse", "bf16", "padded"),
        ("simcse", "bf16", "packed"),
        ("simcse", "bf16", "compiled"),
        ("simcse", "bf16", "graphs"),
        ("mcse", "bf16", "graphs"),
        ("mcse", "fp32", "packed"),
        *((("simcse", "fp16", "packed"),) if bench.is_cuda else ()),
    ):
        built = bench.build(
            bench.small(), recipe=recipe, precision=precision, optim__learning_rate=1e-3, optim__epsilon=1e-6
        ).go(way)
        loop = built.loop(bench.scratch, steps=number)
        with loop.prefetcher:
            for _ in range(number):
                loop._step()
        losses = [float(loss) for loss in loop.meter._losses]
        third = max(1, number // 5)
        start, end = (statistics.mean(part) for part in (losses[:third], losses[-third:]))
        title = f"{recipe}, {precision}, {way}: loss of the last steps over that of the first, {number} steps"
        bench.found.check(title, end / start, bench.size(0.9, 1.2), f"{start:.4f} to {end:.4f}")


def resuming(bench: Bench) -> None:
    """A run that stops and goes on against one that does not stop: weights, bit for bit."""
    for way in ("padded", "packed"):
        keys = {"encoder__packing": str(way != "padded").lower(), "train__batch_size": 8, "train__save_steps": 3}
        keys |= {"train__log_steps": 1, "train__eval_steps": 100}
        weights = []
        for name, lengths in (("whole", (6,)), ("again", (6,)), ("resumed", (3, 6))):
            folder = bench.scratch / f"{way}-{name}"
            for number, length in enumerate(lengths):
                AcceleratorState._reset_state(reset_partial_state=True)
                GradientState._reset_state()
                keys |= {"train__max_steps": length, "train__resume": "auto" if number else "never"}
                # The schedule's end must not move with the length.
                keys |= {"optim__schedule": "constant", "output_dir": folder}
                arguments = bench.arguments(bench.small(), "simcse", precision="bf16", **keys)
                assert train(load_config(None, arguments), overwrite=False, show_progress=False) == 0
            state = load_file(folder / "state" / "step-00000006" / "model.safetensors")
            weights.append(torch.cat([state[name].flatten().double() for name in sorted(state)]))
        whole, again, resumed = weights
        noise = apart(again, whole)
        note = "bit for bit" if noise == 0 else "not deterministic"
        bench.found.check(f"{way}: two equal runs, distance of their weights", noise, 1e-4, note)
        bench.found.check(f"{way}: resumed or not, distance of their weights", apart(resumed, whole), 3 * noise)
