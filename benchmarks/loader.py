"""How fast the loader alone makes batches: sentences, against lists of Python numbers, and pairs with image features.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [--batch 512]

CPU seconds of one thread, rounds in turn in one run; both sides' sentences are compared number by number. Features are
rows of 2048 numbers of 8,000 images, from a store (features.npy, mapped).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from mcse.data.images.features import open_features
from mcse.data.sentences.tokens import TokenTable
from mcse.data.streams import PairStream, Sampler, SentenceStream, Share


class AsLists(TokenTable):
    """Rows by way of lists, as they once were."""

    def ids(self, index, *, column=0):
        return [np.asarray(ids, dtype=np.int64) for ids in self.dataset[index.tolist()][f"ids{column}"]]


def pairs(sentences: SentenceStream, path: Path) -> PairStream:
    """The same sentences as captions of images whose features are stored."""
    images = 8000
    np.save(path, np.random.default_rng(0).normal(size=(images, 2048)).astype(np.float32))
    image_of_caption = np.arange(len(sentences.table)) % images
    return PairStream(sentences.table, image_of_caption, open_features(path), sentences.sampler, pad_id=0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    draw = random.Random(0)
    rows = [[draw.randrange(30_000) for _ in range(draw.randint(6, 32))] for _ in range(options.sentences)]
    features = datasets.Features({"ids0": datasets.List(datasets.Value("int32"))})
    with tempfile.TemporaryDirectory() as name:
        datasets.Dataset.from_dict({"ids0": rows}, features=features).save_to_disk(Path(name) / "rows")
        kept = datasets.load_from_disk(str(Path(name) / "rows"))
        streams = {}
        for side, table in (("lists", AsLists(kept, 1)), ("slices", TokenTable(kept, 1))):
            sampler = Sampler(len(table), Share(options.batch), seed=0, name="data.sentences")
            streams[side] = SentenceStream(table, sampler, pad_id=0)
        streams["pairs"] = pairs(streams["slices"], Path(name) / "features.npy")
        steps = min(40, streams["lists"].steps_per_epoch)
        for step in range(steps):
            left, right = (streams[side].batch(step).query for side in ("lists", "slices"))
            assert torch.equal(left.input_ids_BT, right.input_ids_BT)
            assert torch.equal(left.attention_mask_BT, right.attention_mask_BT)
        rates: dict[str, list[float]] = {side: [] for side in streams}
        for _ in range(options.rounds):
            for side, stream in streams.items():
                start = time.process_time()
                for step in range(steps):
                    stream.batch(step)
                rates[side].append(steps * options.batch / (time.process_time() - start))
    medians = {side: statistics.median(found) for side, found in rates.items()}
    for side, median in medians.items():
        print(f"{side:8} {median:10,.0f} examples a CPU second")
    print(f"ratio {medians['slices'] / medians['lists']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
