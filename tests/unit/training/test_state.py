"""States of a run come back whole, tied weights and late parameters too; damaged ones are seen and passed over."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcse import distributed
from mcse.training.config import OptimConfig
from mcse.training.optim import build_optimizer, build_schedule
from mcse.training.state import (
    Progress,
    Resumable,
    copy_state,
    recover_states,
    restore_state,
    saved_states,
)


class _Carried:
    """A state that is a tensor and a plain value, as a language model carries from batch to batch."""

    def __init__(self, value: float) -> None:
        self.state: dict[str, Any] = {"hidden": torch.full((2, 3), value), "place": {"epoch": int(value)}}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def _resumable(carried: _Carried) -> Resumable:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return Resumable(model=model, optimizer=optimizer, schedule=schedule, scaler=None, stateful={"carried": carried})


def test_carried_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    copy_state(tmp_path, _resumable(_Carried(3.0)), Progress(step=5), keep=1)()
    carried = _Carried(0.0)
    assert restore_state(tmp_path, _resumable(carried)) == Progress(step=5)
    assert carried.state["place"] == {"epoch": 3}
    assert carried.state["hidden"].tolist() == [[3.0] * 3] * 2


class _Tied(torch.nn.Module):
    """An output matrix tied to the input's, a layer that the first batches do not reach, one that does not train."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.late, self.out = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 5)
        self.out.weight = self.embed.weight
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, late: bool) -> torch.Tensor:
        self.seen += 1
        x_TD = self.embed(torch.arange(5))
        return self.out(self.late(x_TD) if late else x_TD).square().mean()


OPTIMIZERS = {"adamw": {"weight_decay": 0.1}, "adagrad": {"initial_accumulator": 0.1}, "sgd": {}}


def _tied(optimizer: str) -> Resumable:
    model = _Tied()
    config = OptimConfig(learning_rate=0.1, optimizer=optimizer, warmup_steps=3, **OPTIMIZERS[optimizer])
    built = build_optimizer(model, config)
    schedule = build_schedule(built, config, total_steps=9)
    return Resumable(model=model, optimizer=built, schedule=schedule, scaler=None, stateful={})


def _train(resumable: Resumable, *, late: list[bool]) -> None:
    for reaches in late:
        resumable.model(reaches).backward()
        resumable.optimizer.step()
        resumable.schedule.step()
        resumable.optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tied_frozen_and_late_parameters_go_on_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    straight = _tied(optimizer)
    _train(straight, late=[False, False])
    copy_state(tmp_path, straight, Progress(step=2), keep=1)()
    saved = load_file(tmp_path / "step-00000002" / "model.safetensors")
    assert "embed.weight" in saved
    assert "out.weight" not in saved, "tied weights are saved once"
    assert saved.keys() == {"embed.weight", "late.weight", "late.bias", "out.bias", "seen"}, "frozen ones are not"
    moments = {name.rpartition(".")[0] for name in load_file(tmp_path / "step-00000002" / "optimizer.safetensors")}
    early = {"embed.weight", "out.bias"}
    assert moments == {"adamw": early, "adagrad": early | {"late.weight", "late.bias"}, "sgd": set()}[optimizer]
    resumed = _tied(optimizer)
    _train(resumed, late=[True])
    assert restore_state(tmp_path, resumed) == Progress(step=2)
    assert resumed.model.out.weight is resumed.model.embed.weight
    before = resumed.model.late.weight.clone()
    for each in (straight, resumed):
        _train(each, late=[True, False, True])
    assert not torch.equal(before, resumed.model.late.weight)
    ours, theirs = straight.model.state_dict(), resumed.model.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("change", ["frozen weights there", "a weight lacks", "a weight too many"])
def test_only_weights_of_the_same_model_are_put_back(change: str) -> None:
    resumable = _tied("sgd")
    weights, state = distributed.whole_states(resumable.model, resumable.optimizer)
    kept = weights["late.bias"].clone()
    if change == "frozen weights there":  # as states had them that are older
        weights |= {"frozen.weight": torch.ones(2, 2), "frozen.bias": torch.ones(2)}
    elif change == "a weight lacks":
        del weights["late.bias"]
    else:
        weights["later.bias"] = kept
    if change == "frozen weights there":
        distributed.put_back_states(resumable.model, resumable.optimizer, weights=weights, state=state)
        assert torch.equal(resumable.model.late.bias, kept)
    else:
        with pytest.raises(ValueError, match=r"another model, which differs in late(r)?\.bias"):
            distributed.put_back_states(resumable.model, resumable.optimizer, weights=weights, state=state)


