"""What a command imports before it knows that its arguments are good: help and refusals come at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcse.commands.arguments import COMMANDS
from mcse.commands.command_line import Group

CONFIGURATION = {
    "annotated_types",
    "cython_runtime",
    "pydantic",
    "pydantic_core",
    "safetensors",
    "typing_extensions",
    "typing_inspection",
    "yaml",
}
"""What reading a configuration needs. PyTorch, NumPy and transformers take seconds and are not among it."""

SHOWS = {"tqdm"}
"""Shows that the others are being loaded, where that takes long; it takes hundredths of a second itself."""

CODE = """
import contextlib, io, json, sys
before = set(sys.modules)
from mcse.commands.main import main
told = []
for arguments in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main(arguments)
    told.append(out.getvalue())
found = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([sorted(found - set(sys.stdlib_module_names) - {"mcse"}), told]))
"""
FILE = str(Path(__file__).resolve().parents[3] / "configs" / "simcse" / "minilm_wiki_cpu.yaml")


def imported(*calls: list[str]) -> tuple[set[str], list[str]]:
    """The libraries that some command lines import, one after another in one process, and what each prints."""
    command = [sys.executable, "-c", CODE, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    libraries, told = json.loads(done.stdout)
    return {name for name in libraries if not name.startswith("_")}, told


@pytest.mark.slow
def test_help_imports_no_library():
    calls = [["--help"], ["--version"], ["trian"]]
    for name, command in COMMANDS.items():
        if isinstance(command, Group):
            calls += ([name, part, "--help"] for part in command.commands)
        elif name != "train":
            calls.append([name, "--help"])
    libraries, told = imported(*calls)
    assert libraries <= SHOWS
    assert all(f"usage: mcse {' '.join(call[:-1])}" in text for call, text in zip(calls, told, strict=True) if call[1:])


@pytest.mark.slow
def test_a_configuration_is_read_with_few_libraries():
    calls = {
        "grounded_words": ["train", "--help"],
        "--encoder.name_or_path": ["train", "maf", "--help"],
        "recipe: simcse": ["train", "--config", FILE, "--print-config"],
        "did you mean 'optim.learning_rate'?": ["train", "--config", FILE, "--optim.lerning_rate", "1e-5"],
        "comes with mcse": ["train", "--config", "mcse:simcse/nothing"],
        "simcse/bert_base_unsup": ["configs"],
        "--seeds: 'x' in 'x' is no seed": ["sweep", FILE, "--seeds", "x"],
        "unknown key 'optim.lerning_rate'": ["sweep", FILE, "--seeds", "0-2", "--set", "optim.lerning_rate=1"],
    }
    libraries, told = imported(*calls.values())
    # A sweep shows a table.
    assert libraries <= CONFIGURATION | SHOWS | {"rich"}
    assert all(said in text for said, text in zip(calls, told, strict=True))


PYTHON = """
import json, sys
before = set(sys.modules)
def libraries():
    found = {name.partition(".")[0] for name in set(sys.modules) - before}
    return sorted(found - set(sys.stdlib_module_names) - {"mcse"})
import mcse
told = [libraries()]
try:
    mcse.train({"recipe": "simcse", "optim": {"lerning_rate": 1e-5}})
except ValueError as error:
    told += [libraries(), str(error)]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_in_python_too_a_wrong_configuration_is_refused_before_the_libraries_load():
    done = subprocess.run([sys.executable, "-c", PYTHON], capture_output=True, text=True, check=True)
    alone, refusing, message = json.loads(done.stdout)
    assert alone == []
    assert {name for name in refusing if not name.startswith("_")} <= CONFIGURATION | SHOWS
    assert "did you mean 'optim.learning_rate'?" in message


@pytest.mark.slow
def test_the_check_sees_a_heavy_library():
    assert "numpy" in imported(["evaluate", "x", "--folds", "2"])[0]
