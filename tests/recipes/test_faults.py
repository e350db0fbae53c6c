"""What goes wrong while training: stops, kills, full disks, damaged files, NaN. Nothing good is ever lost."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mcse import files
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.files import _own_draft
from mcse.recipes import export, method
from mcse.training.loop import Loop
from tests.fixtures.launch import (
    assert_same_run,
    entries,
    run,
    tensors,
)
from tests.fixtures.tiny_run import build_tiny_run

RESUMABLE = {
    "train.resume": "auto",
    "train.max_steps": 24,
    "train.eval_steps": 6,
    "train.save_steps": 3,
    "train.log_steps": 1,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("straight")
    assert run(tiny, "mcse", folder, RESUMABLE) == 0
    return folder


def states(output):
    return sorted(path.name for path in (output / "state").iterdir())


def lines(output):
    path = output / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


# --- signals


def test_a_second_interrupt_ends_at_once(tiny, tmp_path, monkeypatch):
    plain = Loop._step

    def interrupted(self, *rest):
        plain(self, *rest)
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Loop, "_step", interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    assert run(tiny, "simcse", tmp_path / "run") == 130
    assert not (tmp_path / "run" / "last").exists()
    assert {number: signal.getsignal(number) for number in before} == before, "the caller's handlers come back"


# --- kills


def test_killed_before_the_first_save_starts_over_cleanly(tiny, straight, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    shutil.copytree(straight / "best", output / "best")
    text = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    (output / "metrics.jsonl").write_text("".join(text[:2]) + '{"step": 3, "lo')  # cut short by the kill
    (output / "state" / "step-00000003.partial").mkdir(parents=True)
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)
    assert states(output) == ["step-00000021", "step-00000024"]


@pytest.mark.parametrize("part", ["best", "last", "state/step-00000024"])
def test_killed_between_the_two_renames_loses_nothing(part, tiny, straight, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    folder = output / part
    folder.rename(folder.with_name(folder.name + ".old"))
    folder.with_name(folder.name + ".partial").mkdir()
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)
    assert not list(output.rglob("*.old")) + list(output.rglob("*.partial"))


# --- states written by a thread


@pytest.fixture
def behind(monkeypatch):
    """Lets each state be written when training is two steps further; notes how far training had then come."""
    import mcse.training.state as state

    step, write, at = Loop._step, state.save_file, {"step": 0}

    def counted(self):
        step(self)
        at["step"] = self.progress.step

    def late(content, path):
        saved = int(path.parent.name.partition(".")[0].removeprefix("step-"))
        end = time.monotonic() + (20 if saved < RESUMABLE["train.max_steps"] else 0)
        while at["step"] < saved + 2 and time.monotonic() < end:
            time.sleep(0.001)
        at.setdefault(saved, at["step"])
        write(content, path)

    monkeypatch.setattr(Loop, "_step", counted)
    monkeypatch.setattr(state, "save_file", late)
    return at


def test_a_state_is_that_of_its_step_though_training_goes_on(behind, tiny, straight, tmp_path):
    output = tmp_path / "run"
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert all(behind[step] >= min(step + 2, 24) for step in range(3, 25, 3))
    assert_same_run(straight, output)
    assert states(output) == states(straight)
    for name in states(straight):
        digests = [(folder / "state" / name / "digests.json").read_text() for folder in (straight, output)]
        assert digests[0] == digests[1], name


def test_a_signal_waits_for_the_state_that_is_being_written(behind, tiny, straight, tmp_path, monkeypatch):
    output, plain = tmp_path / "run", Loop._step

    def stopped(self):
        plain(self)
        if self.progress.step == 5:
            signal.raise_signal(signal.SIGTERM)
            behind["step"] = 99  # nothing need be waited for any more

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopped)
        assert run(tiny, "mcse", output, RESUMABLE | {"train.save_steps": 4}) == 143
    assert states(output) == ["step-00000004", "step-00000005"]
    assert (output / "last" / "mcse.json").is_file()
    assert not list(output.rglob("*.partial"))
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)


def test_a_best_model_that_cannot_be_kept_is_in_no_state(tiny, tmp_path, monkeypatch, capsys):
    """The disk is full when files are forced to it, which is when the loop is steps further."""
    plain, output = files.sync_folder, tmp_path / "run"

    def full(folder):
        if folder.name.startswith("best"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(folder)

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", full)
        assert run(tiny, "mcse", output, RESUMABLE | {"train.eval_steps": 3}) == 1
    assert f"{output / 'best'} cannot be written: No space left on device" in capsys.readouterr().err
    assert not (output / "state").exists()
    assert not list(output.rglob("*.partial"))


# --- full disks, folders that cannot be written


def fill_disk(monkeypatch, *, at_export):
    """The n-th export writes half a checkpoint and finds the disk full."""
    plain, count = export.Exporter.__call__, iter(range(1, 100))

    def full(self, folder, scores):
        plain(self, folder, scores)
        if next(count) >= at_export:
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))

    monkeypatch.setattr(export.Exporter, "__call__", full)


def test_a_full_disk_leaves_the_previous_best(tiny, tmp_path, monkeypatch, capsys):
    output = tmp_path / "run"
    # Scores that only rise, so that every evaluation exports.
    keys = {"train.eval_steps": 2, "train.select_by": "dev.spearman", "train.resume": "auto"}
    rising = iter(range(100))
    plain = method("simcse").build

    def build(config, runtime):
        built = plain(config, runtime)
        (evaluator,) = built.evaluators

        def judge():
            scores = evaluator()
            return scores | {"dev.spearman": replace(scores["dev.spearman"], value=float(next(rising)))}

        return replace(built, evaluators=(judge,))

    monkeypatch.setattr(method("simcse"), "build", build)
    with monkeypatch.context() as patch:
        fill_disk(patch, at_export=2)
        assert run(tiny, "simcse", output, keys) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(output.rglob("*.partial"))
    rows = SentenceEncoder.from_pretrained(str(output)).encode(["the dog runs"])
    assert np.isfinite(rows).all()
    progress = json.loads((output / "state" / "step-00000002" / "state.json").read_text())["progress"]
    assert progress["best_step"] == 2
    assert run(tiny, "simcse", output, keys) == 0
    assert [entry["step"] for entry in entries(output) if "loss" in entry] == [2, 4, 6]


def test_a_full_disk_while_saving_the_state_keeps_the_state_before(tiny, straight, tmp_path, monkeypatch, capsys):
    output = tmp_path / "run"
    import mcse.training.state as state

    plain = state.save_file

    def full(content, path):
        if "step-00000006" in str(path) and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        plain(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", full)
        assert run(tiny, "mcse", output, RESUMABLE) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert states(output) == ["step-00000003"]
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)


def test_an_output_folder_that_cannot_be_made_is_named(tiny, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(tiny, "simcse", tmp_path / "file" / "run") == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    if os.geteuid() == 0:
        return  # root may write anywhere
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert run(tiny, "simcse", locked / "run") == 1
    assert str(locked / "run") in capsys.readouterr().err


def refuse_writing(monkeypatch, place, number):
    """Whatever would write to a path that ends in ``place`` fails with the system's error; root is refused nothing."""

    def guard(function, *, writes=lambda *_, **__: True):
        def guarded(path, *rest, **named):
            if str(path).endswith(place) and writes(*rest, **named):
                raise OSError(number, os.strerror(number), str(path))
            return function(path, *rest, **named)

        return guarded

    def opens_to_write(mode="r", *_, **__):
        return mode[0] in "wax"

    monkeypatch.setattr(io, "open", guard(io.open, writes=opens_to_write))
    for name in ("mkdir", "rename", "replace"):
        monkeypatch.setattr(os, name, guard(getattr(os, name)))


