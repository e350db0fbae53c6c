"""A bar on a terminal, and lines in a log."""

from __future__ import annotations

import sys

import pytest

import mcse.progress as module
from mcse.models.small_encoder import build_small_encoder
from mcse.progress import progress_bar


def test_a_log_gets_lines_and_bars_do_not_overwrite_each_other(capsys, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    with progress_bar(total=3, unit="step", initial=1, title="outer") as outer:
        outer.update()
        with progress_bar(total=2, unit="sentence") as inner:
            inner.update(2)
        outer.set_postfix(loss="0.5")
        outer.update()
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert all("\r" not in line and line.count("%|") == 1 for line in lines), lines
    assert [line for line in lines if "2/2" in line]
    assert "3/3" in lines[-1]
    assert "loss=0.5" in lines[-1]


def test_a_log_is_not_flooded(capsys):
    with progress_bar(total=10_000, unit="step") as bar:
        for number in range(10_000):
            bar.update()
            bar.set_postfix(loss=number)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert "10000/10000" in lines[-1]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(total=2, unit="step") as bar:
        bar.update(2)
    assert "\r" in capsys.readouterr().err


def test_nothing_is_shown_unless_asked(capsys):
    with progress_bar(total=2, unit="step", is_shown=False) as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")
    assert capsys.readouterr().err == ""


def test_writing_a_model_shows_no_bar_of_transformers(tmp_path, capfd: pytest.CaptureFixture[str]):
    build_small_encoder(tmp_path / "encoder", texts=["a dog", "a cat"])
    assert "Writing model shards" not in capfd.readouterr().err
