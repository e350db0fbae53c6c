"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from tests.fixtures import quick

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
# Some virtual machines announce AMX and kill who uses it; products without it are the same on all.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
# absl, which openvino imports, keeps the sys.stderr of that moment, and closes it when uvicorn sets up its logging. If
# it were pytest's, every later test of the process would fail.
with redirect_stderr(sys.__stderr__), suppress(ImportError):
    import absl.logging  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent
SLOW_FOLDERS = tuple(REPOSITORY / "tests" / name for name in ("parity", "processes", "recipes"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all of some folders."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in SLOW_FOLDERS):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is not marked slow starts no other Python."""
    quick.runs = item.get_closest_marker("slow") is None
    try:
        return (yield)
    finally:
        quick.runs = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that is not marked slow takes a second or so."""
    start = time.process_time()
    done = yield
    seconds = time.process_time() - start
    if quick.runs and seconds > quick.MOST_SECONDS:
        pytest.fail(f"took {seconds:.1f} seconds of a core: mark it slow, or make it smaller", pytrace=False)
    return done


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Results kept by the tests are nobody else's."""
    os.environ["MCSE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def equal_views() -> Iterator[None]:
    """Lets sentences be their own positives without dropout, so that two routes can be compared."""
    from tests.fixtures.tiny_run import allowing_equal_views

    with allowing_equal_views():
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Benchmark data beside the project; skipped with the reason where absent."""
    folder = Path(os.environ.get("MCSE_DATA", REPOSITORY.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    reason = f"no real data at {folder} (set MCSE_DATA)"
    if os.environ.get("MCSE_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
