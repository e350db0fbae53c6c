"""Tables in LaTeX, as papers print them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcse.report.tables import Cell, ScoreTable, table_cells

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
    heading = ["", *(escaped(column.label) for column in table.columns)]
    caption = " ".join(_sentence(escaped(part)) for part in (table.title, table.caption) if part)
    lines = [
        r"% needs \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
        r"\begin{table}[t]",
        r"\centering",
        *([rf"\caption{{{caption}}}"] if caption else []),
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        r"\toprule",
        _line(heading),
        r"\midrule",
        *(_line([_name(name), *map(_cell, cells)]) for name, cells in table_cells(table)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_notes(title: str, notes: Sequence[str], *, are_code: bool = False) -> str:
    """A heading and a list, or nothing where there are no notes."""
    if not notes:
        return ""
    items = [rf"\item \texttt{{{escaped(note)}}}" if are_code else rf"\item {escaped(note)}" for note in notes]
    return "\n".join([rf"\section*{{{escaped(title)}}}", r"\begin{itemize}", *items, r"\end{itemize}"]) + "\n"


def latex_image(name: str, caption: str) -> str:
    """An SVG beside the file as a floating figure, which the package svg converts."""
    lines = [
        r"% needs \usepackage{svg}",
        r"\begin{figure}[t]",
        r"\centering",
        rf"\includesvg[width=\linewidth]{{{name}}}",
        rf"\caption{{{_sentence(escaped(caption))}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    return r"\quad " * name.startswith(" ") + escaped(name.strip())


def _cell(cell: Cell) -> str:
    if not cell.mean:
        return "--"
    mean = re.sub("[-<]", r"$\g<0>$", cell.mean)
    shown = rf"\textbf{{{mean}}}" if cell.is_best else mean
    return rf"{shown}$_{{\pm {cell.deviation}}}$" if cell.deviation else shown


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def escaped(text: str) -> str:
    """What prints as ``text``. Control characters, which LaTeX refuses, and line breaks are blanks."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    # A bracket that follows a row's end would be read as that row's spacing.
    safe = _ANY_SPECIAL.sub(lambda found: _SPECIAL[found.group()], printable)
    return f"{{{safe[0]}}}{safe[1:]}" if safe.startswith(("[", "*")) else safe
