"""Trains grounded word vectors on true and on shuffled images, several seeds, and writes the five-row reports.

    python benchmarks/grounded_words.py --data ../shared/data --output runs/grounded_words --seeds 0 1 2

``scenes`` needs no data: words there name what is seen, so that images must help. ``flickr8k`` is real: GloVe vectors
and Flickr8k captions, judged by published word-similarity sets and STS. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from mcse.commands import extract_features, ground_report
from mcse.data.test_sets.sts import find_senteval
from mcse.recipes.launch import load_config, train
from mcse.scenes import WorldConfig, build_world
from mcse.scenes.words import SIMILARITY, VECTORS, write_word_files
from mcse.text.word_spaces import whiten
from mcse.text.word_vector_writer import save_word_vectors
from mcse.text.word_vectors import load_word_vectors

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "grounded_words"
SCENES = {
    "scenes": "scenes.yaml",
    "scenes_regression": "scenes_regression.yaml",
    "scenes_whitened": "scenes_whitened.yaml",
}
FLICKR8K = {
    "flickr8k": "glove_flickr8k_cpu.yaml",
    "flickr8k_regression": "glove_flickr8k_regression_cpu.yaml",
}
CONTROLS = {"true": "true", "shuffled": "shuffled_images"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with wordvec/, flickr8k/, wordsim/ and senteval/")
    parser.add_argument("--output", type=Path, default=Path("runs/grounded_words"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--no-report", action="store_true", help="train only, such as one seed at a time")
    parser.add_argument("--only", nargs="+", choices=(*SCENES, *FLICKR8K), default=(*SCENES, *FLICKR8K))
    args = parser.parse_args()
    world = make_world(args.output / "world") if set(args.only) & set(SCENES) else None
    for name in args.only:
        root = world if name in SCENES else args.data
        if root is None:
            parser.error(f"{name} needs --data")
        started = time.perf_counter()
        runs = train_all(args.output / name, (SCENES | FLICKR8K)[name], root=root, seeds=args.seeds)
        if not args.no_report:
            report(args.output / name, runs, root=root, is_scenes=name in SCENES)
        print(f"{name}: {time.perf_counter() - started:.0f} s")


def make_world(folder: Path) -> Path:
    """A small picture world with its words and its images' pixels as features."""
    if not (folder / "features" / "meta.json").is_file():
        sizes = {"num_train_images": 2000, "num_dev_images": 8, "num_test_images": 8, "captions_per_image": 3}
        build_world(folder, config=WorldConfig(num_sentences=1, num_sts_pairs=1, **sizes))
        options = {"names": None, "batch_size": 64, "on_bad_image": "error", "device": "cpu", "precision": "fp32"}
        extract_features.run(
            argparse.Namespace(
                images=str(folder / "images"),
                tower="pixels:16",
                output=folder / "features",
                overwrite=True,
                **options,
            )
        )
    write_word_files(folder)
    save_word_vectors(folder / "word_vectors_whitened.txt", whiten(load_word_vectors(folder / VECTORS)))
    return folder


def train_all(folder: Path, config: str, *, root: Path, seeds: Sequence[int]) -> dict[str, list[Path]]:
    """The run folders by control."""
    runs: dict[str, list[Path]] = {}
    for seed in seeds:
        for control, images in CONTROLS.items():
            output = folder / control / f"seed{seed}"
            runs.setdefault(control, []).append(output)
            keys = {"output_dir": output, "data.root": root, "seed": seed, "controls.images": images}
            flags = [text for key, value in keys.items() for text in (f"--{key}", str(value))]
            if not (output / "best").is_dir():
                train(load_config(CONFIGS / config, flags), overwrite=output.exists(), show_progress=False)
    return runs


def report(folder: Path, runs: dict[str, list[Path]], *, root: Path, is_scenes: bool) -> None:
    """``report.md`` and ``report.json`` in ``folder``'s ``report/``."""
    text = VECTORS if is_scenes else "wordvec/glove.100d.10k.txt.gz"
    ground_report.run(
        argparse.Namespace(
            text=root / text,
            true=runs["true"],
            shuffled=runs["shuffled"],
            data=root / (SIMILARITY if is_scenes else "wordsim"),
            sts=None if is_scenes else find_senteval(root),
            ground_text=False,
            components=None,
            output=folder / "report",
        )
    )


if __name__ == "__main__":
    main()
