"""mcse embed, killed again and again, on one process and on two: the files of one undisturbed run."""

from __future__ import annotations

import json
import os
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from mcse.commands import embed
from mcse.commands.main import main
from mcse.search.embedding_files import read_embeddings
from tests.fixtures.processes import free_port, ready_server, world_of
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert

pytestmark = pytest.mark.slow

ROWS, A_FILE, KILLS = 400, 20, 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, sentences of many lengths, and what an undisturbed run makes of them."""
    place = tmp_path_factory.mktemp("embed")
    build_tiny_bert(place / "model")
    draw = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    lines = (" ".join(draw.choice(words, size=draw.integers(1, 30))) for _ in range(ROWS - 10))
    (place / "lines.txt").write_text("".join(f"{line}\n" for line in [*lines, *TEXTS]))
    [alone] = start(place, place / "straight", 1)
    alone.join(120)
    assert alone.exitcode == 0
    return place


def start(place: Path, output: Path, processes: int, *, pause: float = 0.0) -> list[ForkServerProcess]:
    port = free_port()
    worlds = [world_of(number, processes, port) if processes > 1 else {} for number in range(processes)]
    started = [ready_server().Process(target=_embed, args=(place, output, world, pause)) for world in worlds]
    for process in started:
        process.start()
    return started


def _embed(place: Path, output: Path, world: dict[str, str], pause: float) -> None:
    os.environ |= world
    torch.set_num_threads(1)
    write = embed.write_file

    def slowly(*given):
        time.sleep(pause)
        return write(*given)

    embed.write_file = slowly
    arguments = ["--input", str(place / "lines.txt"), "--output", str(output), "--rows-a-file", str(A_FILE)]
    sys.exit(main(["embed", str(place / "model"), "--pooling", "mean", *arguments]))


def noted(output: Path) -> int:
    return len(list(output.glob("done-*.json")))


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_three_times_it_makes_what_one_undisturbed_run_makes(place, tmp_path, processes):
    output, found = tmp_path / "out", [0]
    for _ in range(KILLS):
        started = start(place, output, processes, pause=0.05)
        while noted(output) < found[-1] + 3:
            assert all(process.is_alive() for process in started)
            time.sleep(0.01)
        for process in started:
            process.kill()
            process.join()
        found.append(noted(output))
    assert found == sorted(set(found))
    assert found[-1] < ROWS // A_FILE
    for process in start(place, output, processes):
        process.join(120)
        assert process.exitcode == 0
    (ids, rows), (_, straight) = (whole(folder) for folder in (output, place / "straight"))
    assert ids == list(range(ROWS))
    np.testing.assert_allclose(rows, straight, rtol=0, atol=1e-6)
    facts, undisturbed = (json.loads((folder / "embed.json").read_text()) for folder in (output, place / "straight"))
    for one in (facts, undisturbed):
        one["files"] = [(file["file"], file["rows"]) for file in one["files"]]
    assert facts == undisturbed
    assert not list(output.glob("done-*"))
    assert not list(output.glob("*.partial"))


def whole(folder: Path) -> tuple[list, np.ndarray]:
    parts = list(read_embeddings(folder))
    return [name for ids, _ in parts for name in ids], np.concatenate([rows for _, rows in parts])


def test_where_one_of_two_is_killed_the_other_says_so(place, tmp_path):
    output = tmp_path / "out"
    first, second = start(place, output, 2, pause=0.05)
    while noted(output) < 2:
        time.sleep(0.01)
    second.kill()
    first.join(120)
    assert first.exitcode == 1
    assert noted(output) >= 2


def test_two_cannot_work_in_one_folder(place, tmp_path):
    output = tmp_path / "out"
    [first] = start(place, output, 1, pause=0.05)
    while noted(output) < 1:
        time.sleep(0.01)
    [second] = start(place, output, 1)
    second.join(120)
    assert second.exitcode == 2
    first.join(120)
    assert first.exitcode == 0
    np.testing.assert_allclose(whole(output)[1], whole(place / "straight")[1], rtol=0, atol=1e-6)
