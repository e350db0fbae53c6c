"""What the processor can really do, and how its memory is handed back.

Some virtual machines announce AMX and then kill the process that uses it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal

import torch

logger = logging.getLogger(__name__)

_ISA = "ONEDNN_MAX_CPU_ISA"
_WITHOUT_AMX = "AVX512_CORE_BF16"


@functools.cache
def ensure_bfloat16() -> None:
    """Leaves AMX out of bfloat16 products where it does not work; call before the first of them on a CPU.

    Raises:
        ValueError: The products kill the process, and it is too late to choose others.
    """
    if _survives_bfloat16():
        return
    os.environ[_ISA] = _WITHOUT_AMX
    if not _survives_bfloat16():
        # oneDNN reads the variable once, at its first product of any kind.
        raise ValueError(
            f"bfloat16 products are illegal instructions on this processor; start the command with {_ISA}="
            f"{_WITHOUT_AMX}, or choose 32-bit floats"
        )
    logger.warning("this processor announces AMX but cannot run it: bfloat16 goes without (%s=%s)", _ISA, _WITHOUT_AMX)


def return_freed_memory(least: int = 2**20) -> None:
    """Lets tensors of ``least`` bytes or more go back to the system as soon as they are freed, under glibc.

    It keeps what was freed for later otherwise; parts of a batch, each of another size, do not fit into the holes that
    earlier ones left, and the process grows to twice what is ever in use. Costs fresh pages for every such tensor.
    """
    m_mmap_threshold = -3
    try:
        ctypes.CDLL(None).mallopt(m_mmap_threshold, least)
    except (OSError, AttributeError):
        return  # another C library, with habits of its own


def _survives_bfloat16() -> bool:
    """Tries one product in a forked child, which may be killed in this process's place."""
    if not hasattr(os, "fork"):
        return True
    child = os.fork()
    if child == 0:
        try:
            matrix = torch.ones(64, 64, dtype=torch.bfloat16)
            torch.set_num_threads(1)  # the parent's threads do not exist in a child
            torch.nn.functional.linear(matrix, matrix)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGILL)
