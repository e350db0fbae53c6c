"""Folders are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mcse.training.state import recover_folder, replace_folder


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
