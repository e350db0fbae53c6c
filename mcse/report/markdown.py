"""Tables in Markdown: for a report file, and for the model card of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcse.errors import printable
from mcse.report.tables import ScoreTable, table_cells

_MARKUP = re.compile(
    r"""[\\`*\[\]|~] | (?<![^\W_])_ | _(?![^\W_])   # an underscore inside a word is none
    | \A[#+-]
    | (?<=:)/(?=/) | (?<=\bwww)\.   # GitHub makes links of bare addresses
    """,
    re.VERBOSE,
)


def markdown_table(table: ScoreTable, *, with_title: bool = True) -> str:
    """The table as papers print it, each column's best in bold, with its title above and its caption below."""
    lines = [f"## {escaped(table.title)}", ""] if with_title and table.title else []
    heading = ["", *(escaped(column.label) for column in table.columns)]
    rows = [
        [escaped(name), *(f"**{cell.text}**" if cell.is_best else cell.text for cell in cells)]
        for name, cells in table_cells(table)
    ]
    rule = ["---", *["---:"] * len(table.columns)]
    lines += [f"| {' | '.join(cells)} |" for cells in (heading, rule, *rows)]
    if table.caption:
        lines += ["", escaped(table.caption)]
    return "\n".join(lines) + "\n"


def markdown_notes(title: str, notes: Sequence[str]) -> str:
    """A heading and a list, or nothing where there are no notes."""
    return "\n".join([f"## {title}", "", *(f"- {escaped(note)}" for note in notes)]) + "\n" if notes else ""


def escaped(text: str) -> str:
    """What shows as ``text`` on one line: neither markup, nor HTML, nor a link."""
    plain = " ".join(printable(text).splitlines())
    return _MARKUP.sub(r"\\\g<0>", plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code_span(text: str) -> str:
    """A text as code; without backticks, which would end it."""
    plain = " ".join(printable(text).splitlines()).replace("`", "'")
    return f"`{plain}`"


def code_block(text: str, *, language: str) -> str:
    """A block of code that no line of it ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text).strip()}\n{fence}"
