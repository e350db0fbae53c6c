"""The site builds strictly, needs no network, forgets no page, command or public name, and reads pages as forges do."""

from __future__ import annotations

import html
import importlib.util
import re
import shutil
import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser, _SubParsersAction
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown
import pytest
from markdown_it import MarkdownIt
from mkdocs.config import load_config

import mcse
from mcse.commands.main import build_parser

REPOSITORY = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / "docs" / "site" / "hooks.py")
hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hooks)
PAGES = sorted((REPOSITORY / "docs").rglob("*.md")) + [REPOSITORY / name for name in hooks.OUTSIDE]


@pytest.fixture(scope="module")
def config():
    return load_config(str(REPOSITORY / "mkdocs.yml"))


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("data.md", "[a](search.md#the-page)", "[a](search.md#the-page)"),
        ("results/vse.md", "[a](../../benchmarks/results.md#saving)", "[a](../benchmarks.md#saving)"),
        ("contributing.md", "[docs/data.md](docs/data.md)", "[Data](data.md)"),
        ("benchmarks.md", "[parity](../docs/results.md#parity)", "[parity](results.md#parity)"),
        ("benchmarks.md", "[gpu.py](gpu.py)", "`benchmarks/gpu.py`"),
        ("data.md", "[a file](../LICENSE)", "a file (`LICENSE`)"),
        ("data.md", "see [configs](../configs/).", "see `configs`."),
        ("data.md", "as in the [README](../README.md)", "as in the [home page](index.md)"),
        ("how-to/x.md", "[a](../notebooks/first-encoder.ipynb)", "[a](../notebooks/first-encoder.md)"),
        ("notebooks/first-encoder.md", "[a](../how-to/python.md)", "[a](../how-to/python.md)"),
        ("data.md", "![x](overview.svg)", "![x](overview.svg)"),
        ("data.md", "[a](https://x.org/docs/data.md) [b](#c)", "[a](https://x.org/docs/data.md) [b](#c)"),
        ("data.md", "[gone](../gone.md) [lost](lost.md)", "[gone](../gone.md) [lost](lost.md)"),
        ("data.md", "`[a](../LICENSE)`", "`[a](../LICENSE)`"),
        ("data.md", "```md\n[a](../LICENSE)\n```\n[b](../LICENSE)", "```md\n[a](../LICENSE)\n```\nb (`LICENSE`)"),
        ("data.md", "text\n\n    [a](../LICENSE)\n", "text\n\n    [a](../LICENSE)\n"),
        ("data.md", "<!-- test\n\n    [a](../LICENSE)\n-->\n\n`<!-- a -->`", "\n\n`<!-- a -->`"),
        ("data.md", "a ` alone, [b](../LICENSE)", "a ` alone, b (`LICENSE`)"),
    ],
)
def test_links_lead_to_pages_or_become_names(place, text, expected):
    assert hooks.relink(text, place) == expected


