"""What tests/conftest.py keeps from one test to the next."""

from __future__ import annotations

import sys

import pytest


def test_no_logging_handler_closes_what_pytest_captures():
    absl = pytest.importorskip("absl.logging")
    assert absl.get_absl_handler().python_handler.stream is sys.__stderr__
