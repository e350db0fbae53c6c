"""Starts real gloo processes and brings back what each of them returned."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.fixtures.launch import ready_server


def run_processes(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """``function(*arguments)`` in each of ``world_size`` processes of one gloo world; results in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        context = (function, world_size, arguments, folder, _free_port())
        ready_server()
        mp.start_processes(_work, args=context, nprocs=world_size, start_method="forkserver")
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world_size)]


def _work(
    rank: int, function: Callable[..., Any], world_size: int, arguments: tuple[Any, ...], folder: str, port: int
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    # Processes that no longer agree wait for each other; the test should fail then, not hang.
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=120))
    try:
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(function(*arguments)))
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
