"""What is on the screen: bars and phases in a terminal, a notebook and a log, and nothing of them when quiet."""

from __future__ import annotations

import logging
import os
import pty
import select
import sys
import time
from contextlib import contextmanager

import pytest

import mcse.progress as module
from mcse.models.small_encoder import build_small_encoder
from mcse.progress import LogHandler, duration, hidden, in_phase, panel, phase, progress_bar, say


@pytest.fixture
def impatient(monkeypatch):
    """No waiting before the first line, nor between two."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "SECONDS", 0.0)


MARK = b"\x00end"


@contextmanager
def terminal(monkeypatch):
    """Stderr is a terminal; gives a function that gives what was written to it since it was called last."""
    outer, inner = pty.openpty()
    with os.fdopen(inner, "w", buffering=1) as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)

        def written() -> str:
            """Up to a mark that is written here: what a terminal is sent arrives a moment later, and in pieces."""
            os.write(inner, MARK)
            shown = b""
            while not shown.endswith(MARK):
                assert select.select([outer], [], [], 10.0)[0], shown
                shown += os.read(outer, 2**16)
            return shown.removesuffix(MARK).decode()

        yield written
    os.close(outer)


def test_a_log_gets_lines_and_bars_do_not_overwrite_each_other(capsys, impatient):
    with progress_bar(total=3, unit="step", initial=1, title="outer") as outer:
        outer.update()
        with progress_bar(total=2, unit="sentence") as inner:
            inner.update(2)
        outer.set_postfix(loss="0.5")
        outer.update()
    lines = capsys.readouterr().err.split("\n")
    assert lines.pop() == ""
    assert all("\r" not in line and line.count(" %, ") == 1 and " elapsed, " in line for line in lines), lines
    assert [line for line in lines if line.startswith("100 %, 2 of 2, ")]
    assert lines[-1].startswith("outer: 100 %, 3 of 3, ")
    assert "loss=0.5" in lines[-1]


def test_a_log_is_not_flooded(capsys):
    with progress_bar(total=10_000, unit="step") as bar:
        for number in range(10_000):
            bar.update()
            bar.set_postfix(loss=number)
    (line,) = capsys.readouterr().err.splitlines()
    assert "10,000 of 10,000" in line


def test_what_does_not_stay_is_no_line_of_a_log_unless_it_takes_long(capsys, monkeypatch):
    with progress_bar(total=2, unit="step", stays=False) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with progress_bar(total=3, unit="step", stays=False) as bar:
        bar.update()
        time.sleep(0.1)
        bar.update()
        assert "67 %, 2 of 3" in capsys.readouterr().err  # at once, and not an interval later
        bar.update()
    assert "100 %, 3 of 3" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    with terminal(monkeypatch) as written:
        with progress_bar(total=2, unit="step") as bar:
            bar.update(2)
            say("a line")
        shown = written()
    assert "\r" in shown
    assert "100%|" in shown
    assert "a line\r\n" in shown


def test_nothing_is_shown_unless_asked(capsys):
    with progress_bar(total=2, unit="step", is_shown=False) as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")
    with phase("hidden", is_shown=False):
        assert not in_phase()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("TQDM_DISABLE", "1"), ("RANK", "1")])
def test_nothing_is_shown_when_quiet_or_by_a_process_that_is_not_the_first(name, value, capsys, monkeypatch, impatient):
    monkeypatch.setenv(name, value)
    with phase("a phase"), progress_bar(total=2, unit="step") as bar:
        bar.update(2)
        time.sleep(0.05)
    panel("a panel", {"recipe": "mcse"})
    say("a line")
    assert capsys.readouterr().err == ""


def test_progress_is_hidden_for_a_while_and_warnings_are_not(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with hidden():
        say("hidden")
        LogHandler().emit(logging.LogRecord("mcse", logging.WARNING, __file__, 1, "a warning", None, None))
    say("shown")
    assert capsys.readouterr().err == "a warning\nshown\n"


def test_a_phase_shows_itself_only_when_it_takes_long(capsys, monkeypatch):
    with phase("short"):
        assert in_phase()
    assert not in_phase()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    with phase("long"):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["long: 00:00"] * 2  # when it shows itself, and when it ends


def test_of_phases_within_each_other_the_innermost_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    monkeypatch.setattr(module, "SECONDS", 0.02)
    with phase("outer"), phase("inner"):
        time.sleep(0.3)
        shown = capsys.readouterr().err
    assert "inner: 00:00" in shown
    assert "outer" not in shown


def test_an_error_ends_a_phase():
    with pytest.raises(ValueError, match="wrong"), phase("outer"), phase("inner"):
        raise ValueError("wrong")
    assert not in_phase()


def test_a_phase_goes_from_a_terminal(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    with terminal(monkeypatch) as written:
        with phase("reading"):
            time.sleep(0.2)
        shown = written()
    assert "reading: 00:00" in shown
    assert not shown.split("\r")[-2].strip()  # it was written over with blanks


def test_a_panel_is_a_box_on_a_terminal(monkeypatch):
    with terminal(monkeypatch) as written:
        panel("mcse train", {"recipe": "mcse", "folder": "runs/a_long_name" * 12})
        box = written()
    assert "╭─ mcse train ─" in box
    assert "".join(box.split("\r\n")).count("a_long_name") > 9  # folded, not cut


def test_a_panel_in_a_log_has_no_colour_and_no_line_is_broken(capsys):
    name = "runs/" + "long" * 40
    panel("mcse train", {"recipe": "mcse", "folder": name})
    assert capsys.readouterr().err == f"mcse train\n  recipe  mcse\n  folder  {name}\n"


def test_no_colour_where_nobody_wants_any(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(monkeypatch) as written:
        panel("mcse train", {"recipe": "mcse"})
        with progress_bar(total=1, unit="step") as bar:
            bar.update()
        assert "\x1b[3" not in written()


def test_names_of_other_people_steer_no_terminal(capsys):
    say("runs/\x1b[2J")
    assert capsys.readouterr().err == "runs/\\x1b[2J\n"


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (187, "3:07"), (3765, "1:02:45")])
def test_durations_are_read_as_on_a_clock(seconds, text):
    assert duration(seconds) == text


def test_writing_a_model_shows_no_bar_of_transformers(tmp_path, capfd: pytest.CaptureFixture[str]):
    build_small_encoder(tmp_path / "encoder", texts=["a dog", "a cat"])
    assert "Writing model shards" not in capfd.readouterr().err


def test_more_work_than_was_foretold_is_counted(capsys, impatient):
    """tqdm forgets its total then, and the line of a log failed over it, with the work."""
    with progress_bar(total=3, unit="row", title="rows") as bar:
        bar.update(3)
        bar.update(1234)
    lines = capsys.readouterr().err.splitlines()
    assert "rows: 100 %, 3 of 3, " in "".join(lines)
    assert lines[-1].startswith("rows: 1,237, ")
