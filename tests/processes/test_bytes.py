r"""What a step communicates, counted where every byte of it leaves: at torch.distributed's collectives.

Per step and process, in float32, with B rows a process, W processes and N = B W, D the text head's width, H the joint
width, P the parameters that train, and L loss terms:

    simcse          rows gathered   4 B D forward  + 4 N D backward       gradients 4 P       counts 4 L
    mcse, paired    and             4 B H forward  + 4 N H backward       and ids 8 B
    supervised      and, for the contradictions, 4 B D + 4 N D once more

"Forward" is what a process gives to all_gather, "backward" what it gives to the sum of the rows' gradients, and
"gradients" what DDP gives to its sums. So a step grows with the rows, N (D + H), and with the parameters, and never
with the logits, of which a process has B N.
On the wire a ring moves of an all_gather (W - 1) B D, and of a sum 2 (W - 1)/W times what is given to it.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mcse.recipes import method
from mcse.recipes.launch import load_config
from mcse.training.loop import total_loss
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, own_cache
from tests.fixtures.processes import run_processes
from tests.fixtures.tiny_run import build_tiny_run

WORLD, WIDTH, JOINT = 2, 32, 20
BATCHES = (4, 12)
CASES = {
    "simcse": ("simcse", {}, 0),
    "simcse supervised": ("simcse", {"data.sentences": "nli.csv"}, 0),
    "mcse paired": ("mcse", {"loss.joint_dim": JOINT}, 2),
    "mcse text alone": ("mcse", {"loss.joint_dim": JOINT}, 1),
}
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "all_gather_object",
    "broadcast_object_list",
)


class Counted:
    """Every call of a collective while it is open: its name, and the bytes that this process gives to it."""

    def __init__(self):
        self.given, self._plain = [], {}

    def __enter__(self):
        for name in COLLECTIVES:
            self._plain[name] = getattr(dist, name)
            setattr(dist, name, self._counting(name, self._plain[name]))
        return self

    def __exit__(self, *_):
        for name, plain in self._plain.items():
            setattr(dist, name, plain)

    def _counting(self, name, plain):
        def call(*arguments, **keys):
            # all_gather(outputs, input), reduce_scatter(output, inputs) and the like name the input second.
            second = name.startswith(("all_gather", "all_to_all", "reduce_scatter"))
            self.given.append((name, sized(arguments[1 if second else 0])))
            return plain(*arguments, **keys)

        return call


def sized(value):
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(sized, value)) if isinstance(value, list) else -1


def step_bytes(tiny, case, batch_size):
    """The collectives of the second step of a run, and what DDP sums."""
    recipe, keys, step = CASES[case]
    config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys | {"train.batch_size": batch_size}))
    runtime = start_runtime(precision="fp32", seed=config.seed)
    built = method(recipe).build(config, runtime)
    model = runtime.accelerator.prepare_model(built.model)
    assert isinstance(model, DistributedDataParallel)
    gradients = []

    def hook(_, bucket):
        gradients.append(sized(bucket.buffer()))
        work = dist.distributed_c10d._get_default_group().allreduce([bucket.buffer().div_(WORLD)])
        return work.get_future().then(lambda done: done.value()[0])

    model.register_comm_hook(None, hook)
    for _ in range(2):  # the first compares shapes, once
        gradients.clear()
        with Counted() as counted:
            batch = built.stream.batch(step)
            terms = built.step(model, batch)
            total_loss(terms, device=runtime.device).backward()
    return {
        "calls": counted.given,
        "gradients": sum(gradients),
        "parameters": sum(p.numel() for p in built.model.parameters() if p.requires_grad),
        "terms": len(terms),
    }


def everything(tiny):
    with own_cache(tiny):
        return {(case, size): step_bytes(tiny, case, size) for case in CASES for size in BATCHES}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    tiny = build_tiny_run(tmp_path_factory.mktemp("tiny"))
    assert json.loads((tiny / "bert" / "config.json").read_text())["hidden_size"] == WIDTH
    return run_processes(everything, WORLD, tiny)


def formula(case, batch_size, terms):
    """Bytes given by a process, by collective, as the docstring says; gradients apart."""
    rows = 4 * batch_size * WIDTH
    gathered, summed = [rows], [WORLD * rows]
    if case == "simcse supervised":
        gathered, summed = gathered * 2, summed * 2
    if case == "mcse paired":
        gathered += [4 * batch_size * JOINT, 8 * batch_size]
        summed += [WORLD * 4 * batch_size * JOINT]
    return Counter(gathered), Counter([*summed, 4 * terms])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", BATCHES)
def test_a_step_communicates_rows_and_gradients_and_nothing_else(case, batch_size, measured):
    for process in measured:
        found = process[case, batch_size]
        gathered, summed = formula(case, batch_size, found["terms"])
        assert {name for name, _ in found["calls"]} == {"all_gather", "all_reduce"}
        assert Counter(size for name, size in found["calls"] if name == "all_gather") == gathered
        assert Counter(size for name, size in found["calls"] if name == "all_reduce") == summed
        assert found["gradients"] == 4 * found["parameters"]
        assert found["terms"] == (2 if case == "mcse paired" else 1)


@pytest.mark.parametrize("case", CASES)
def test_three_times_the_batch_is_three_times_the_rows(case, measured):
    """Logits would be nine times as many."""
    small, large = (measured[0][case, size] for size in BATCHES)
    counts = 4 * small["terms"]
    rows = [sum(size for _, size in found["calls"]) - counts for found in (small, large)]
    assert rows[1] == 3 * rows[0] > 0
    assert large["gradients"] == small["gradients"]
    logits = 4 * BATCHES[1] * BATCHES[1] * WORLD
    assert all(size != logits for _, size in large["calls"])
