"""What the parts of ``gpu.py`` share: what is found, what is run, inputs, clocks."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from mcse.models.packing import FLASH_ATTENTION
from mcse.models.text_encoder import TextEncoder
from mcse.recipes import method
from mcse.recipes.graphs import with_graphs
from mcse.recipes.launch import load_config
from mcse.training.config import Graphs
from mcse.training.forecast import predict_memory
from mcse.training.gradcache import CachedForward
from mcse.training.journal import Journal
from mcse.training.loop import Loop, total_loss
from mcse.training.runtime import Runtime, start_runtime
from mcse.types import to_device

WAYS = ("padded", "packed", "compiled", "graphs", "graphs, padded")
"""Forward passes of the same batch."""

GRAPHS: dict[str, Graphs] = {"compiled": "compile", "graphs": "cuda_graphs", "graphs, padded": "cuda_graphs"}
"""``train.graphs`` of those that have any."""


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

    def model(self, name: str, **shape: float) -> Path:
        """A folder of a BERT with random weights and the tokenizer that was given."""
        folder = self.scratch / name
        if not folder.exists():
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.options.tokenizer)
            config = transformers.BertConfig(vocab_size=len(tokenizer), **shape)
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def small(self) -> Path:
        """Deep and wide enough for every kernel of BERT-base, and quick."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        shape = dict(zip(names, self.size((256, 4, 4, 1024), (64, 2, 2, 128)), strict=True))
        # Wider than BERT's 0.02, at which a random model's sentences are alike and its gradient is nearly rounding.
        return self.model("small", initializer_range=0.1, **shape)

    def base(self) -> Path:
        if self.options.tiny:
            return self.small()
        return self.model("base")

    def build(self, encoder: Path, *, precision: str = "fp32", recipe: str = "simcse", **keys: Any) -> Built:
        """A recipe's run on this device, and its config."""
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        config = load_config(None, self.arguments(encoder, recipe, precision=precision, **keys))
        runtime = start_runtime(
            precision=config.train.precision, seed=config.seed, show_progress=False, tf32=config.train.tf32
        )
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
            "train.tf32": str(precision == "tf32" and self.is_cuda).lower(),
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

    def __post_init__(self) -> None:
        self.first_position = self.encoder.first_position

    @property
    def model(self) -> nn.Module:
        return self.run.model

    @property
    def encoder(self) -> TextEncoder:
        return next(module for module in self.model.modules() if isinstance(module, TextEncoder))

    def go(self, way: str) -> Built:
        """Takes one of ``WAYS`` from now on, or flash-attn's kernel; graphs as ``train.graphs`` makes them."""
        encoder = self.encoder
        encoder.first_position = self.first_position if way in ("packed", "graphs", FLASH_ATTENTION) else None
        encoder.packs_on, encoder.widths, encoder.uses_graphs = None, (), False
        encoder._compiled, encoder.flashes = None, way == FLASH_ATTENTION
        if graphs := GRAPHS.get(way):
            encoder.packs_on = ()
            with_graphs(self.run, replace(self.config.train, graphs=graphs), device=self.runtime.device)
        return self

    def foretold(self) -> float:
        """GiB of a step, as ``mcse train --dry-run`` says them; the model must be on the host."""
        train, optim = self.config.train, self.config.optim
        return predict_memory(self.run, train, optim, precision=train.precision).total / 2**30

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


def empty(bench: Bench) -> None:
    import gc

    gc.collect()
    if bench.is_cuda:
        torch.cuda.empty_cache()


def peak(bench: Bench) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if bench.is_cuda else float("nan")


def mlm_folder(bench: Bench) -> Path:
    """The small encoder with a language-model head, which the MLM term starts from."""
    folder = bench.scratch / "small-mlm"
    if not folder.exists():
        config = transformers.BertConfig.from_pretrained(bench.small())
        transformers.BertForMaskedLM(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(bench.options.tokenizer).save_pretrained(folder)
    return folder


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
