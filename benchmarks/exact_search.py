"""Search: ``EmbeddingIndex``, exact and on small rows, beside one NumPy product and FAISS's flat index; memory, recall.

    OMP_NUM_THREADS=1 python -m benchmarks.exact_search [--rows 1000000] [--width 384] [--queries 256] [--rounds 5]

The sides take turns in one process, over the same rows; the clock counts CPU seconds. Memory is the peak of a process
of its own above what the rows themselves take. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mcse.search import EmbeddingIndex

TOP = 10
SMALL = {"mcse int8": {"rows": "int8"}, "mcse binary, int8": {"rows": "binary", "rescore": "int8"}}
SIDES = ("mcse", *SMALL, "numpy", "faiss")


class NoEncoder:
    """Stands where an index wants an encoder; it gives the first text its row, which ``load`` asks for."""

    name = "none"

    def __init__(self, rows_ND: np.ndarray) -> None:
        self.rows_ND = rows_ND

    def encode(self, sentences, *, batch_size=64, normalize=True):
        return self.rows_ND[: len(sentences)]


def drawn(number: int, width: int, *, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows_ND = np.empty((number, width), dtype=np.float32)
    for start in range(0, number, 10_000):
        block = rows_ND[start : start + 10_000]
        generator.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows_ND


def build_mcse(rows_ND: np.ndarray, **stored: str) -> EmbeddingIndex:
    index = EmbeddingIndex(NoEncoder(rows_ND), **stored)
    index.add_embeddings(rows_ND, texts=[str(number) for number in range(len(rows_ND))])
    return index


def search_of(side: str, rows_ND: np.ndarray) -> Callable[[np.ndarray], list[list[int]]]:
    """Positions of the nearest, for queries; what is made once is made here."""
    if side == "mcse" or side in SMALL:
        index = build_mcse(rows_ND, **SMALL.get(side, {}))
        print(f"{side}: {index.num_bytes / 2**20:,.0f} MiB of embeddings", file=sys.stderr)
        return lambda query_QD: [[hit.id for hit in hits] for hits in index.search_by_embeddings(query_QD, top_k=TOP)]
    if side == "faiss":
        import faiss

        flat = faiss.IndexFlatIP(rows_ND.shape[1])
        flat.add(rows_ND)
        return lambda query_QD: flat.search(query_QD, TOP)[1].tolist()

    def by_numpy(query_QD: np.ndarray) -> list[list[int]]:
        score_QN = query_QD @ rows_ND.T
        place_QK = np.argpartition(score_QN, -TOP, axis=1)[:, -TOP:]
        order_QK = np.argsort(-np.take_along_axis(score_QN, place_QK, axis=1), axis=1, kind="stable")
        return np.take_along_axis(place_QK, order_QK, axis=1).tolist()

    return by_numpy


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def peak() -> float:
    """MiB; ``ru_maxrss`` would have the parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def memory(side: str, options: argparse.Namespace) -> dict[str, float]:
    """Peaks above the rows, in MiB, as a side goes on."""
    rows_ND = drawn(options.rows, options.width, seed=0)
    before = peak()
    search = search_of(side, rows_ND)
    figures = {"built": peak() - before}
    search(drawn(options.queries, options.width, seed=1))
    figures["searched"] = peak() - before
    if side == "mcse":
        index = build_mcse(rows_ND)
        with tempfile.TemporaryDirectory() as folder:
            index.add_embeddings(rows_ND[:1], texts=["one more"])
            figures["one more added"] = peak() - before
            index.save(folder)
            figures["saved"] = peak() - before
    return figures


def speed(options: argparse.Namespace) -> dict[str, float]:
    """Median CPU seconds of each side, and what an index takes beside searching."""
    rows_ND, query_QD = drawn(options.rows, options.width, seed=0), drawn(options.queries, options.width, seed=1)
    sides = [side for side in SIDES if side != "faiss" or importlib.util.find_spec("faiss")]
    searches = {side: search_of(side, rows_ND) for side in sides}
    found = {side: search(query_QD) for side, search in searches.items()}
    for side in sides:
        equal = sum(a == b for a, b in zip(found[side], found["numpy"], strict=True))
        common = sum(len({*a} & {*b}) for a, b in zip(found[side], found["numpy"], strict=True))
        share = common / (TOP * options.queries)
        print(f"{side}: {equal} of {options.queries} queries as numpy, in its order; recall {share:.3f}", flush=True)
    taken: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for side, search in searches.items():
            taken.setdefault(f"{side}, {options.queries} queries", []).append(seconds(lambda s=search: s(query_QD)))
            taken.setdefault(f"{side}, 1 query", []).append(seconds(lambda s=search: s(query_QD[:1])))
    for name, values in taken.items():
        print(f"{name}: {' '.join(f'{value:.3f}' for value in values)}", flush=True)
    figures = {name: statistics.median(values) for name, values in taken.items()}
    index = build_mcse(rows_ND)
    number = iter(range(10**9, 2 * 10**9))
    figures["adding a row"] = statistics.median(
        seconds(lambda: index.add_embeddings(rows_ND[:1], texts=["new"], ids=[next(number)])) for _ in range(20)
    )
    with tempfile.TemporaryDirectory() as folder:
        figures["saving"] = seconds(lambda: index.save(folder))
        figures["loading"] = seconds(lambda: EmbeddingIndex.load(folder, NoEncoder(rows_ND)))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=SIDES, help="print the memory of one side, and no more")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory, options)))
        return
    figures = speed(options)
    for side in SIDES:
        if side == "faiss" and not importlib.util.find_spec("faiss"):
            continue
        command = [sys.executable, "-m", "benchmarks.exact_search", "--memory", side]
        sizes = [f"--{name}={getattr(options, name)}" for name in ("rows", "width", "queries")]
        said = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True, cwd=Path.cwd()).stdout
        figures |= {f"{side}, MiB when {when}": value for when, value in json.loads(said).items()}
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
