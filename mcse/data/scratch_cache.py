"""A cache for work that leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets


@contextmanager
def scratch_cache() -> Iterator[None]:
    """While the block runs, what was computed once is found in the cache, and what is not there is made beside it.

    Datasets of the hub are found, too: without a network they are nowhere else.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    with tempfile.TemporaryDirectory() as scratch:
        for entry in cache.glob("*"):
            if entry.name != "mcse":
                (Path(scratch) / entry.name).symlink_to(entry)
        for name in ("mcse", "mcse/shards"):
            (Path(scratch) / name).mkdir()
            for entry in (cache / name).glob("*"):
                if entry.name != "shards":
                    (Path(scratch) / name / entry.name).symlink_to(entry)
        datasets.config.HF_DATASETS_CACHE = Path(scratch)
        try:
            yield
        finally:
            datasets.config.HF_DATASETS_CACHE = cache
