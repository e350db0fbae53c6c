"""What a process of its own may measure: the memory that a store of very many rows costs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mcse.data.images.features import open_features
from tests.fixtures.processes import in_child

ROWS, WIDTH = 250_000, 512


def read_many(path: Path) -> None:
    def mib(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    peak, own = mib("VmHWM"), mib("RssAnon")
    store = open_features(path)
    opened = mib("VmHWM") - peak
    draw = np.random.default_rng(0)
    for _ in range(20):
        store.rows(draw.integers(len(store), size=64))
    last = store.rows(np.array([len(store) - 1]))[0, 0]
    sys.stdout.write(f"{len(store)} {store.width} {last} {opened} {mib('RssAnon') - own}")
    sys.stdout.flush()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_a_store_of_very_many_rows_costs_no_memory(tmp_path: Path) -> None:
    """Half a gigabyte of rows, as a file with a hole: looked through when it is opened, and read at random.

    What is read at random stays in the page cache, and the kernel counts it to whoever maps it, but takes it back when
    somebody needs memory. So of the reading the process's own memory is what is looked at.
    """
    path = tmp_path / "many.npy"
    with path.open("wb") as file:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (ROWS, WIDTH)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.seek(file.tell() + (ROWS - 1) * WIDTH * 4)
        file.write(np.full(WIDTH, 7, dtype=np.float32).tobytes())
    assert path.stat().st_size > 5e8
    ended = in_child(read_many, path)
    assert ended.code == 0, ended.said
    count, width, last, opened_mib, own_mib = ended.said.split()
    assert (int(count), int(width), float(last)) == (ROWS, WIDTH, 7.0)
    assert 0 < float(opened_mib) < 200
    assert float(own_mib) < 100
