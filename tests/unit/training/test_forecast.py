"""What ``mcse train --dry-run`` says of a run: counted, near what a step takes, and written nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers

from mcse.recipes.launch import build, load_config
from mcse.training import forecast
from mcse.training.forecast import predict_memory
from mcse.training.loop import total_loss
from mcse.training.optim import clip_gradients
from mcse.training.runtime import start_runtime
from tests.fixtures.launch import arguments_of, one_thread, own_cache, run
from tests.fixtures.processes import in_child
from tests.fixtures.tiny_models import build_tiny_bert
from tests.fixtures.tiny_run import build_tiny_run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


def built(tiny, recipe, keys):
    config = load_config(None, arguments_of(tiny, recipe, tiny / "unused", keys))
    return build(config, start_runtime(precision=config.train.precision, seed=0, show_progress=False)), config


def predicted(tiny, recipe, keys):
    with one_thread(), own_cache(tiny):
        made, config = built(tiny, recipe, keys)
        return predict_memory(made, config.train, config.optim, precision=config.train.precision), made


@pytest.mark.parametrize(
    "recipe", ["mlm", "simcse", "diffcse", "mcse", "vse", "elmo", "cove", "word_features", "grounded_words"]
)
def test_a_dry_run_says_what_is_needed_and_writes_nothing(recipe, tiny, tmp_path, capsys):
    assert run(tiny, recipe, tmp_path / "run", {}, "--dry-run") == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    shown = {name: value.strip() for name, value in shown.items()}
    assert shown["steps"] == "6"
    assert shown["should fit"] == "yes"
    _, made = predicted(tiny, recipe, {})
    assert shown["parameters"].startswith(f"{sum(p.numel() for p in made.model.parameters()):,}, ")
    if recipe == "simcse":
        assert shown["negatives a query"] == "7"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("optimizer", "states"), [("adamw", 2), ("adagrad", 1), ("sgd", 0)])
def test_weights_gradients_and_states_are_counted(optimizer, states, tiny):
    memory, made = predicted(tiny, "simcse", {"optim.optimizer": optimizer})
    size = 4 * sum(p.numel() for p in made.model.parameters())
    assert (memory.parameters, memory.gradients, memory.optimizer_states) == (size, size, states * size)


def test_activations_grow_with_the_examples_at_a_time(tiny):
    sizes = {
        name: predicted(tiny, "simcse", {"train.batch_size": 32, **keys})[0].activations
        for name, keys in {
            "whole": {},
            "chunks": {"train.cached_chunk_size": 8},
            "bf16": {"train.precision": "bf16"},
        }.items()
    }
    assert sizes["whole"] == pytest.approx(4 * sizes["chunks"], rel=0.01)
    assert 0.4 < sizes["bf16"] / sizes["whole"] < 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packing", [False, True])
def test_a_few_examples_tell_what_the_whole_batch_keeps(packing, precision, tiny, tmp_path):
    """Counted on the whole batch itself. One sentence, far from the first, is longer than all others."""
    lines = ["the dog runs in the park"] * 64
    lines[40] = " ".join(lines[:4])
    (tiny / "uneven.txt").write_text("\n".join(lines) + "\n")
    wide = build_tiny_bert(tmp_path / "bert", texts=lines, width=64, layers=2, heads=2)
    keys = {"encoder.name_or_path": wide, "data.sentences": "uneven.txt", "train.batch_size": 64}
    keys |= {"train.precision": precision, "encoder.packing": packing, "train.max_steps": 1}
    memory, made = predicted(tiny, "simcse", keys)
    whole = forecast._count(made, made.stream.batch(0), precision)
    assert memory.activations == pytest.approx(whole, rel=0.1)


def test_the_model_and_the_generators_stay_as_they_were(tiny):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with one_thread(), own_cache(tiny):
        made, config = built(tiny, "simcse", {})
        state, mode = torch.get_rng_state(), made.model.training
        predict_memory(made, config.train, config.optim, precision="fp32")
    assert torch.equal(torch.get_rng_state(), state)
    assert made.model.training == mode
    assert not torch.equal(before, state)
    assert all(p.grad is None for p in made.model.parameters())


def step_in_child(folder: Path) -> None:
    """Peak of a step above what was there before it, in bytes, beside what was foretold of that."""

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

    keys = {"encoder.name_or_path": folder / "wide", "train.batch_size": 48, "train.max_steps": 2}
    memory, made = predicted(folder, "simcse", keys)
    batch = made.stream.batch(0)
    made.model.train()
    before = peak()
    total_loss(made.step(made.model, batch), device=torch.device("cpu")).backward()
    clip_gradients(made.model, 1.0)
    made.optimizer.step()
    sys.stdout.write(f"{peak() - before} {memory.total - memory.parameters}")
    sys.stdout.flush()


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "peak"), [(False, 14.6), (True, 12.0)])
def test_a_gpu_took_about_what_is_foretold(packing, peak, tiny, tmp_path):
    """Peaks of an H200 in benchmarks/results.md: SimCSE, BERT base, 512 sentences of up to 32 tokens, bf16.

    The table of words is smaller here, by 0.4 GiB of weights, gradients and states.
    """
    tokenizer = build_tiny_bert(tmp_path / "base", texts=(tiny / "sentences.txt").read_text().split("\n"))
    words = transformers.BertConfig.from_pretrained(tokenizer).vocab_size
    transformers.BertModel(transformers.BertConfig(vocab_size=words)).save_pretrained(tokenizer)
    (tiny / "long.txt").write_text("\n".join([" ".join(["the dog runs in the park"] * 6)] * 512) + "\n")
    keys = {"encoder.name_or_path": tokenizer, "data.sentences": "long.txt", "train.batch_size": 512}
    memory, made = predicted(tiny, "simcse", keys | {"train.precision": "bf16", "encoder.packing": packing})
    assert made.stream.batch(0).query.input_ids_BT.shape == (512, 32)
    assert 1.0 < memory.total / (peak * 2**30) < 1.25


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_a_step_takes_about_what_was_foretold(tiny):
    """On a CPU, within a third; weights are there before the step."""
    build_tiny_bert(tiny / "wide", texts=(tiny / "sentences.txt").read_text().split("\n"), width=512, layers=6, heads=8)
    ended = in_child(step_in_child, tiny)
    assert ended.code == 0, ended.said
    measured, foretold = (int(number) for number in ended.said.split()[-2:])
    assert measured > 5e7
    assert 0.75 < foretold / measured < 1.33, (foretold, measured)
