"""What runs the pages: that bash's own ways hold, and that what is wrong on a page is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, read_blocks
from tests.docs.shell import Shell, mcse_words, opened
from tests.docs.stand_ins import excuse

PAGE = """# Title

Prose with `mcse train`.

    mcse configs
    mcse runs runs

!!! note
    mcse is not a command here.

    results.json holds numbers

<!-- test: big/model => $KIT/small -->
<!-- test
stand-in shop shop
-->
1. A step:

    ```sh
    mcse embed big/model \\
        --input a.txt
    ```

```yaml title="a/shop.yaml"
recipe: mcse
```
```python
print(1)
```
```text
mcse said this
```
"""


@pytest.fixture
def shell(tmp_path):
    (tmp_path / "calls").mkdir()
    stood_in: list[str] = []
    shell = Shell(
        tmp_path,
        calls=tmp_path / "calls",
        environment={"WHERE": "here"},
        excuse=excuse,
        change=lambda arguments: arguments,
        stand_in=stood_in.extend,
    )
    with opened(shell, tmp_path / "cache"):
        shell.stood_in = stood_in
        yield shell


def test_blocks_of_a_page(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.docs.pages.REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    found = [(block.line, block.kind, block.text, block.name) for block in read_blocks("page.md")]
    assert found == [
        (5, "shell", "mcse configs\nmcse runs runs\n", ""),
        (13, "replace", "big/model => $KIT/small", ""),
        (15, "hidden", "stand-in shop shop\n", ""),
        (20, "shell", "mcse embed big/model \\\n    --input a.txt\n", ""),
        (25, "file", "recipe: mcse\n", "a/shop.yaml"),
        (28, "python", "print(1)\n", ""),
    ]


def test_a_comment_without_an_arrow_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.docs.pages.REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text("\n<!-- test: big small -->\n")
    with pytest.raises(ValueError, match=r"page\.md:2: .* is not <!-- test: SHOWN => RUN -->"):
        read_blocks("page.md")


def test_loops_pipes_variables_and_folders_are_those_of_bash(shell):
    said = shell.run('for n in 1 2; do mcse configs | head -n 1; done\nmkdir below && cd below\nexport OWN="a b"\n')
    first = said.splitlines()
    assert len(first) == 2
    assert first[0] == first[1] != ""
    read = "os.getcwd(), *map(os.environ.get, ('OWN', 'WHERE', 'ONCE')), sys.stdin.read()"
    code = f"import os, sys; print({read})"
    said = shell.run(f'echo typed | ONCE=1 python -c "{code}"\nstand-in run mcse "two words"\n')
    assert said.split("\n")[0] == f"{Path.cwd()} a b here 1 typed"
    assert Path.cwd().name == "below"
    assert shell.stood_in == ["run", "mcse", "two words"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mcse train --config none.yaml\necho on\n", "exit code 2: mcse train --config none.yaml"),
        ("mcse evaluate --lst | cat\n", "exit code 2: mcse evaluate --lst"),
        ("python -c 'raise ValueError(7)'\n", "ValueError: 7"),
        ("cat none.txt\n", "none.txt: No such file"),
        ("mces train\n", "mces: command not found"),
        ("docker-compose up\n", "not found"),
        ("torchrun other.py\n", "a stand-in or an excuse is missing"),
    ],
)
def test_what_fails_is_named(shell, text, said):
    with pytest.raises(AssertionError, match=said):
        shell.run(text)


def test_an_excused_command_does_nothing(shell):
    assert shell.run("pip install mcse\ndocker run mcse\necho $?\n") == "0\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python train.py --seed 1", ["train", "--seed", "1"]),
        ("accelerate launch --config_file a.yaml train.py --seed 1", ["train", "--seed", "1"]),
        ("torchrun --nproc_per_node 2 -m mcse embed m", ["embed", "m"]),
        ("python -c train.py", None),
    ],
)
def test_commands_behind_launchers(line, words):
    assert mcse_words(line.split()) == words
    assert (REPOSITORY / "train.py").is_file()
