"""Batches by two routes: made ahead or asked for, from the token table or straight from the tokenizer."""

from __future__ import annotations

import threading
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from mcse.data.sentences.tokens import tokenise
from mcse.models.text_loading import load_tokenizer
from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.prefetch import Prefetcher
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, one_thread, own_cache
from tests.fixtures.tiny_run import build_tiny_run

MLM = {"loss.mlm_weight": 0.1}
STREAMS = {
    "simcse": ("simcse", {}),
    "simcse supervised": ("simcse", {"data.sentences": "nli.csv"}),
    "simcse with mlm": ("simcse", MLM),
    "mcse": ("mcse", {"data.captions.per_image": "all"}),
    "mcse with mlm": ("mcse", MLM),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def stream_of(tiny, case):
    recipe, keys = STREAMS[case]
    with one_thread(), own_cache(tiny):
        config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
        return method(recipe).build(config, start_runtime(precision="fp32", seed=1)).stream


def flat(batch):
    """A batch's tensors by name."""
    if not is_dataclass(batch):
        return {"": batch}
    return {
        f"{field.name}.{name}": value
        for field in fields(batch)
        for name, value in flat(getattr(batch, field.name)).items()
    }


def same(left, right):
    ours, theirs = flat(left), flat(right)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value is None:
            assert theirs[name] is None
        else:
            assert np.array_equal(value, theirs[name])


@pytest.mark.parametrize("case", STREAMS)
def test_prefetched_batches_are_the_streams_own(case, tiny):
    """Over three epochs; and a batch does not depend on which were asked for before it."""
    stream = stream_of(tiny, case)
    end = 3 * stream.steps_per_epoch + 2
    first = 5
    with Prefetcher(stream_of(tiny, case), first=first, end=end) as prefetcher:
        ahead = [prefetcher.next() for _ in range(first, end)]
    for step in reversed(range(first, end)):
        same(ahead[step - first], stream.batch(step))
    assert not torch.equal(*(next(iter(flat(ahead[i]).values()))[:, :4] for i in (0, 2)))


class Counting:
    """A stream that says what it was asked for, and fails at one step."""

    steps_per_epoch = 10

    def __init__(self, *, bad=None):
        self.asked, self.bad, self.threads = [], bad, set()

    def batch(self, step):
        self.threads.add(threading.current_thread().name)
        self.asked.append(step)
        if step == self.bad:
            raise ValueError(f"image of step {step} is corrupt")
        return step


def test_the_prefetcher_stops_at_the_end_and_makes_batches_elsewhere():
    stream = Counting()
    with Prefetcher(stream, first=3, end=9, depth=2) as prefetcher:
        assert [prefetcher.next() for _ in range(6)] == [3, 4, 5, 6, 7, 8]
    assert stream.asked == [3, 4, 5, 6, 7, 8]
    assert threading.current_thread().name not in stream.threads


def test_an_error_in_a_batch_is_raised_at_its_step_and_not_before():
    with Prefetcher(Counting(bad=2), first=0, end=9) as prefetcher:
        assert [prefetcher.next(), prefetcher.next()] == [0, 1]
        with pytest.raises(ValueError, match="image of step 2 is corrupt"):
            prefetcher.next()


@pytest.mark.parametrize("columns", [1, 3])
def test_the_token_table_gives_what_the_tokenizer_gives(columns, tiny):
    tokenizer = load_tokenizer(str(tiny / "bert"))
    sentences = [*(tiny / "sentences.txt").read_text().splitlines(), "Ünïcode 漢字 … 🐈", "word " * 60, "a"]
    rows = [tuple(sentences[(row + column) % len(sentences)] for column in range(columns)) for row in range(99)]
    with own_cache(tiny):
        table = tokenise(iter(rows), tokenizer, columns=columns, max_length=12, digest=f"round trip {columns}")
        again = tokenise(iter(()), tokenizer, columns=columns, max_length=12, digest=f"round trip {columns}")
    assert len(table) == len(again) == 99
    index = np.random.default_rng(0).permutation(99)
    for column in range(columns):
        expected = tokenizer.ids([rows[row][column] for row in index], max_length=12)
        assert [ids.tolist() for ids in table.ids(index, column=column)] == expected
        assert [ids.tolist() for ids in again.ids(index, column=column)] == expected
        assert max(len(ids) for ids in expected) == 12


def test_the_token_table_keeps_apart_what_differs(tiny):
    tokenizer = load_tokenizer(str(tiny / "bert"))
    rows = [("the dog runs in the park number 3",)] * 4
    with own_cache(tiny):
        short, long = (tokenise(rows, tokenizer, columns=1, max_length=length, digest="one text") for length in (4, 12))
    assert len(short.ids(np.array([0]))[0]) == 4
    assert len(long.ids(np.array([0]))[0]) > 4
