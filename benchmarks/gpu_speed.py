"""Parts of ``gpu.py`` that ask how fast a GPU is, and how fast steps on it are."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from transformers.utils import is_flash_attn_2_available

from benchmarks.gpu_bench import WAYS, Bench, Built, empty, peak, set_tf32, timed
from mcse.models.packing import FLASH_ATTENTION
from mcse.run_folder import BEST
from mcse.types import PairBatch


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
            foretold = {way: built.go(way).foretold() for way in ("padded", "packed")}
            for way in ways(precision):
                seconds, memory = ours_timed(bench, built.go(way), bench.size(40 if batch_size > 100 else 100, 2))
                bench.found.speed(
                    side=f"mcse, {way}", batch=batch_size, precision=precision, **_row(batch_size, seconds, memory),
                    foretold_GiB=foretold.get(way), share_of_matrix_rate=flops / seconds / rate,
                    gflop_a_step=flops / 1e9,
                )  # fmt: skip
                if way in foretold:
                    title = f"{way}, batch {batch_size}, {precision}: peak over what a dry run foretells"
                    bench.found.check(title, memory / foretold[way] if bench.is_cuda else 0.0, 1.1)
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


def ways(precision: str) -> tuple[str, ...]:
    """What is timed in a precision; flash-attn where it is installed."""
    if precision == "fp32":
        return ("padded", "packed")
    return (*WAYS, FLASH_ATTENTION) if precision == "bf16" and is_flash_attn_2_available() else WAYS


def _row(batch_size: int, seconds: float, memory: float) -> dict[str, float]:
    return {"examples_a_second": batch_size / seconds, "ms_a_step": seconds * 1e3, "peak_GiB": memory}


def ours_timed(bench: Bench, built: Built, number: int, *, warm_up: int = 12) -> tuple[float, float]:
    """Seconds a step of the real loop, making batches included, and peak GiB. Graphs are captured before."""
    has_graphs = built.encoder.uses_graphs or built.encoder._compiled is not None
    warm_up = bench.size(30 if has_graphs else warm_up, 1)
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
    from benchmarks.peers import sentence_transformers_model, sentence_transformers_trainer

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    set_tf32(False)
    device = bench.options.device
    model = sentence_transformers_model(bench.base(), max_length=32, device=device)
    warm_up = bench.size(10, 1)
    marks: list[float] = []

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step in (warm_up, warm_up + number):
                bench.wait()
                marks.append(time.perf_counter())
                if bench.is_cuda and len(marks) == 1:
                    torch.cuda.reset_peak_memory_stats()

    trainer = sentence_transformers_trainer(
        model,
        texts,
        output_dir=bench.scratch / "st",
        steps=warm_up + number,
        batch_size=batch_size,
        precision=precision,
        device=device,
        callback=Marks(),
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


def saving(bench: Bench) -> None:
    """How long training waits for a state and for best/, and until they are on the disk."""
    loop = bench.build(bench.base(), precision="bf16").go("packed").loop(bench.scratch / "saving", steps=8)
    saves = {"a state": lambda: loop._save(with_last=False), "best/": lambda: loop._export(BEST, {})}
    with loop.prefetcher, loop.writer:
        loop._step()
        for what, save in saves.items():
            bench.wait()
            start = time.perf_counter()
            save()
            bench.found.facts[f"seconds that training waits for {what}"] = round(time.perf_counter() - start, 3)
            loop._step()
            loop.writer.wait()
            bench.found.facts[f"seconds until {what} is on the disk"] = round(time.perf_counter() - start, 3)


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
