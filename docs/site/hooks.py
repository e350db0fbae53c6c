"""What the site takes from outside ``docs/``: pages, links as the repository has them, and words of the code itself.

A page is the same Markdown on a forge and in the site, where a link to a file that has no page becomes the file's name.
"""

from __future__ import annotations

import html
import posixpath
import re
from argparse import SUPPRESS, Action, ArgumentParser, _SubParsersAction
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/results.md": "benchmarks.md",
}
"""Files of the repository that are pages, too, and where. README's place in the site is that of ``index.md``."""
NOTEBOOKS = {
    path.relative_to(REPOSITORY).as_posix(): f"notebooks/{path.stem}.md"
    for path in sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
}
"""Notebooks, and the pages that show them with their outputs."""
PLACES = {**OUTSIDE, **NOTEBOOKS, "README.md": "index.md"}
_CODE_OR_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)[ ]*$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)|^ {4}[^\n]*$)"
    r"|(?P<comment><!--.*?-->)"
    r"|\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile(r"^([ ]*```\w+) [^\n{=]+$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of a folder where ``nav`` says ``folder/*``, but those that it lists by name."""
    config.nav = expand(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside, and those of notebooks with the images of their outputs."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / source)))
    for source, place in NOTEBOOKS.items():
        for name, content in notebook_page(REPOSITORY / source, place).items():
            files.append(File.generated(config, name, content=content))
    return files


def notebook_page(path: Path, place: str) -> dict[str, str | bytes]:
    """A notebook as Markdown for the page at ``place``, and the images of its outputs, by their places in the site."""
    from nbconvert import MarkdownExporter

    body, resources = MarkdownExporter().from_filename(str(path), resources={"unique_key": path.stem})
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.DOTALL)  # pandas' own
    body = body.replace('<table border="1" class="dataframe">', "<table>")
    title, _, rest = body.partition("\n")
    download = f'<a href="{path.name}" download>Download this notebook</a>'
    images = {f"{posixpath.dirname(place)}/{name}": data for name, data in resources["outputs"].items()}
    return {place: f"{title}\n\n{download}\n{rest}", **images}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes what the code says of itself where a page asks for it, and links as the site needs them."""
    for mark, written in WRITTEN.items():
        if f"<!-- {mark} -->" in markdown:
            markdown = markdown.replace(f"<!-- {mark} -->", written())
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    # What follows the language is for the tests that run a block.
    markdown = _FENCE.sub(r"\1", markdown).replace(" ± ", "\u00a0±\u00a0")
    return relink(markdown, page.file.src_uri)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks tables of keys, whose last column is prose and wants room."""
    return re.sub(r"<table>(?=\s*<thead>\s*<tr>\s*<th>key</th>\s*<th>type</th>)", "<table data-keys>", content)


def expand(nav: list[Any], docs: Path) -> list[Any]:
    """``nav`` with a page for each ``folder/*``, in the order of their names."""
    named = set(_leaves(nav))

    def expanded(entries: list[Any]) -> Iterator[Any]:
        for entry in entries:
            if isinstance(entry, dict):
                yield {
                    title: list(expanded(below)) if isinstance(below, list) else below for title, below in entry.items()
                }
            elif "*" in entry:
                pages = [page.relative_to(docs).as_posix() for page in sorted(docs.glob(f"{entry}.md"))]
                yield from (page for page in pages if page not in named)
                named.update(pages)
            else:
                yield entry

    return list(expanded(nav))


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(entry)


def relink(markdown: str, place: str) -> str:
    """The text of the page at ``place`` with its links into the repository as links within the site."""
    source = next((source for source, other in OUTSIDE.items() if other == place), f"docs/{place}")

    def replaced(found: re.Match[str]) -> str:
        if found["comment"]:  # what stands in for data when a test runs the page
            return ""
        if found["code"] or "://" in found["target"] or found["target"].startswith(("#", "mailto:")):
            return found[0]
        path, mark, anchor = found["target"].partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = PLACES.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
        if page is not None and (REPOSITORY / file).is_file():
            text = _title(file) if found["text"].strip("`").endswith((".md", "README")) else found["text"]
            return f"[{text}]({posixpath.relpath(page, posixpath.dirname(place))}{mark}{anchor})"
        if (REPOSITORY / file).exists():
            name = found["text"].strip("`")
            return f"`{file}`" if file.endswith(name) else f"{found['text']} (`{file}`)"
        return found[0]  # mkdocs says that it is not there

    return _CODE_OR_LINK.sub(replaced, markdown)


def _title(file: str) -> str:
    """What the site calls a page that a link calls by its file: its first heading, up to a colon."""
    if file == "README.md":
        return "home page"
    lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
    return next(line[2:].partition(":")[0] for line in lines if line.startswith("# "))


def public_names() -> str:
    """Every name of ``mcse.__all__``, functions first, to be documented from its docstrings."""
    import mcse

    names = sorted(mcse.__all__, key=lambda name: (name[0].isupper(), name))
    return "\n\n".join(f"::: mcse.{name}" for name in names if not name.startswith("__"))


def losses() -> str:
    """Every module of losses, to be documented from its docstrings."""
    modules = sorted(path.stem for path in (REPOSITORY / "mcse" / "losses").glob("*.py") if path.stem != "__init__")
    return "\n\n".join(f"::: mcse.losses.{module}" for module in modules)


def command_line() -> str:
    """Every command with its flags, in the words of ``--help``."""
    from mcse.commands.main import build_parser

    return "\n".join(_command(build_parser()))


def _command(parser: ArgumentParser, summary: str = "") -> Iterator[str]:
    yield f"## {parser.prog}\n"
    yield f"{_prose(parser.description or summary)}\n"
    yield f"```text\n{_usage(parser)}\n```\n"
    below = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != SUPPRESS and action not in below]
        if not [action for action in shown if action.dest != "help"]:
            continue
        title = _prose(group.title or "")
        if title not in {"options", "positional arguments"}:
            yield f"{title[:1].upper()}{title[1:]}:\n"
        yield from (_argument(parser, action) for action in shown if action.dest != "help")
    for action in below:
        summaries = {one.dest: one.help or "" for one in action._choices_actions}
        for name, command in action.choices.items():
            yield from _command(command, summaries[name])


def _usage(parser: ArgumentParser) -> str:
    """What must be given, and that there is more: the flags are listed below."""
    formatter = parser._get_formatter()
    needed = [action for action in parser._actions if action.required or not action.option_strings]
    formatter.add_usage(parser.usage, needed, (), prefix="")
    usage = " ".join(formatter.format_help().split())
    return usage if parser.usage else usage.replace(parser.prog, f"{parser.prog} [options]", 1)


def _argument(parser: ArgumentParser, action: Action) -> str:
    """An argument as a term with its help. Argparse has no public name for what writes them for ``--help``."""
    formatter = parser._get_formatter()
    said = _prose(formatter._expand_help(action))
    # Of several values from a list, argparse shows the list twice.
    shown = re.sub(r"(\{[^}]*\}) \[\1 \.\.\.\]", r"\1 ...", formatter._format_action_invocation(action))
    return f"`{shown}`\n:   {said}\n"


def _prose(text: str) -> str:
    """Plain text as Markdown that says the same."""
    return re.sub(r"([\\`*_{}\[\]#])", r"\\\1", html.escape(text, quote=False))


WRITTEN: dict[str, Callable[[], str]] = {"command line": command_line, "losses": losses, "public names": public_names}
"""By the comment that asks for it."""
