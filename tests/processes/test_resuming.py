"""Two processes, killed in the middle of a shard and of a streamed file: nothing is drawn twice, nothing left out.

One run of MCSE mixes both kinds: sentences are streamed, captions and feature rows come out of tars.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from multiprocessing import ProcessError

import pytest
import torch.multiprocessing as mp

from mcse import distributed
from mcse.recipes import method
from mcse.recipes.launch import load_config, train
from mcse.training.journal import Journal
from mcse.training.loop import Loop
from mcse.types import PairBatch
from tests.fixtures.launch import arguments_of, assert_same_run, entries, own_cache
from tests.fixtures.processes import run_processes
from tests.fixtures.tiny_run import build_tiny_run
from tests.fixtures.tiny_shards import shards_of_tiny_run

BATCH, WORLD = 4, 2
EXAMPLES = 40  # sentences, and as many pairs: an epoch is 5 whole batches of each
STEPS = 20  # two epochs
KILLED_AT, SAVED_AT, SAVED_EVERY = 8, 6, 3
KEYS = {
    "data.captions": {"shards": "shards/pairs-{000..003}.tar", "window": 16, "per_image": "all"},
    "data.images": {"shards": "features"},
    "controls.num_pairs": EXAMPLES,
    "train.batch_size": BATCH,
    "train.max_steps": STEPS,
    "train.eval_steps": STEPS,
    "train.save_steps": SAVED_EVERY,
    "train.log_steps": 1,
    "train.resume": "auto",
}
SOURCES = {"files of their own": "even/*.txt", "files in common": "odd/*.txt"}


def noting(built, folder, *, killed_at):
    """Writes down what every step of this process is given, and at some step dies without a word."""
    log = (folder / f"seen{distributed.rank()}.jsonl").open("a")

    def step(model, batch):
        pairs = isinstance(batch, PairBatch)
        tokens = (batch.caption if pairs else batch.query).input_ids_BT.tolist()
        ids = [[token for token in row if token] for row in tokens]
        print(json.dumps({"pairs": pairs, "ids": ids}), file=log, flush=True)
        return built.step(model, batch)

    plain = Loop._step

    def mortal(self, *rest):
        if self.progress.step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, *rest)

    Loop._step = mortal
    return replace(built, step=step)


def work(tiny, folder, source, killed_at):
    Journal.close = lambda self: None  # it would end the process group, and the next part needs it
    folder.mkdir(parents=True, exist_ok=True)
    plain, step = method("mcse").build, Loop._step
    method("mcse").build = lambda config, runtime: noting(plain(config, runtime), folder, killed_at=killed_at)
    try:
        keys = KEYS | {"data.sentences": {"stream": source, "window": 16}}
        config = load_config(None, arguments_of(tiny, "mcse", folder / "run", keys))
        with own_cache(tiny):
            return train(config, overwrite=False, show_progress=False)
    finally:
        method("mcse").build, Loop._step = plain, step


def straight_and_killed(tiny, output):
    for name, source in SOURCES.items():
        assert work(tiny, output / name / "straight", source, None) == 0
    first = next(iter(SOURCES))
    return work(tiny, output / first / "killed", SOURCES[first], KILLED_AT)


def killed(tiny, output, name):
    return work(tiny, output / name / "killed", SOURCES[name], KILLED_AT)


def resumed(tiny, output):
    return [work(tiny, output / name / "killed", source, None) for name, source in SOURCES.items()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    # Sentences that a reader can tell apart by their tokens alone.
    lines = sorted({" ".join([animal, verb, place]) for animal in "abcdefgh" for verb in "ijklm" for place in "opqrst"})
    lines = lines[:EXAMPLES]
    for name, ends in (("even", (0, 9, 20, 23, 40)), ("odd", (0, 9, 20, 40))):
        (folder / name).mkdir()
        # The parts of either process hold 20 sentences: 5 whole batches.
        for part, (start, end) in enumerate(pairwise(ends)):
            order = {"even": (0, 2, 1, 3)}.get(name, range(9))[part]
            (folder / name / f"{order}.txt").write_text("\n".join(lines[start:end]) + "\n")
    captions = ["image,caption", *(f"{n // 2:04d}.png,{a} {b} {c}" for n, (a, b, c) in enumerate(triples()[:96]))]
    (folder / "captions.csv").write_text("\n".join(captions) + "\n")
    shards_of_tiny_run(folder)
    return folder


def triples():
    return [(a, b, c) for a in "abcdefgh" for b in "uvwxyz" for c in "opqrst"]


@pytest.fixture(scope="module")
def output(tiny, tmp_path_factory):
    """The runs' folders, after two kills of both processes and one start that goes on with what they left."""
    output = tmp_path_factory.mktemp("runs")
    first, second = SOURCES
    with pytest.raises((mp.ProcessExitedException, ProcessError), match="SIGKILL"):
        run_processes(straight_and_killed, WORLD, tiny, output)
    with pytest.raises((mp.ProcessExitedException, ProcessError), match="SIGKILL"):
        run_processes(killed, WORLD, tiny, output, second)
    for name in (first, second):
        state = max((output / name / "killed" / "run" / "state").iterdir())
        assert state.name == f"step-{SAVED_AT:08d}"
        places = json.loads((state / "state.json").read_text())["stateful"]["stream"]
        # In the middle of a window that began in the middle of a file, or will end there.
        assert [(place["step"], place["epoch"]) for place in places] == [(3, 0)] * WORLD
        assert all(0 < place["used"] < 16 for place in places)
    assert run_processes(resumed, WORLD, tiny, output) == [[0, 0], [0, 0]]
    return output


def seen(folder, rank):
    return [json.loads(line) for line in (folder / f"seen{rank}.jsonl").read_text().splitlines()]


def ids(steps, *, pairs):
    return [tuple(row) for step in steps if step["pairs"] == pairs for row in step["ids"]]


@pytest.mark.parametrize("name", SOURCES)
def test_the_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, output):
    folder = output / name
    assert_same_run(folder / "straight" / "run", folder / "killed" / "run")
    assert len(entries(folder / "killed" / "run")) >= STEPS
    for rank in range(WORLD):
        whole, parts = seen(folder / "straight", rank), seen(folder / "killed", rank)
        assert len(whole) == STEPS
        # Some steps and a kill; then on from the last save.
        assert len(parts) == KILLED_AT + STEPS - SAVED_AT
        assert parts[SAVED_AT:KILLED_AT] == parts[KILLED_AT : 2 * KILLED_AT - SAVED_AT]
        assert parts[:SAVED_AT] + parts[KILLED_AT:] == whole


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("pairs", [False, True], ids=["streamed sentences", "shards"])
def test_over_an_epoch_both_processes_draw_everything_once(name, pairs, output):
    """Of the run that was killed: its last steps are of the second start, which saw nothing of the first."""
    per_process = []
    for rank in range(WORLD):
        steps = seen(output / name / "killed", rank)
        used = ids(steps[:SAVED_AT] + steps[KILLED_AT:], pairs=pairs)
        per_process.append([used[: EXAMPLES // WORLD], used[EXAMPLES // WORLD :]])
    everything = {row for process in per_process for epoch in process for row in epoch}
    assert len(everything) == EXAMPLES
    for epoch in range(2):
        drawn = [process[epoch] for process in per_process]
        assert set(drawn[0]).isdisjoint(drawn[1])
        assert Counter(drawn[0] + drawn[1]) == Counter(everything)
    assert per_process[0][0] != per_process[0][1], "epochs differ in their order"
