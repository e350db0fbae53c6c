"""Tables in LaTeX: layout, seeds, bold, and names that LaTeX would read as commands."""

from __future__ import annotations

import re

import pytest

from mcse.report.latex import latex_table
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable


def table(*names: str, title: str = "Scores", caption: str = "") -> ScoreTable:
    rows = tuple(ScoreRow(name, ((70.0 + number,),)) for number, name in enumerate(names))
    return ScoreTable(title=title, columns=(ScoreColumn("STS-B"),), rows=rows, caption=caption)


def test_a_table_as_papers_print_it():
    found = latex_table(
        ScoreTable(
            title="STS & co.",
            columns=(ScoreColumn("Avg."), ScoreColumn("alignment", higher_is_better=False), ScoreColumn("rsum")),
            rows=(
                ScoreRow("SimCSE", ((70.0, 72.0, 74.0), (0.2,), ())),
                ScoreRow("MCSE", ((79.0, 80.0), (0.25,), (12.0,))),
                ScoreRow("  best of them", ((-0.5,), (), ())),
            ),
            caption="Spearman × 100",
        )
    )
    assert found.splitlines() == [
        r"% needs \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
        r"\begin{table}[t]",
        r"\centering",
        r"\caption{STS \& co. Spearman $\times$ 100.}",
        r"\begin{tabular}{lccc}",
        r"\toprule",
        r" & Avg. & alignment & rsum \\",
        r"\midrule",
        r"SimCSE & 72.00$_{\pm 2.00}$ & \textbf{0.20} & -- \\",
        r"MCSE & \textbf{79.50}$_{\pm 0.71}$ & 0.25 & 12.00 \\",
        r"\quad best of them & $-$0.50 & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a_b&c%d$e#f", r"a\_b\&c\%d\$e\#f"),
        ("{x}~y^z", r"\{x\}\textasciitilde{}y\textasciicircum{}z"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[2pt] row", "{[}2pt] row"),  # behind the row before, it would be that row's spacing
        ("one\ntwo\x07", r"one two\textbackslash{}x07"),
    ],
)
def test_special_characters_print_as_themselves(name, safe):
    lines = latex_table(table("first", name)).splitlines()
    (row,) = [line for line in lines if line.endswith(r"\textbf{71.00} \\")]
    assert row.partition(" & ")[0].rstrip() == safe


def test_every_brace_of_a_hostile_table_closes():
    hostile = "}{ \\ $ % ^^M \\end{tabular} é"
    found = latex_table(table(hostile, hostile, title=hostile, caption=hostile))
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", found):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert found.count(r"\end{tabular}") == 1
    assert [line for line in found.splitlines() if re.search(r"(?<!\\)%", line)] == found.splitlines()[:1]
    assert len(re.findall(r"(?<!\\)&", found)) == 3  # one a row, whatever the names hold


def test_a_table_without_words_has_no_caption():
    assert r"\caption" not in latex_table(table("x", title=""))