def test_a_star_stands_for_the_pages_that_are_not_named(tmp_path):
    for name in ("a/x.md", "a/y.md", "a/z.txt", "a/deep/w.md", "b.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    nav = [{"A": [{"Last": "a/y.md"}, "a/*", "a/x*"]}, {"B": "b.md"}, {"C": ["c/*"]}]
    expected = [{"A": [{"Last": "a/y.md"}, "a/x.md"]}, {"B": "b.md"}, {"C": []}]
    assert hooks.expand(nav, tmp_path) == expected


def test_what_tests_read_of_a_fence_is_left_out():
    text = '```py ray\n```\n\n```yaml title="shop.yaml"\n```\n'
    assert hooks._FENCE.sub(r"\1", text) == '```py\n```\n\n```yaml title="shop.yaml"\n```\n'


def test_every_page_is_on_a_shelf(config):
    named = Counter(hooks._leaves(hooks.expand(config.nav, REPOSITORY / "docs")))
    there = {page.relative_to(REPOSITORY / "docs").as_posix() for page in (REPOSITORY / "docs").rglob("*.md")}
    assert named.keys() == there | set(hooks.OUTSIDE.values()) | set(hooks.NOTEBOOKS.values())
    assert set(named.values()) == {1}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_site_reads_a_page_as_a_forge_does(page, config):
    """Forges read CommonMark; the site's Markdown differs in where a list begins and how far it is indented."""
    text = hooks._FENCE.sub(r"\1", page.read_text(encoding="utf-8"))
    extensions = [name for name in config.markdown_extensions if name.partition(".")[0] in ("markdown", "pymdownx")]
    extensions = [*extensions, "tables", "attr_list", "md_in_html", "def_list", "pymdownx.superfences"]
    site = markdown.markdown(text, extensions=extensions)
    forge = MarkdownIt("commonmark").enable("table").render(text)
    tag = re.compile(r"<(li|ul|ol|table|tr|h[1-6]|pre|blockquote|strong|em|img|a)\b")
    remedy = (
        "put an empty line before a list, a table and a block, and four spaces before what belongs to a list's item"
    )
    assert Counter(tag.findall(site)) == Counter(tag.findall(forge)), remedy


def parsers(parser: ArgumentParser):
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def test_every_command_and_flag_is_there_in_the_words_of_help():
    sections = dict(
        re.findall(r"^## (mcse.*?)\n(.*?)(?=^## |\Z)", hooks.command_line(), flags=re.MULTILINE | re.DOTALL)
    )
    found = list(parsers(build_parser()))
    assert [parser.prog for parser in found] == list(sections)
    assert len(found) > 30
    for parser in found:
        shown = " ".join(markdown_text(sections[parser.prog]).split())
        for action in parser._actions:
            if action.dest == "help" or action.help == SUPPRESS or isinstance(action, _SubParsersAction):
                continue
            for name in action.option_strings or action.choices or [action.metavar or action.dest]:
                assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown), (parser.prog, name)
            assert action.help, f"{parser.prog}: {action.dest} has no help"
            told = action.help % {**vars(action), "prog": parser.prog}
            assert " ".join(told.split()) in shown, (parser.prog, action.dest)
        assert " ".join((parser.description or "").split()) in shown


def markdown_text(text: str) -> str:
    """What a reader of the page sees."""
    rendered = markdown.markdown(text, extensions=["def_list", "pymdownx.superfences"])
    return html.unescape(re.sub(r"<[^>]+>", "", rendered))


def test_every_public_name_is_asked_for():
    asked = re.findall(r"^::: mcse\.(\w+)$", hooks.public_names(), flags=re.MULTILINE)
    assert sorted([*asked, "__version__"]) == sorted(mcse.__all__)


def build(folder: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` does; with ``--quiet``, for one, mkdocs would drop its warnings before it counts them."""
    said = re.search(r"/mkdocs (build .*)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))[1].split()
    command = [sys.executable, "-m", "mkdocs", *said, "-f", str(folder / "mkdocs.yml"), "-d", str(output)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "site"
    done = build(REPOSITORY, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:link|script|img|source|iframe|use|object|embed)\b[^>]*?\b(?:href|src|data)=\"?([^\s\">]+)", text
        )
        assert len(loaded) > 3
        for target in map(urlsplit, loaded):
            assert target.scheme in ("", "data"), (page, target)
            assert not target.netloc, (page, target)
            if page.name != "404.html" and not target.scheme:
                assert (page.parent / unquote(target.path)).exists(), (page, target)
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", text)
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_notebook_is_a_page_with_its_outputs(site):
    page = site / "notebooks" / "first-encoder.html"
    text = page.read_text(encoding="utf-8")
    images = re.findall(r"<img alt=\"png\" src=\"([^\"]+)\"", text)
    assert len(images) == 2
    assert all((page.parent / image).is_file() for image in images)
    assert (page.parent / "first-encoder.ipynb").is_file()
    assert len(re.findall(r"<table\b", text)) > 5
    assert "&lt;table" not in text


@pytest.mark.slow
def test_the_site_documents_what_people_import(site):
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in mcse.__all__:
        assert f'id="mcse.{name}"' in text or name == "__version__"
    assert 'id="mcse.SentenceEncoder.encode"' in text, "what a class inherits is documented"
    losses = (site / "reference" / "losses.html").read_text(encoding="utf-8")
    assert 'id="mcse.losses.contrastive.info_nce"' in losses


@pytest.mark.slow
def test_search_works_from_files(site):
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    page = f"{(site / 'index.html').as_uri()}?q=from_pretrained"
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([*command, page], capture_output=True, text=True, timeout=120)
    assert re.search(r"python\.html[^\"]*#mcse\.SentenceEncoder\.from_pretrained\"", done.stdout)


@pytest.mark.slow
def test_what_is_broken_stops_the_build(tmp_path):
    for name in ("docs", "mkdocs.yml"):
        copy = shutil.copytree if name == "docs" else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    for name in ("mcse", "benchmarks", *hooks.OUTSIDE):
        if "/" not in name:
            (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "docs" / "orphan.md").write_text("# On no shelf\n")
    with (tmp_path / "docs" / "data.md").open("a") as page:
        page.write("\n[a](absent.md) [b](search.md#absent) [c][mcse.Absent] [d](../absent.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for part in ("orphan.md", "absent.md", "#absent", "mcse.Absent", "../absent.md"):
        assert part in done.stderr, part
