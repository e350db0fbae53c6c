"""A cache for work that shall leave nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets


@contextmanager
def scratch_cache() -> Iterator[None]:
    """While the block runs, what was computed once is found in the cache, and what is not there is made beside it."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    with tempfile.TemporaryDirectory() as scratch:
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
