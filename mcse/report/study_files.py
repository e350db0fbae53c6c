"""The report of a study as ``report.md``, ``report.tex`` and ``report.html``, with its plots beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from mcse.files import write_text
from mcse.report.latex import escaped as latex_escaped
from mcse.report.latex import latex_image, latex_notes, latex_table
from mcse.report.made import Made, made_latex, made_markdown
from mcse.report.markdown import code_block, escaped, markdown_notes, markdown_table
from mcse.report.page import write_page
from mcse.report.plots import Plot, standalone
from mcse.report.tables import ScoreTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A heading with sentences below it."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """All that a report of a study says, in its order.

    Attributes:
        title: Of the study.
        question: What is asked.
        facts: What was declared, a line each.
        changes: What was changed after the first run, a note a change.
        scores: The one table of scores.
        tests: A table of comparisons for each score.
        plots: Differences, and scores against numbers.
        missing: What is still missing.
        notes: CPU time.
        commands: By row the lines that a shell takes.
        declaration: The file as it stands.
        made: How the report came about.
    """

    title: str
    question: str
    facts: tuple[str, ...]
    changes: tuple[Note, ...]
    scores: ScoreTable
    tests: tuple[ScoreTable, ...]
    plots: tuple[Plot, ...]
    missing: tuple[str, ...]
    notes: tuple[Note, ...]
    commands: tuple[Note, ...]
    declaration: str
    made: Made
    changes_title: str = field(default="Changed after the first run", init=False)


def write_study_report(report: StudyReport, folder: Path) -> None:
    """Writes the three files and an SVG for each plot."""
    for plot in report.plots:
        write_text(folder / f"{plot.name}.svg", standalone(plot.image))
    write_text(folder / "report.md", _markdown(report))
    write_text(folder / "report.tex", _latex(report))
    content = {"report": report, "plots": [(plot.title, Markup(plot.image)) for plot in report.plots]}
    write_page(folder / "report.html", template="study.html.j2", content=content)


def _markdown(report: StudyReport) -> str:
    parts = [
        f"# {escaped(report.title)}\n",
        f"{escaped(report.question)}\n",
        markdown_notes("Declared", report.facts),
        *_markdown_sections(report.changes_title, report.changes),
        markdown_notes("Missing", report.missing),
        markdown_table(report.scores),
        *map(markdown_table, report.tests),
        *(f"![{escaped(plot.title)}]({plot.name}.svg)\n" for plot in report.plots),
        *(markdown_notes(note.title, note.lines) for note in report.notes),
        "## Commands\n",
        *(f"{escaped(note.title)}:\n\n{code_block(_lines(note.lines), language='sh')}\n" for note in report.commands),
        "## The declaration\n",
        f"{code_block(report.declaration, language='yaml')}\n",
        made_markdown(report.made),
    ]
    return "\n".join(part for part in parts if part)


def _markdown_sections(title: str, notes: Sequence[Note]) -> list[str]:
    if not notes:
        return []
    found = [f"## {escaped(title)}\n"]
    for note in notes:
        found.append("\n".join([f"{escaped(note.title)}:", "", *(f"- {escaped(line)}" for line in note.lines)]) + "\n")
    return found


def _latex(report: StudyReport) -> str:
    changes = [line for note in report.changes for line in (f"{note.title}:", *note.lines)]
    parts = [
        rf"\section*{{{latex_escaped(report.title)}}}" + "\n",
        latex_escaped(report.question) + "\n",
        latex_notes("Declared", report.facts),
        latex_notes(report.changes_title, changes),
        latex_notes("Missing", report.missing),
        latex_table(report.scores),
        *map(latex_table, report.tests),
        *(latex_image(plot.name, plot.title) for plot in report.plots),
        *(latex_notes(note.title, note.lines) for note in report.notes),
        *(latex_notes(f"Commands: {note.title}", note.lines, are_code=True) for note in report.commands),
        made_latex(report.made),
    ]
    return "\n".join(part for part in parts if part)


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines)
