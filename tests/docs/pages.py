"""README and docs as the tests read them: blocks of shell, Python and files, in order, with what stands in for what.

A page says in HTML comments, which nobody sees who reads it, what its blocks need in order to run here at little cost:

``<!-- test: open_clip:ViT-B-32/openai => $KIT/clip -->``
    From here on the blocks of the page are run with the second text in place of the first.
``<!-- test`` … ``-->``
    Lines of shell that are run at this place; ``stand-in`` (tests/docs/stand_ins.py) makes what is too large to make.

A fence with a title, such as ```` ```yaml title="shop.yaml" ````, is a file, and is written before what follows it.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[2]
ALL = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "configs/accelerate/README.md")]
ALL += sorted((REPOSITORY / "docs").rglob("*.md"))
PROGRAMS = frozenset({"mcse", "python", "accelerate", "torchrun", "make", "pip", "sbatch", "docker", "git", "curl"})
"""An indented block that has a line with one of these in front is shell; fences say it themselves."""

SHELL = frozenset({"sh", "bash", "console"})
PYTHON = frozenset({"python", "py"})
SYNOPSIS = re.compile(r"[\[\]{}…]|\b(FILE|CONFIG|NAME|MODEL)\b")
"""What patterns of commands have, outside of quotation marks, and no command that anybody types."""
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w+-]*)(?P<rest>.*)$")
_TITLE = re.compile(r"""title=["']([^"']+)["']""")
_CONTAINER = re.compile(r"^(!!!|\?\?\?\+?|===) ")
"""Of mkdocs-material: what is indented below is text, not code."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of a page; ``replace`` is a stand-in of text, ``hidden`` is shell that the page does not show.

    ``name`` is a file's; ``line`` the first line of ``text``.
    """

    page: str
    line: int
    kind: Literal["shell", "python", "file", "hidden", "replace"]
    text: str
    name: str = ""

    @property
    def where(self) -> str:
        """``docs/data.md:12``."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a page, in words; variables such as $MCSE_DATA stay as they are."""

    where: str
    words: tuple[str, ...]


def name_of(page: Path) -> str:
    """A page's path from the top of the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def read_blocks(page: str | Path) -> list[Block]:
    """All blocks of a page (its path, or its name from the top of the repository), in order."""
    path = REPOSITORY / page
    return list(_blocks(path.read_text(encoding="utf-8").splitlines(), name_of(path)))


def _blocks(lines: list[str], page: str) -> Iterator[Block]:
    number, in_container = 0, False
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        if line.startswith("<!-- test"):
            while "-->" not in lines[number - 1]:
                number += 1
            yield _directive("\n".join(lines[start:number]), page, start + 1)
        elif fence := _FENCE.match(line):
            while number < len(lines) and lines[number].strip() != fence["fence"]:
                number += 1
            text = textwrap.dedent("\n".join([*lines[start + 1 : number], ""]))
            number += 1
            yield from _fenced(text, page, start + 2, fence)
        elif line.startswith("    ") and not in_container:
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = textwrap.dedent("\n".join(lines[start:number])).rstrip() + "\n"
            if any(first_word(one) in PROGRAMS for one in text.splitlines()):
                yield Block(page, start + 1, "shell", text)
        elif line[:1].strip():
            in_container = bool(_CONTAINER.match(line))


def _fenced(text: str, page: str, line: int, fence: re.Match[str]) -> Iterator[Block]:
    if title := _TITLE.search(fence["rest"]):
        yield Block(page, line, "file", text, title[1])
    elif fence["language"] in SHELL:
        yield Block(page, line, "shell", text)
    elif fence["language"] in PYTHON:
        yield Block(page, line, "python", text)


def _directive(comment: str, page: str, line: int) -> Block:
    inner = comment.removeprefix("<!-- test").partition("-->")[0]
    if inner.startswith(":"):
        if " => " not in inner:
            raise ValueError(f"{page}:{line}: {comment!r} is not <!-- test: SHOWN => RUN -->")
        return Block(page, line, "replace", inner[1:].strip())
    return Block(page, line + 1, "hidden", inner.lstrip("\n"))


def first_word(line: str) -> str:
    """The program of a line of shell, behind variables that are set for it."""
    return next((word for word in line.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)), "")


def commands_of(block: Block) -> list[Shown]:
    """The commands of a block of shell, continuation lines joined; patterns of commands are left out."""
    commands, lines, number = [], block.text.splitlines(), 0
    while number < len(lines):
        line, where = lines[number], f"{block.page}:{block.line + number}"
        number += 1
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number]
            number += 1
        if not line.split() or SYNOPSIS.search(QUOTED.sub("", line.partition(" #")[0])):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quotation of several lines
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        if words:
            commands.append(Shown(where, tuple(words)))
    return commands


OWN_TESTS = {"docs/adding-a-recipe.md": "tests/recipes/test_adding_a_recipe.py"}
"""Pages whose Python is run by a test of their own."""
