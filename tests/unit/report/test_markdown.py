"""Names in Markdown: shown as they are, whatever markup they hold."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from mcse.report.latex import latex_table
from mcse.report.markdown import code_block, code_span, escaped, markdown_notes, markdown_table
from mcse.report.tables import ScoreColumn, ScoreRow, ScoreTable

NAMES = [
    "runs/mcse_seed_0",
    "<b>bold</b> & <!-- -->",
    "[a](https://evil.example) ![b](x)",
    "https://evil.example/x www.evil.example",
    "*a* _b_ __c__ `d` ~~e~~ a|b \\| \\",
    "# no heading",
    "- no list",
    "1 > 0 &amp; 2",
    "\\input{/etc/passwd} $x$ %",
]


def shown(markdown):
    """The text that a reader sees, of one paragraph, and the kinds of what it is made of."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inner = [child for token in tokens for child in (token.children or ())]
    return "".join(child.content for child in inner), {child.type for child in inner}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name):
    text, kinds = shown(escaped(name))
    assert text == name
    assert kinds <= {"text", "text_special"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_cell(name):
    table = ScoreTable(
        title=name, columns=(ScoreColumn(name),), rows=(ScoreRow(f"{name}\nnext", ((1.0,),)),), caption=name
    )
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown_table(table) + markdown_notes("Notes", [name]))
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h2", "h2"]
    assert sum(token.type in ("td_open", "th_open") for token in tokens) == 4
    assert not {token.type for token in tokens} & {"html_block", "fence"}
    assert "\\input{" not in latex_table(table)


def test_a_terminal_is_not_steered():
    name = "a\x1b]0;x\x07\x9b31mb\u202ec\udcff"
    table = ScoreTable(title=name, columns=(ScoreColumn(name),), rows=(ScoreRow(name, ((1.0,),)),), caption=name)
    for text in (markdown_table(table), latex_table(table), markdown_notes("x", [name]), code_span(name)):
        assert not set(text) & set("\x1b\x07\x9b\u202e\udcff")
        text.encode()


def test_code_does_not_end_before_its_end():
    for text in ("a\n```\n<b>", "````\n`````\nx"):
        tokens = MarkdownIt("commonmark").parse(code_block(text, language="yaml") + "\n\nafter")
        assert [token.type for token in tokens][:1] == ["fence"]
        assert tokens[0].content == f"{text}\n"
        assert len(tokens) == 4
    assert code_span("a`b\nc") == "`a'b c`"
