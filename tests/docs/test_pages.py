"""README, tutorials and how-to pages, run from top to bottom: shell, Python and files, each page in its own folder.

Nothing is downloaded, trained for long or started as another Python: tests/docs/stand_ins.py has what stands in for
what, tests/docs/pages.py how a page names more. The commands of the other pages are parsed (test_commands.py).
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import ALL, PROGRAMS, REPOSITORY, RUN, Block, commands_of, first_word, read_blocks
from tests.docs.shell import Shell, opened
from tests.docs.stand_ins import EXCUSED, Kit, excuse
from tests.fixtures.config_files import published_data, stand_in_encoders
from tests.fixtures.processes import free_port

PARSED = ("mcse", "python", "accelerate", "torchrun", "make")
"""Programs whose words tests/docs/test_commands.py parses."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Kit:
    folder = tmp_path_factory.mktemp("kit")
    return Kit(folder, data=published_data(tmp_path_factory), encoders=stand_in_encoders(tmp_path_factory))


def run_page(page: str, kit: Kit, folder: Path) -> list[tuple[float, str]]:
    """Runs all blocks of a page in ``folder``; returns the CPU seconds of each command, and the command."""
    place, data, port = folder / "place", folder / "data", free_port()
    (folder / "calls").mkdir()
    shutil.copytree(kit.data, data)
    environment = {"DATA": str(data), "KIT": str(kit.folder)}
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
        change=lambda arguments: kit.change(arguments, port=port),
        stand_in=kit.stand_in,
    )
    names: dict[str, object] = {"__name__": "__main__"}
    stand_ins = {f"{host}:8765": f"{host}:{port}" for host in ("127.0.0.1", "localhost")}
    with opened(shell, folder / "cache"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("MCSE_DATA", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        for block in read_blocks(page):
            if block.kind == "replace":
                shown, there = block.text.split(" => ", 1)
                stand_ins[shown] = there.replace("$KIT", str(kit.folder)).replace("$DATA", str(data))
                continue
            patch.chdir(place)
            _run_block(block, kit.shown(block.text, stand_ins), shell, names)
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


def fate(block: Block) -> str | None:
    """What becomes of a block of shell: ``run``, ``parsed`` or ``excused``; ``None`` if nothing does."""
    commands = commands_of(block)
    if all(excuse(command.words) for command in commands):  # or there is none but patterns, with FILE or […]
        return "excused"
    if block.page in RUN:
        return "run"
    return "parsed" if any(command.words[0] in PARSED for command in commands) else None


def shell_blocks() -> list[Block]:
    return [block for page in ALL for block in read_blocks(page) if block.kind == "shell"]


def test_every_block_is_run_parsed_or_excused(capsys):
    fates = {block.where: fate(block) for block in shell_blocks()}
    counts = Counter(fates.values())
    python = sum(block.kind == "python" for page in ALL for block in read_blocks(page))
    said = f"shell blocks: {counts['run']} run, {counts['parsed']} parsed, {counts['excused']} excused; "
    with capsys.disabled():
        print(f"\n{said}Python blocks: {python} run")  # noqa: T201
    assert not [where for where, what in fates.items() if what is None]
    assert counts["run"] > 5


def test_every_line_of_shell_is_in_a_block():
    """By another route: fences by their marks, and indented lines that begin with a program."""
    for page in ALL:
        text = page.read_text(encoding="utf-8")
        blocks = read_blocks(page)
        fences = re.findall(r"^ *```(?:sh|bash|console)\b", text, re.M)
        fenced = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
        lines = [line for line in fenced.splitlines() if re.match(r" {4}", line) and first_word(line) in PROGRAMS]
        held = [line for block in blocks for line in block.text.splitlines()]
        assert sum(block.kind == "shell" for block in blocks) >= len(fences)
        assert not [line for line in lines if line.strip() not in {one.strip() for one in held}], page


def test_no_excuse_is_idle():
    lines = [line.strip() for block in shell_blocks() for line in block.text.splitlines()]
    assert not [pattern for pattern in EXCUSED if not any(re.search(pattern, line) for line in lines)]
