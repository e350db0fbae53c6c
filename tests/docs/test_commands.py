"""Every command that README and docs show and test_pages.py does not run is one that the parser takes.

A flag that was renamed, a file that has moved and a misspelt key are found here, too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcse.commands.configs import config_path
from mcse.commands.main import build_parser
from mcse.recipes.launch import load_config
from tests.docs.pages import ALL, REPOSITORY, commands_of, name_of, read_blocks
from tests.docs.shell import FRONTS
from tests.docs.stand_ins import excuse

COMMANDS = [
    command
    for page in ALL
    for block in read_blocks(page)
    if block.kind == "shell"
    for command in commands_of(block)
    if excuse(command.words)  # what is run needs no parsing, and reads what its page made
]


def of(*programs: str) -> list[pytest.param]:
    return [pytest.param(shown, id=shown.where) for shown in COMMANDS if shown.words[0] in programs]


def check_mcse(words: list[str]) -> None:
    """Parses a command of ``mcse``; of ``train`` also the configuration with the keys given."""
    parser = build_parser()
    if words[:1] == ["train"] and not words[1].startswith("-"):
        words = ["train", *words[2:], "--recipe", words[1]]
    options, rest = parser.parse_known_args(words)
    if words[0] != "train":
        assert not rest, f"unknown arguments {rest}"
        return
    config = getattr(options, "config", None)
    rest += ["--recipe", options.recipe] if getattr(options, "recipe", None) else []
    overrides = [re.sub(r"\$\w+|\bS\b", "0", word) for word in rest]  # a loop's seed, and where the data are
    load_config(None if config is None else config_path(config), overrides)


@pytest.mark.parametrize("shown", of("mcse"))
def test_mcse_takes_the_command(shown):
    check_mcse(list(shown.words[1:]))


@pytest.mark.parametrize("shown", of("python", "accelerate", "torchrun"))
def test_python_starts_what_is_there(shown, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = [re.sub(r"\$\(mcse configs (\S+) --path\)", r"configs/\1.yaml", word) for word in shown.words]
    if words[1] == "launch" and "--config_file" in words:
        assert Path(words[words.index("--config_file") + 1]).is_file()
    if words[1] == "-c":
        compile(words[2], shown.where, "exec")
        return
    if "-m" in words:
        module, *rest = words[words.index("-m") + 1 :]
        if module == "mcse":
            check_mcse(rest)
        else:
            assert any(Path(f"{module.replace('.', '/')}{end}").exists() for end in ("", ".py"))
        return
    script = next(word for word in words if word.endswith(".py"))
    assert Path(script).is_file()
    if script in FRONTS:
        check_mcse([FRONTS[script], *words[words.index(script) + 1 :]])


@pytest.mark.parametrize("shown", of("make"))
def test_make_has_the_target(shown):
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert set(shown.words[1:]) <= set(targets)


def test_commands_are_found():
    assert all(of(*programs) for programs in (("mcse",), ("python",), ("make",)))


@pytest.mark.parametrize(
    "words",
    [
        ["prepare", "wikipedia"],
        ["search", "index", "photos", "--model", "m"],
        ["train", "--config", "mcse:simcse/bert_base_unsup", "--optim.lr", "1"],
        ["train", "--config", "configs/none.yaml"],
        ["evaluates"],
    ],
)
def test_a_wrong_command_is_found(words, capsys):
    with pytest.raises((SystemExit, ValueError)):
        check_mcse(words)


FILE = re.compile(r"(?<![\w/.])((?:tests|mcse|benchmarks|configs|docs)/[\w/.\-]+\.(?:py|yaml|md|sbatch))")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
TO_WRITE = "mcse/recipes/dropout/"
"""The recipe that docs/adding-a-recipe.md has its reader write."""


@pytest.mark.parametrize("page", [name_of(page) for page in ALL])
def test_files_that_a_page_names_are_there(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = {REPOSITORY / found for found in FILE.findall(text) if not found.startswith(TO_WRITE)}
    named |= {(REPOSITORY / page).parent / found for found in LINK.findall(text)}
    assert not [str(path) for path in named if not path.exists()]