WRITTEN = {
    "run": errno.EACCES,
    "config.yaml.PID.partial": errno.EROFS,
    "run.json.PID.partial": errno.EACCES,
    "metrics.jsonl": errno.ENOSPC,
    "metrics.jsonl.PID.partial": errno.EROFS,
    "state/step-00000006.partial": errno.EROFS,
    "best.partial": errno.EDQUOT,
    "last.partial": errno.EACCES,
}
"""Everything that a run writes into its folder, by the path that is refused first."""


@pytest.mark.parametrize("place", WRITTEN)
def test_what_cannot_be_written_is_named_and_nothing_is_lost(place, tiny, straight, tmp_path, monkeypatch, capsys):
    output = tmp_path / "run"
    if place.startswith("metrics.jsonl."):
        shutil.copytree(straight, output)
    own = _own_draft(Path("x")).name.removeprefix("x.").removesuffix(".partial")
    with monkeypatch.context() as patch:
        refuse_writing(patch, place.replace("PID", own), WRITTEN[place])
        assert run(tiny, "mcse", output, RESUMABLE) == 1
    message = capsys.readouterr().err
    last = message.strip().splitlines()[-1]
    assert last.startswith("mcse train: ")
    assert os.strerror(WRITTEN[place]) in last
    assert str(output) in last
    assert "Traceback" not in message
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)


