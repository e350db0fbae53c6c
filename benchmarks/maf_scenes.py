"""MAF's claims on the tweet world: trains every variant over seeds and judges matched and mismatched pairs apart.

    python -m benchmarks.maf_scenes --output runs/maf_scenes --seeds 0 1 2 [--variants full text] [--noise]

Writes results.json (every run), table.md (means over seeds) and, with --page, examples.md with images and spans.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from mcse.commands.main import main as mcse
from mcse.config_fields import plain
from mcse.data.conll import read_conll
from mcse.data.images.features import open_features
from mcse.data.tweets import control_images, tweets_to_images
from mcse.encoders.tweet_tagger import TweetTagger
from mcse.evaluation.evaluators.tagging import score_taggings, tag_texts
from mcse.metrics.spans import Span, find_spans
from mcse.models.small_encoder import build_small_encoder
from mcse.recipes.launch import load_config, train
from mcse.scenes import TweetWorldConfig, build_tweet_world
from mcse.types import Tagging

CONFIG = Path("configs/maf/scenes_cpu.yaml")
NO_MATCHING: dict[str, object] = {"loss.matching": None}
NO_ALIGNMENT: dict[str, object] = {"loss.alignment": None}
TEXT: dict[str, object] = {"data.images": None, "fusion": None, "loss": None}
"""Text alone."""
PUBLISHED: dict[str, object] = {
    "loss.matching.kind": "published",
    "loss.matching.threshold": 0.0,
    "loss.matching.num_swapped": 16,
}
VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "text": TEXT,
    "shuffled in training": {"controls.images": "shuffled_images"},
    "published matching": PUBLISHED,
    "published, tags on swapped": PUBLISHED | {"loss.matching.tag_on_swapped": True},
    "without threshold": {"loss.matching.threshold": 0.0},
    "without image dropout": {"fusion.image_dropout": 0.0},
    "mean of regions projected": {"fusion.image_row": "project_mean"},
    "without alignment": NO_ALIGNMENT,
    "without matching": NO_MATCHING,
    "without both": NO_ALIGNMENT | NO_MATCHING | {"fusion.image_row": "project_mean"},
}
NOISE, TEMPERATURES = (0.0, 0.1, 0.3, 0.5), (0.05, 0.1, 0.18)


@dataclass(frozen=True)
class Pairs:
    """What pairs.csv says of the test split."""

    matched: np.ndarray
    hinted: np.ndarray


def world_of(output: Path, seed: int, mismatched: float) -> Path:
    world = build_tweet_world(
        output / "worlds" / f"noise{mismatched:g}_seed{seed}", config=TweetWorldConfig(seed=seed, mismatched=mismatched)
    )
    regions = output / "regions" / world.name
    if not (regions / "meta.json").is_file():
        code = mcse(
            [
                "extract-features",
                "--images",
                str(world / "images"),
                "--tower",
                "grid:pixels:32",
                "--output",
                str(regions),
            ]
        )
        assert code == 0
    return world


def train_one(output: Path, world: Path, name: str, keys: dict[str, object], *, seed: int) -> tuple[Path, float]:
    """The run's folder, and CPU seconds an epoch with everything: loading, judging dev, saving."""
    encoder = output / "encoders" / f"{world.name}"
    if not encoder.is_dir():
        words = [" ".join(text.words) for text in read_conll(world / "train.txt").texts]
        build_small_encoder(encoder, texts=words, width=64, layers=2, heads=4, init_std=0.1, seed=seed)
    folder = output / "runs" / world.name / name.replace(" ", "_").replace(",", "")
    settings = {
        "output_dir": folder,
        "encoder.name_or_path": encoder,
        "data.root": world,
        "data.images": (output / "regions" / world.name).resolve(),
        "seed": seed,
    } | keys
    flags = [text for key, value in settings.items() for text in (f"--{key}", plain(value))]
    config = load_config(CONFIG, flags)
    started = time.process_time()
    assert train(config, overwrite=folder.exists(), show_progress=False) == 0
    return folder, (time.process_time() - started) / config.train.epochs


def judge(folder: Path, world: Path, regions: Path) -> dict[str, float]:
    """F1 on the test split, on its matched and mismatched pairs, and with shuffled images; the matching's AUC."""
    tagger = TweetTagger.from_pretrained(folder)
    texts = read_conll(world / "test.txt")
    pairs = read_pairs(world)
    store = open_features(regions) if tagger.reads_images else None
    rows = tweets_to_images(texts, store)
    started = time.process_time()
    taggings = tag_texts(tagger, texts.words, store, rows)
    seconds = time.process_time() - started
    found = [tagging.tags for tagging in taggings]

    def f1(chosen: np.ndarray, predicted: list[tuple[str, ...]]) -> float:
        index = np.flatnonzero(chosen)
        return score_taggings([texts.tags[i] for i in index], [predicted[i] for i in index]).lenient.f1

    everything = np.ones(len(texts), dtype=bool)
    spans = [
        ([s.start for s in find_spans(g, "lenient")], [s.start for s in find_spans(p, "lenient")])
        for g, p in zip(texts.tags, found, strict=True)
    ]
    scores = {
        "f1": f1(everything, found),
        "matched": f1(pairs.matched, found),
        "mismatched": f1(~pairs.matched, found) if (~pairs.matched).any() else float("nan"),
        "spans found": 100 * float(np.mean([gold == own for gold, own in spans])),
        "ms a tweet": 1000 * seconds / len(texts),
        "parameters": sum(p.numel() for p in tagger.model.parameters()),
    }
    if store is not None:
        shuffled = tag_texts(tagger, texts.words, store, control_images(rows, "shuffled_images", seed=1))
        scores["shuffled test"] = f1(everything, [tagging.tags for tagging in shuffled])
        match = [tagging.match for tagging in taggings]
        if match[0] is not None and (~pairs.matched).any():
            scores["match auc"] = float(roc_auc_score(pairs.matched, match))
    return scores


