"""What a run writes down: ``config.yaml``, ``run.json``, ``metrics.jsonl``, and trackers where configured."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcse.config import flatten
from mcse.training.runtime import Runtime
from mcse.types import DataFile

_PACKAGES = ("mcse", "torch", "transformers", "datasets", "accelerate", "open_clip_torch", "timm", "numpy")


def write_run_facts(
    folder: Path, *, config_yaml: str, runtime: Runtime, data: Sequence[DataFile], facts: Mapping[str, Any]
) -> None:
    """Writes the resolved config, and versions, git revision, world size and data digests."""
    _replace_text(folder / "config.yaml", config_yaml)
    run = {
        "versions": {"python": platform.python_version(), **_versions()},
        "git_revision": _git_revision(),
        "world_size": runtime.world_size,
        "device": str(runtime.device),
        "precision": runtime.precision,
        "facts": dict(facts),
        "data": [asdict(file) for file in data],
    }
    _replace_text(folder / "run.json", json.dumps(run, indent=2) + "\n")


class Journal:
    """Appends to ``metrics.jsonl`` and to trackers, on the main process alone."""

    def __init__(self, folder: Path, runtime: Runtime, *, name: str, config: Mapping[str, Any]) -> None:
        self.path, self.runtime = folder / "metrics.jsonl", runtime
        self.writes = runtime.rank == 0
        if runtime.accelerator.log_with:
            plain = {key: _plain(value) for key, value in flatten(config).items()}
            runtime.accelerator.init_trackers(name, config=plain)

    def forget_after(self, step: int) -> None:
        """Drops entries later than ``step``: a resumed run writes them again. A line cut short by a kill goes too."""
        if not self.writes or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["step"] <= step:
                kept.append(line + "\n")
        _replace_text(self.path, "".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; a value that is not finite is written as null, which JSON can hold."""
        if not self.writes:
            return
        entry = {"step": step, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        self.runtime.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Lets trackers finish."""
        self.runtime.accelerator.end_training()


def _replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: a kill or a full disk leaves the old one, which resuming reads."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_revision() -> str | None:
    """The checkout this package runs from, with ``-dirty`` if it was changed; ``None`` outside a checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _plain(value: Any) -> int | float | str | bool:
    return value if isinstance(value, int | float | str | bool) else str(value)
