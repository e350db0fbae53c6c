"""The thread that writes keeps the order, says errors at the next question, and does nothing after one."""

from __future__ import annotations

import threading

import pytest

from mcse.training.writer import Writer


def test_work_is_done_in_order_and_leaving_waits_for_it() -> None:
    done: list[int] = []
    gate = threading.Event()
    with Writer() as writer:
        writer.submit("first", lambda: done.append(int(gate.wait(20))))
        writer.submit("second", lambda: done.append(2))
        writer.check()
        assert done == [], "a check waits for nothing"
        gate.set()
    assert done == [1, 2]


def test_waiting_for_one_waits_for_no_later_one() -> None:
    gate = threading.Event()
    with Writer() as writer:
        writer.submit("first", lambda: None)
        writer.submit("second", lambda: gate.wait(20) and None)
        writer.wait("first", "never given")
        gate.set()
        writer.wait()


def test_after_an_error_nothing_is_written_and_the_error_is_raised_once() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with Writer() as writer:
        writer.submit("bad", fail)
        writer.submit("later", lambda: done.append("later"))
        writer._jobs["later"].result()
        with pytest.raises(OSError, match="No space"):
            writer.check()
        writer.submit("much later", lambda: done.append("much later"))
        writer.wait()
    assert done == []
