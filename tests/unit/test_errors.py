"""How errors of other libraries are worded in ours."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from mcse.errors import in_words, is_out_of_memory, printable, said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("\n first line \nsecond"), "first line"),
        (EOFError(), "EOFError"),
        (NotImplementedError("  \n"), "NotImplementedError"),
    ],
)
def test_the_first_line_or_the_class(error, expected):
    assert said(error) == expected


@pytest.mark.parametrize(
    ("ask", "is_memory"),
    [
        (lambda: np.empty(10**16), True),
        (lambda: torch.empty(10**16), True),
        (lambda: bytearray(10**17), True),
        (lambda: torch.ones(2) @ torch.ones(3), False),
        (lambda: Path("/nowhere").stat(), False),
    ],
)
def test_the_libraries_own_words_for_too_little_memory_are_known(ask, is_memory):
    with pytest.raises((MemoryError, RuntimeError, OSError)) as raised:
        ask()
    assert is_out_of_memory(raised.value) == is_memory


def test_cuda_out_of_memory_is_known():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"))


def test_an_error_of_another_library_has_its_class_in_front():
    assert in_words(ValueError("a\n  b")) == "a b"
    assert in_words(KeyError("weights")) == "KeyError: 'weights'"
    assert in_words(EOFError()) == "EOFError: EOFError"


def test_nothing_that_steers_a_terminal_is_left():
    every = "".join(map(chr, range(0x3000)))
    left = printable(every + "\udcff")
    assert not [sign for sign in left if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\t\n"]
    assert not set("\u202e\u2028\u2066\x9b\x1b\r") & set(left)
    assert printable("naïve 日本 \t\n😀 a\u00a0b") == "naïve 日本 \t\n😀 a\u00a0b"
