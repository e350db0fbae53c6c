"""Folders are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mcse.training.state import (
    Progress,
    Resumable,
    recover_folder,
    recover_states,
    replace_folder,
    restore_state,
    save_state,
    saved_states,
)


def _write(text: str):
    return lambda folder: (folder / "text").write_text(text)


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, _write("old"))

    def fail(partial: Path) -> None:
        (partial / "text").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_folder(folder, fail)
    assert (folder / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("moment", ["between the renames", "after both"])
def test_a_crash_is_undone(tmp_path: Path, moment: str) -> None:
    folder, old, partial = tmp_path / "best", tmp_path / "best.old", tmp_path / "best.partial"
    replace_folder(folder, _write("old"))
    os.rename(folder, old)
    partial.mkdir()
    if moment == "after both":
        replace_folder(folder, _write("new"))
        old.mkdir(exist_ok=True)
    recover_folder(folder)
    assert (folder / "text").read_text() == ("new" if moment == "after both" else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        replace_folder(tmp_path / "best", lambda folder: save_file({"a": torch.ones(1)}, folder / "x.safetensors"))
    finally:
        os.umask(previous)
    assert (tmp_path / "best" / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_refuses_safetensors_is_an_os_error(tmp_path: Path) -> None:
    """safetensors raises an error of its own where the system's write fails; here it does fail."""
    replace_folder(tmp_path / "best", _write("old"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"best cannot be written: .*too large"):
            replace_folder(tmp_path / "best", lambda folder: save_file({"a": torch.ones(9999)}, folder / "x"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "text").read_text() == "old"


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
    save_state(tmp_path, _resumable(_Carried(3.0)), Progress(step=5), keep=1)
    carried = _Carried(0.0)
    assert restore_state(tmp_path, _resumable(carried)) == Progress(step=5)
    assert carried.state["place"] == {"epoch": 3}
    assert carried.state["hidden"].tolist() == [[3.0] * 3] * 2


def _save(folder: Path, *steps: int, keep: int = 5) -> None:
    for step in steps:
        save_state(folder, _resumable(_Carried(float(step))), Progress(step=step), keep=keep)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {"a flipped bit": _flip, "truncated": _truncate, "absent": Path.unlink}
FILES = [f"{name}.safetensors" for name in ("model", "optimizer", "rng", "stateful")] + ["state.json", "digests.json"]


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
        _flip(tmp_path / f"step-0000000{step}" / "rng.safetensors")
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
