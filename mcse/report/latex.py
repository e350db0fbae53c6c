"""Tables in LaTeX, as papers print them."""

from __future__ import annotations

import re
import statistics

from mcse.report.tables import ScoreTable, best_rows, decimals_of

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
    "’": "'",
    "‘": "`",
    "ρ": r"$\rho$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
}
_ANY_SPECIAL = re.compile("|".join(map(re.escape, _SPECIAL)))


def latex_table(table: ScoreTable) -> str:
    """A floating table with the package booktabs' rules: each column's best in bold, title and caption above.

    Several seeds are their mean with the sample standard deviation as its subscript; a score that is absent is a dash.
    A row's name that starts with blanks is indented.
    """
    heading = ["", *(_escaped(column.label) for column in table.columns)]
    caption = " ".join(_sentence(_escaped(part)) for part in (table.title, table.caption) if part)
    lines = [
        r"% needs \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
        r"\begin{table}[t]",
        r"\centering",
        *([rf"\caption{{{caption}}}"] if caption else []),
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"\toprule",
        _line(heading),
        r"\midrule",
        *(_line(_row(table, number)) for number in range(len(table.rows))),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(table: ScoreTable, number: int) -> list[str]:
    name = table.rows[number].name
    cells = [r"\quad " * name.startswith(" ") + _escaped(name.strip())]
    for column, values in enumerate(table.rows[number].values):
        cells.append(_cell(values, decimals=decimals_of(table, column), is_best=number in best_rows(table, column)))
    return cells


def _cell(values: tuple[float, ...], *, decimals: int, is_best: bool) -> str:
    if not values:
        return "--"
    mean = f"{statistics.fmean(values):.{decimals}f}".replace("-", "$-$")
    shown = rf"\textbf{{{mean}}}" if is_best else mean
    if len(values) == 1:
        return shown
    return rf"{shown}$_{{\pm {statistics.stdev(values):.{decimals}f}}}$"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def _escaped(text: str) -> str:
    """What prints as ``text``. Control characters, which LaTeX refuses, and line breaks are blanks."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    # A bracket that follows a row's end would be read as that row's spacing.
    safe = _ANY_SPECIAL.sub(lambda found: _SPECIAL[found.group()], printable)
    return f"{{{safe[0]}}}{safe[1:]}" if safe.startswith(("[", "*")) else safe
