"""What a process does first: what the package imports, and bfloat16 on processors that announce more than they can."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from mcse.cpu import ensure_bfloat16
from tests.fixtures.processes import in_child


def test_importing_the_package_loads_no_torch() -> None:
    code = "import mcse, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def product() -> None:
    """On the instructions that oneDNN chooses itself, at its first product of this process."""
    del os.environ["ONEDNN_MAX_CPU_ISA"]  # set by tests/conftest.py
    ensure_bfloat16()
    matrix = torch.ones(64, 64, dtype=torch.bfloat16)
    assert torch.nn.functional.linear(matrix, matrix)[0, 0] == 64


def test_a_fresh_process_survives_bfloat16_on_this_very_processor() -> None:
    ended = in_child(product)
    assert ended.code == 0, ended.said
