"""MAF on photographs: Flickr8k captions whose subject is an invented name. Is "Rob" a person or an animal?

    python -m benchmarks.maf_flickr8k --data DATA --output runs/maf_flickr8k --seeds 0 1 2

Takes captions that begin with an article and, within three words, a noun of one kind, and puts a name in their place.
Trains text alone, with the stored image vector as one region, with images left out whose match is unsure, and with
shuffled images. One caption an image; the last thousand training images are test, the dev split is dev. Writes
results.json and table.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
from pathlib import Path
from random import Random

import torch

from benchmarks.maf_scenes import CONFIG, TEXT
from mcse.config_fields import plain
from mcse.data.conll import read_conll
from mcse.data.images.features import open_features
from mcse.data.tweets import control_images, tweets_to_images
from mcse.encoders.tweet_tagger import TweetTagger
from mcse.evaluation.evaluators.tagging import score_taggings, tag_texts
from mcse.models.small_encoder import build_small_encoder
from mcse.recipes.launch import load_config, train

NOUNS = {
    "PERSON": ("man", "woman", "boy", "girl", "child", "person", "lady", "guy", "toddler", "baby", "skateboarder"),
    "ANIMAL": ("dog", "cat", "horse", "puppy", "bird", "greyhound", "cow", "poodle", "bulldog"),
}
KIND = {noun: kind for kind, nouns in NOUNS.items() for noun in nouns}
NAMES = ("Rob", "Kelo", "Dran Vinmi", "Toza", "Sabel Riko", "Ninu")
SUBJECT = re.compile(rf"(?:an?|the) (?:\w+ (?:and \w+ )?){{0,2}}?({'|'.join(KIND)})\b(?P<rest>.*)", re.IGNORECASE)
# Words that would give the kind away, wherever they stand.
TELLING = re.compile(
    rf"\b(?:{'|'.join(KIND)}|men|women|boys|girls|children|people|dogs|his|her|he|she|its|leash|collar|tail|fur|shirt)\b",
    re.IGNORECASE,
)
# Every photograph belongs to its caption, so there is nothing to leave out.
TRUSTING: dict[str, object] = {"loss.matching.threshold": 0.0, "fusion.image_dropout": 0.0}
VARIANTS: dict[str, dict[str, object]] = {
    "text": TEXT,
    "full": TRUSTING,
    "full, unsure images left out": {},
    "shuffled in training": TRUSTING | {"controls.images": "shuffled_images"},
}


def build_files(data: Path, folder: Path, *, seed: int = 0) -> None:
    """CoNLL files of the captions that fit, the first of each image."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[str, str]] = {}
    with (data / "captions.txt").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            match = SUBJECT.match(row["caption"].strip().lower())
            if row["image"] not in found and match and not TELLING.search(match["rest"]):
                found[row["image"]] = (KIND[match[1]], match["rest"])
    listed = (data / "train_images.txt").read_text().split()
    splits = {"train": listed[:-1000], "test": listed[-1000:], "dev": (data / "dev_images.txt").read_text().split()}
    rng = Random(seed)
    for split, images in splits.items():
        blocks = []
        for image in images:
            if image not in found:
                continue
            kind, rest = found[image]
            name = rng.choice(NAMES).split()
            words = [*name, *re.findall(r"\w+|[^\w\s]", rest)]
            tags = [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)] + ["O"] * (len(words) - len(name))
            rows = "\n".join(f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True))
            blocks.append(f"IMGID:{image}\n{rows}\n")
        (folder / f"{split}.txt").write_text("\n".join(blocks), encoding="utf-8")


def run_one(data: Path, output: Path, name: str, *, seed: int) -> dict[str, object]:
    """Trains and judges one variant."""
    features = (data / "mobilenetv1_features.hdf5").resolve()
    encoder = output / "encoders" / f"seed{seed}"
    if not encoder.is_dir():
        words = [" ".join(text.words) for text in read_conll(output / "files" / "train.txt").texts]
        build_small_encoder(encoder, texts=words, width=64, layers=2, heads=4, init_std=0.1, seed=seed)
    folder = output / "runs" / f"{name.replace(' ', '_').replace(',', '')}_seed{seed}"
    keys = {
        "output_dir": folder,
        "encoder.name_or_path": encoder,
        "data.root": (output / "files").resolve(),
        "data.images": features,
        "data.max_length": 48,
        "train.epochs": 8,
        "train.eval_steps": 40,
        "seed": seed,
    } | VARIANTS[name]
    flags = [text for key, value in keys.items() for text in (f"--{key}", plain(value))]
    assert train(load_config(CONFIG, flags), overwrite=folder.exists(), show_progress=False) == 0
    tagger = TweetTagger.from_pretrained(folder)
    texts = read_conll(output / "files" / "test.txt")
    store = open_features(features) if tagger.reads_images else None
    rows = tweets_to_images(texts, store)

    def f1(own_rows: object) -> float:
        taggings = tag_texts(tagger, texts.words, store, own_rows)
        return score_taggings(texts.tags, [tagging.tags for tagging in taggings]).lenient.f1

    scores = {"f1": f1(rows)}
    if store is not None:
        scores["shuffled test"] = f1(control_images(rows, "shuffled_images", seed=1))
    person = sum("B-PERSON" in tags for tags in texts.tags)
    return {"name": name, "seed": seed, "texts": len(texts), "persons": person, **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k")
    parser.add_argument("--output", type=Path, default=Path("runs/maf_flickr8k"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = args.data / "flickr8k"
    build_files(data, args.output / "files")
    path = args.output / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else []
    for seed in args.seeds:
        for name in VARIANTS:
            if not any((r["name"], r["seed"]) == (name, seed) for r in results):
                results.append(run_one(data, args.output, name, seed=seed))
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps(results[-1]), flush=True)
    lines = ["| variant | seeds | F1 | F1, shuffled test images |", "|---|---|---|---|"]
    for name in VARIANTS:
        own = [r for r in results if r["name"] == name]
        cells = []
        for key in ("f1", "shuffled test"):
            values = [r[key] for r in own if key in r]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}" if values else "–")
        lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    (args.output / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