def test_a_disk_that_is_really_full_loses_nothing(tiny, straight, tmp_path, capsys):
    """The system itself refuses to let files grow, so that safetensors fails in its own way."""
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    shutil.rmtree(output / "state" / "step-00000024")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert run(tiny, "mcse", output, RESUMABLE) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert "cannot be written" in message.strip().splitlines()[-1]
    assert "too large" in message
    assert "Traceback" not in message
    assert states(output) == ["step-00000021"]
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    assert_same_run(straight, output)


# --- damaged states


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "absent": lambda path: path.unlink(),
    "a flipped bit": flip_a_bit,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [("model.safetensors", "truncated"), ("optimizer.safetensors", "a flipped bit"), ("state.json", "absent")],
)
def test_a_damaged_state_is_named_and_the_one_before_is_used(name, damage, tiny, straight, tmp_path, caplog):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    damaged = output / "state" / "step-00000024" / name
    DAMAGES[damage](damaged)
    assert run(tiny, "mcse", output, RESUMABLE) == 0
    (warning,) = [record.getMessage() for record in caplog.records if str(damaged) in record.getMessage()]
    assert warning.startswith(f"train.resume: {damaged} is ")
    assert f"going on from {output / 'state' / 'step-00000021'}, the state before" in warning
    assert "resumed after step 21 of 24" in caplog.text
    assert states(output) == ["step-00000021", "step-00000024"]
    assert_same_run(straight, output)


