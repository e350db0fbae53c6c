"""Tables: cells, the best of a column, and what is printed in Markdown, LaTeX and the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mcse.report.latex import latex_table
from mcse.report.markdown import markdown_notes, markdown_table
from mcse.report.tables import (
    Curve,
    ScoreColumn,
    ScoreRow,
    ScoreTable,
    cell_text,
    table_cells,
)
from mcse.report.terminal import print_table

TABLE = ScoreTable(
    title="Scores",
    columns=(ScoreColumn("STS-B"), ScoreColumn("alignment", higher_is_better=False), ScoreColumn("rsum")),
    rows=(
        ScoreRow("SimCSE", ((70.0, 72.0, 74.0), (0.2,), ())),
        ScoreRow("MCSE | ours", ((79.004,), (0.25,), (12.0,))),
        ScoreRow("MCSE <shuffled>", ((79.001,), (0.2,), ())),
    ),
    caption="Test images are unseen.",
)


def test_cells_are_mean_and_sample_deviation():
    assert cell_text((70.0, 72.0, 74.0), decimals=2) == "72.00 ± 2.00"  # sample, not population (1.63)
    assert cell_text((77.145,), decimals=1) == "77.1"
    assert cell_text((), decimals=2) == "–"


def test_best_rows_follow_the_direction_and_share_ties():
    best = [[cell.is_best for cell in cells] for _, cells in table_cells(TABLE)]
    first, second, third = zip(*best, strict=True)
    assert first == (False, True, True)  # equal as printed
    assert second == (True, False, True)  # lower is better
    assert not any(third)  # one system alone wins nothing


def test_a_probability_is_never_printed_as_zero():
    table = ScoreTable(
        title="",
        columns=(ScoreColumn("p", decimals=3, is_probability=True), ScoreColumn("diff.", decimals=3)),
        rows=(ScoreRow("a", ((0.0004,), (0.0004,))), ScoreRow("b", ((0.0006,), (0.0,)))),
        is_contest=False,
    )
    assert [[cell.text for cell in cells] for _, cells in table_cells(table)] == [
        ["< 0.001", "0.000"],
        ["0.001", "0.000"],
    ]
    assert r"a & $<$ 0.001 & 0.000" in latex_table(table)


def test_table_refuses_rows_of_the_wrong_length():
    with pytest.raises(ValueError, match="row 'x' has 1 cells for 2 columns"):
        ScoreTable(title="", columns=(ScoreColumn("a"), ScoreColumn("b")), rows=(ScoreRow("x", ((1.0,),)),))
    with pytest.raises(ValueError, match="curve 'x' has 2 steps and 1 values"):
        Curve("x", (1, 2), (1.0,))


def test_markdown_table():
    assert markdown_table(TABLE) == (
        "## Scores\n\n"
        "|  | STS-B | alignment | rsum |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| SimCSE | 72.00 ± 2.00 | **0.20** | – |\n"
        "| MCSE \\| ours | **79.00** | 0.25 | 12.00 |\n"
        "| MCSE &lt;shuffled&gt; | **79.00** | **0.20** | – |\n\n"
        "Test images are unseen.\n"
    )
    row = ScoreRow("this model", ((70.0,), (75.25,)))
    card = ScoreTable(title="STS", columns=(ScoreColumn("STS12"), ScoreColumn("Avg.")), rows=(row,))
    assert markdown_table(card, with_title=False).splitlines()[2] == "| this model | 70.00 | 75.25 |"
    assert markdown_notes("Missing", []) == ""
    assert markdown_notes("Missing", ["a", "b"]) == "## Missing\n\n- a\n- b\n"


@pytest.mark.parametrize("width", [100, 50])
def test_terminal_table_shows_every_number_at_any_width(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    print_table(TABLE, notes=["STS13: absent"], console=console)
    text = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for number in ("72.00 ±", " 2.00", "79.00", "0.25", "12.00"):
        assert number in plain
    assert "STS13: absent" in plain
    assert re.search(r"\x1b\[1;32m *79\.00", text)  # bold
    assert not re.search(r"\x1b\[1;32m *72\.00", text)
    assert max(map(len, plain.splitlines())) <= width