def read_pairs(world: Path) -> Pairs:
    with (world / "pairs.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    return Pairs(*(np.asarray([row[key] == "1" for row in rows]) for key in ("matched", "hinted")))


def run_cells(output: Path, cells: list[tuple[str, dict[str, object], float, int]]) -> list[dict[str, object]]:
    """Each cell (name, keys, mismatched share, seed) once; finished ones are kept in results.json."""
    path = output / "results.json"
    results: list[dict[str, object]] = json.loads(path.read_text()) if path.is_file() else []
    for name, keys, noise, seed in cells:
        if any((r["name"], r["noise"], r["seed"]) == (name, noise, seed) for r in results):
            continue
        world = world_of(output, seed, noise)
        folder, seconds = train_one(output, world, name, keys, seed=seed)
        scores = judge(folder, world, output / "regions" / world.name)
        results.append({"name": name, "noise": noise, "seed": seed, "CPU s an epoch": seconds, **scores})
        print(json.dumps(results[-1]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: list[dict[str, object]]) -> str:
    """Means and standard deviations over seeds, one line a variant and share of mismatched pairs."""
    columns = (
        "f1",
        "matched",
        "mismatched",
        "shuffled test",
        "match auc",
        "parameters",
        "CPU s an epoch",
        "ms a tweet",
    )
    lines = ["| variant | mismatched share | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    groups = dict.fromkeys((r["name"], r["noise"]) for r in results)
    for name, noise in groups:
        own = [r for r in results if (r["name"], r["noise"]) == (name, noise)]
        cells = []
        for column in columns:
            values = [float(r[column]) for r in own if r.get(column) is not None]
            digits = {"match auc": 3, "parameters": 0, "ms a tweet": 2}.get(column, 1)
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and digits and digits < 3 else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{spread}" if values else "–")
        lines.append(f"| {name} | {noise} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(output: Path, *, seed: int = 0, noise: float = 0.3, count: int = 16) -> None:
    """examples.md and its images: the first test tweets, gold, and what the full model and text alone say."""
    world = world_of(output, seed, noise)
    texts, pairs = read_conll(world / "test.txt"), read_pairs(world)
    (output / "examples").mkdir(exist_ok=True)
    taggings = {}
    for name in ("full", "text"):
        tagger = TweetTagger.from_pretrained(output / "runs" / world.name / name)
        store = open_features(output / "regions" / world.name) if tagger.reads_images else None
        taggings[name] = tag_texts(tagger, texts.words[:count], store, tweets_to_images(texts, store)[:count])
    lines = ["| image | tweet | gold | image is | full model | match | text alone |", "|---" * 7 + "|"]
    for number, text in enumerate(texts.texts[:count]):
        with Image.open(world / "images" / f"{text.image}.png") as image:
            image.resize((96, 96), Image.Resampling.NEAREST).save(output / "examples" / f"{text.image}.png")
        gold = find_spans(text.tags, "lenient")[0]
        inside = range(gold.start, gold.stop)
        words = " ".join(f"**{word}**" if place in inside else word for place, word in enumerate(text.words))
        full, alone = (taggings[name][number] for name in ("full", "text"))
        cells = [
            f"![{text.image}](examples/{text.image}.png)",
            words.replace("|", "\\|"),
            gold.kind,
            "its own" if pairs.matched[number] else "another's",
            said(text.words, full, gold),
            f"{full.match:.2f}",
            said(text.words, alone, gold),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    (output / "examples.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def said(words: tuple[str, ...], tagging: Tagging, gold: Span) -> str:
    """The entities with their probabilities, right ones marked."""
    marks = {True: "✓", False: "✗"}
    return ", ".join(
        f"{entity.kind} {' '.join(words[entity.start : entity.stop])} {entity.score:.2f} "
        + marks[(entity.start, entity.stop, entity.kind) == (gold.start, gold.stop, gold.kind)]
        for entity in tagging.entities
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/maf_scenes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--noise", action="store_true", help="mismatched shares × temperatures, instead of the variants"
    )
    parser.add_argument("--page", action="store_true", help="write examples.md from the finished first seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.noise:
        cells = [
            (f"tau {tau}", {"loss.alignment.temperature": tau}, noise, seed)
            for seed in args.seeds
            for noise in NOISE
            for tau in TEMPERATURES
        ]
    else:
        cells = [(name, VARIANTS[name], 0.3, seed) for seed in args.seeds for name in args.variants]
    results = run_cells(args.output, cells)
    (args.output / "table.md").write_text(table(results))
    print(table(results))
    if args.page:
        page(args.output)


if __name__ == "__main__":
    main()