def test_without_a_whole_state_it_stops_and_touches_nothing(tiny, straight, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    damaged = [output / "state" / name / "stateful.safetensors" for name in states(output)]
    for path in damaged:
        flip_a_bit(path)
    before = tensors(output / "best")
    assert run(tiny, "mcse", output, RESUMABLE) == 2
    message = capsys.readouterr().err
    assert f"train.resume: no saved state in {output / 'state'} is whole" in message
    assert all(str(path) in message for path in damaged)
    assert "--overwrite" in message
    assert "Traceback" not in message
    assert states(output) == ["step-00000021", "step-00000024"]
    assert all(torch.equal(before[key], value) for key, value in tensors(output / "best").items())


def test_a_run_that_cannot_say_what_it_was_is_named(tiny, straight, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    (output / "run.json").write_text('{"world_size": ')
    assert run(tiny, "mcse", output, RESUMABLE) == 2
    assert f"train.resume: {output / 'run.json'} is damaged" in capsys.readouterr().err


def test_kept_states_are_the_newest(tiny, tmp_path):
    output = tmp_path / "run"
    assert run(tiny, "simcse", output, RESUMABLE | {"train.max_steps": 12, "train.save_total_limit": 3}) == 0
    assert states(output) == ["step-00000006", "step-00000009", "step-00000012"]
    assert (output / "best" / "model.safetensors").is_file()


def test_another_number_of_processes_is_refused(tiny, straight, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    path = output / "state" / "step-00000024" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 4}))
    digests = json.loads((path.parent / "digests.json").read_text())
    digests["state.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "digests.json").write_text(json.dumps(digests))
    assert run(tiny, "mcse", output, RESUMABLE) == 2
    assert "was saved by 4 processes and cannot go on with 1" in capsys.readouterr().err


# --- NaN


def spoil(monkeypatch, recipe, *, at_call, change):
    """Changes the loss term of the n-th forward pass."""
    plain, count = method(recipe).build, iter(range(1, 1000))

    def build(config, runtime):
        built = plain(config, runtime)

        def step(model, batch):
            terms = dict(built.step(model, batch))
            if next(count) == at_call:
                terms["text_text"] = change(terms["text_text"])
            return terms

        return replace(built, step=step)

    monkeypatch.setattr(method(recipe), "build", build)


class NanGradient(torch.autograd.Function):
    """The value passes; the gradient becomes NaN, as where a square root meets zero."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


SPOILERS = {
    "nan loss": lambda term: replace(term, sum=term.sum * float("nan")),
    "infinite loss": lambda term: replace(term, sum=term.sum + float("inf")),
    "nan gradient": lambda term: replace(term, sum=NanGradient.apply(term.sum)),
}


@pytest.mark.parametrize("at_call", [8, 9, 10])
@pytest.mark.parametrize("kind", SPOILERS)
def test_nan_stops_the_run_and_keeps_what_was_good(kind, at_call, tiny, tmp_path, monkeypatch, capsys):
    """At a step that evaluates and saves (9), just before, and just after."""
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil(patch, "mcse", at_call=at_call, change=SPOILERS[kind])
        assert run(tiny, "mcse", output, RESUMABLE) == 1
    message = capsys.readouterr().err
    assert f"the {kind.split()[1]} is not finite at step" in message
    named = int(message.split("not finite at step ")[1].split(";")[0])
    assert named == at_call
    assert str(output / "best") in message
    assert max(entry["step"] for entry in entries(output)) < at_call
    for part in ("best", "state"):
        assert all(torch.isfinite(tensor.float()).all() for tensor in tensors(output / part).values())
    assert states(output)[-1] == ("step-00000009" if at_call == 10 else "step-00000006")


def test_an_absurd_learning_rate_stops_with_advice(tiny, tmp_path, capsys):
    assert run(tiny, "simcse", tmp_path / "run", {"optim.learning_rate": 1e38, "train.log_steps": 1}) == 1
    message = capsys.readouterr().err
    assert "the loss is not finite at step 2" in message
    assert "Lower optim.learning_rate" in message
    assert "No checkpoint had been saved yet." in message
    assert not (tmp_path / "run" / "best").exists()


def test_nan_in_the_weights_it_starts_from_is_said_at_the_start(tiny, tmp_path, capsys):
    shutil.copytree(tiny / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    keys = {"encoder.name_or_path": tmp_path / "bert", "train.log_steps": 5, "train.eval_steps": 5}
    assert run(tiny, "simcse", tmp_path / "run", keys) == 2
    assert "(bert) gives rows that are not finite; its weights are damaged" in capsys.readouterr().err


# --- resuming something else


def test_resuming_under_other_settings_or_data_is_refused(tiny, tmp_path, capsys):
    output = tmp_path / "run"
    keys = {"train.resume": "auto"}
    assert run(tiny, "simcse", output, keys) == 0
    before = (output / "config.yaml").read_text()
    assert run(tiny, "simcse", output, keys | {"optim.learning_rate": 0.5}) == 2
    assert "was trained with optim.learning_rate = 0.001, not 0.5" in capsys.readouterr().err
    assert (output / "config.yaml").read_text() == before
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    with (other / "sentences.txt").open("a") as stream:
        stream.write("one more sentence\n")
    assert run(tiny, "simcse", output, keys | {"data.root": other}) == 2
    assert "sentences.txt (sentences) has changed since" in capsys.readouterr().err
    assert run(tiny, "simcse", output, keys | {"train.max_steps": 7}) == 0


def test_a_run_of_an_earlier_version_continues_where_its_config_lacks_a_later_key(tiny, tmp_path, capsys):
    output = tmp_path / "run"
    keys = {"train.resume": "auto"}
    assert run(tiny, "simcse", output, keys) == 0
    config = yaml.safe_load((output / "config.yaml").read_text())
    del config["data"]["repetition"]
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    assert run(tiny, "simcse", output, keys | {"data.repetition": 0.3}) == 2
    assert "was trained with data.repetition = 0.0, not 0.3" in capsys.readouterr().err
    assert run(tiny, "simcse", output, keys | {"train.max_steps": 7}) == 0


def test_runs_inside_runs_are_refused(tiny, tmp_path, capsys):
    assert run(tiny, "simcse", tmp_path / "seeds" / "seed0") == 0
    assert run(tiny, "simcse", tmp_path / "seeds" / "seed0" / "again") == 2
    assert "runs are siblings" in capsys.readouterr().err
    assert run(tiny, "simcse", tmp_path / "seeds", {"train.resume": "auto"}) == 2
    assert "runs are siblings" in capsys.readouterr().err
