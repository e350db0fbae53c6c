"""Folders are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mcse.training.state import Progress, Resumable, recover_folder, replace_folder, restore_state, save_state


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
