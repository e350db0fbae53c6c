"""Tables in the terminal: whatever the width, every number is there, whole."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable
from mcse.report.terminal import print_table

TASKS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "Avg.")


def table(*, systems, tasks=TASKS, seeds=1):
    rows = []
    for number in range(systems):
        values = tuple(tuple(10.0 * task + number + 0.25 * seed for seed in range(seeds)) for task in range(len(tasks)))
        rows.append(ScoreRow(f"runs/sweep/optim.learning_rate=1e-{number}/a_long_name_of_a_folder", values))
    return ScoreTable(title="Scores", columns=tuple(map(ScoreColumn, tasks)), rows=tuple(rows), caption="A caption.")


def shown(asked, width, **settings):
    stream = io.StringIO()
    print_table(asked, console=Console(file=stream, width=width, **settings))
    return stream.getvalue()


def numbers_of(asked, seeds):
    for row in asked.rows:
        for values in row.values:
            mean = sum(values) / len(values)
            yield f"{mean:.2f} ± 0.18" if seeds == 2 else f"{mean:.2f}"  # 0.25 / √2


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
@pytest.mark.parametrize("tasks", [TASKS[:2], TASKS])
@pytest.mark.parametrize(("systems", "seeds"), [(1, 1), (2, 1), (2, 2), (7, 2), (12, 1)])
def test_no_number_is_cut_at_any_width(width, tasks, systems, seeds):
    asked = table(systems=systems, tasks=tasks, seeds=seeds)
    text = shown(asked, width)
    found = re.findall(r"\d+\.\d\d(?: ± \d\.\d\d)?(?=\s)", text)
    assert sorted(found) == sorted(numbers_of(asked, seeds))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert all(label in text for label in tasks)


def test_a_table_that_fits_is_printed_as_it_is():
    lines = shown(table(systems=2), 200).splitlines()
    assert lines[0].strip() == "Scores"
    assert lines[2].split() == list(TASKS)
    assert lines[4].split()[-1] == "70.00"


def test_many_scores_of_few_systems_get_a_line_each_where_that_fits():
    lines = shown(table(systems=2), 80).splitlines()
    assert next(line for line in lines if "SICK-R" in line).split() == ["SICK-R", "60.00", "61.00"]


def test_names_are_folded_and_whole():
    text = shown(table(systems=7, tasks=TASKS[:2], seeds=2), 60)
    names = "".join(re.sub(r"\d+\.\d\d ± \d\.\d\d", "", line).strip() for line in text.splitlines())
    assert names.count("a_long_name_of_a_folder") == 7


def test_columns_take_turns_and_none_stands_twice():
    text = shown(table(systems=12, seeds=2), 80)
    headings = [line.split() for line in text.splitlines() if "S" in line and not line.startswith("Scores")]
    assert headings == [list(TASKS[:3]), list(TASKS[3:6]), list(TASKS[6:])]


def test_a_pipe_gets_no_colour_and_a_terminal_that_asked_for_none_neither(monkeypatch):
    assert "\x1b" not in shown(table(systems=2), 80)
    assert "\x1b[1;32m" in shown(table(systems=2), 80, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown(table(systems=2), 80, force_terminal=True))
