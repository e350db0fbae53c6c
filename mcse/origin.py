"""What a result came from: the command, the date, versions, the git revision and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from mcse.files import read_lines

PACKAGES = ("mcse", "torch", "transformers", "datasets", "accelerate", "open_clip_torch", "timm", "numpy")
"""Libraries that results depend on."""

COMMAND: ContextVar[str] = ContextVar("COMMAND", default="")
"""The command line that is being carried out, as a shell takes it; empty where Python called."""


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
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


def machine() -> str:
    """The processor, how many of its cores this process may use, the system, and the GPU that torch sees, if any."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in read_lines(cpuinfo) if line.startswith("model name")]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Who has not imported torch used no GPU, and need not wait for the import.
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    return f"{model}, {cores} cores, {platform.system()} {platform.machine()}{gpu}"


def now() -> str:
    """In UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
