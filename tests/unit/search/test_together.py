"""Requests of several threads, done together: each gets its own results, and none waits without end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcse.search.together import BusyError, Together


class Work:
    """Doubles numbers, when it may; remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.batches: list[int] = []

    def __call__(self, numbers):
        self.batches.append(len(numbers))
        assert self.may.wait(30)
        if -1 in numbers:
            raise RuntimeError("no memory")
        return [2 * number for number in numbers]


def started(work: Work, **options) -> Together:
    """With one request at work, so that those to come wait."""
    together = Together(work, ThreadPoolExecutor(1), **options)
    together.submit([0])
    while not work.batches:
        pass
    return together


def test_what_waits_is_done_together_and_each_gets_its_own():
    work = Work()
    together = started(work, at_once=8)
    requests = [[number, 100][: 1 + number % 2] for number in range(10)]
    found = [together.submit(request)[0] for request in requests]
    assert together.waiting == 15
    work.may.set()
    assert [future.result(30) for future in found] == [[2 * number for number in request] for request in requests]
    assert work.batches == [1, 7, 8]
    assert together.waiting == 0


def test_one_that_fails_fails_alone():
    work = Work()
    together = started(work)
    bad, good = together.submit([5, -1])[0], together.submit([6])[0]
    work.may.set()
    assert good.result(30) == [12]
    with pytest.raises(RuntimeError, match="no memory"):
        bad.result(30)
    assert together([7]) == [14]


def test_a_request_that_nobody_waits_for_is_left_out():
    work = Work()
    together = started(work)
    gone, kept = together.submit([1, 2, 3])[0], together.submit([4])[0]
    assert gone.cancel()
    work.may.set()
    assert kept.result(30) == [8]
    assert work.batches == [1, 1]


def test_no_more_wait_than_may():
    work = Work()
    together = started(work, at_once=2, most_waiting=4)
    large = together.submit([1] * 6, [1] * 3)  # none waited
    for parts in ([[1]], [[1], [1]]):
        with pytest.raises(BusyError):
            together.submit(*parts)
    assert together.waiting == 9
    work.may.set()
    assert [part.result(30) for part in large] == [[2] * 6, [2] * 3]
    assert work.batches == [1, 6, 3]
    assert together([3]) == [6]
