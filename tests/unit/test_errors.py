"""How errors of other libraries are worded in ours."""

import pytest

from mcse.errors import said


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