def test_carried_tensors_may_share_memory(tmp_path: Path) -> None:
    carried = _Carried(3.0)
    both = torch.arange(6.0).reshape(2, 3)
    carried.state |= {"hidden": both[0], "cell": both[1]}
    copy_state(tmp_path, _resumable(carried), Progress(step=1), keep=1)()
    back = _Carried(0.0)
    restore_state(tmp_path, _resumable(back))
    assert [back.state["hidden"].tolist(), back.state["cell"].tolist()] == both.tolist()


def test_random_states_come_back(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    copy_state(tmp_path, _resumable(_Carried(0.0)), Progress(step=1), keep=1)()
    drawn = draw()
    assert draw() != drawn
    restore_state(tmp_path, _resumable(_Carried(0.0)))
    assert draw() == drawn


def _save(folder: Path, *steps: int, keep: int = 5) -> None:
    for step in steps:
        copy_state(folder, _resumable(_Carried(float(step))), Progress(step=step), keep=keep)()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {"a flipped bit": _flip, "truncated": _truncate, "absent": Path.unlink}
FILES = [f"{name}.safetensors" for name in ("model", "optimizer", "stateful")] + ["state.json", "digests.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_seen(tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path, 1, 2)
    assert sorted(FILES) == sorted(path.name for path in (tmp_path / "step-00000002").iterdir())
    DAMAGES[damage](tmp_path / "step-00000002" / name)
    carried = _Carried(0.0)
    assert restore_state(tmp_path, _resumable(carried)) == Progress(step=1)
    assert carried.state["place"] == {"epoch": 1}
    assert f"train.resume: {tmp_path / 'step-00000002' / name}" in caplog.text
    assert f"going on from {tmp_path / 'step-00000001'}" in caplog.text
    assert [path.name for path in saved_states(tmp_path)] == ["step-00000001"]
    assert (tmp_path / "step-00000002.damaged").is_dir()


def test_a_damaged_state_does_not_count_as_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 6)
    _flip(tmp_path / "step-00000006" / "model.safetensors")
    assert restore_state(tmp_path, _resumable(_Carried(0.0))) == Progress(step=2)
    _save(tmp_path, 3, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_several_damaged_states_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path, 1, 2, 3)
    for step in (2, 3):
        _flip(tmp_path / f"step-0000000{step}" / "stateful.safetensors")
    assert restore_state(tmp_path, _resumable(_Carried(0.0))) == Progress(step=1)
    assert len([line for line in caplog.text.splitlines() if "going on from" in line]) == 2


def test_nothing_whole_is_an_error_that_names_every_file(tmp_path: Path) -> None:
    assert restore_state(tmp_path, _resumable(_Carried(0.0))) is None
    _save(tmp_path, 1, 2)
    (tmp_path / "step-00000001" / "digests.json").unlink()
    _flip(tmp_path / "step-00000002" / "model.safetensors")
    with pytest.raises(ValueError, match="no saved state") as caught:
        restore_state(tmp_path, _resumable(_Carried(0.0)))
    assert f"{tmp_path / 'step-00000001' / 'digests.json'} is missing" in str(caught.value)
    assert f"{tmp_path / 'step-00000002' / 'model.safetensors'} is damaged" in str(caught.value)
    assert len(saved_states(tmp_path)) == 2


def test_digests_hold_every_file_but_themselves_and_are_written_last(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    assert sorted(json.loads((folder / "digests.json").read_text())) == sorted(set(FILES) - {"digests.json"})
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "digests.json"


def test_a_kill_while_an_old_state_is_deleted_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 1)

    class KillError(BaseException):
        pass

    def half(path: Path, **_: object) -> None:
        if not Path(path).exists():
            return
        next(iter(Path(path).iterdir())).unlink()
        raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KillError):
            _save(tmp_path, 2, keep=1)
    assert [path.name for path in saved_states(tmp_path)] == ["step-00000002"]
    recover_states(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
