"""The ``mcse`` command line: its commands, exit codes and one-line errors."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

import mcse
from mcse.commands import arguments, command_line, group_arguments, prepare
from mcse.commands.arguments import COMMANDS
from mcse.commands.command_line import Command, Group
from mcse.commands.configs import config_path
from mcse.commands.main import _meant, build_parser, main
from mcse.config_fields import describe
from mcse.data.config import _FILES, Splitting
from mcse.evaluation.suites import SUITES
from mcse.manifest import Runtime
from mcse.recipes import RECIPES, config_class
from mcse.recipes.launch import load_config
from mcse.stored_rows import RowKind
from tests.fixtures.launch import arguments_of, flags_of
from tests.fixtures.tiny_run import build_tiny_run


def commands(table=COMMANDS, prefix=()):
    for name, command in table.items():
        if isinstance(command, Group):
            yield from commands(command.commands, (*prefix, name))
        else:
            yield (*prefix, name), command


def work_of(command: Command):
    module, _, function = command.work.partition(".")
    return getattr(importlib.import_module(f"mcse.commands.{module}"), function or "run")


def actions_of(command: Command):
    parser = argparse.ArgumentParser(add_help=False)
    command.arguments(parser)
    return [action for action in parser._actions if action.dest != "help"]


def test_what_most_people_need_comes_first_and_every_command_has_help(capsys):
    assert main([]) == 2
    offered = capsys.readouterr().err
    listed = [line.split()[0] for line in offered.splitlines() if line.startswith("    ") and line[4] != " "]
    assert listed == list(COMMANDS)
    assert listed[-4:] == ["words", "elmo", "cove", "maf"]
    for name, _ in commands():
        with pytest.raises(SystemExit) as stopped:
            build_parser().parse_args([*name, "--help"])
        assert stopped.value.code == 0
        assert f"usage: mcse {' '.join(name)}" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "command"), commands(), ids=[" ".join(name) for name, _ in commands()])
def test_what_is_parsed_is_what_the_work_takes(name, command):
    # What the parser of train does not know is the configuration's.
    parameters = {
        key: kind for key, kind in inspect.signature(work_of(command)).parameters.items() if key != "overrides"
    }
    actions = actions_of(command)
    assert {action.dest for action in actions} == set(parameters), name
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    # Not given, a value is not passed: its default stands at the function alone.
    assert needed == {action.dest for action in actions if action.required and action.nargs not in ("*", "?")}
    assert all(action.default in (None, False, argparse.SUPPRESS) for action in actions)


def test_choices_that_are_listed_for_the_parser_are_those_that_there_are():
    from mcse.commands.extract_features import PRECISIONS
    from mcse.export.folders import ExportPrecision, Format

    assert set(arguments.DATASETS) == {*prepare.SENTENCES, *prepare.IMAGES, "sts"}
    assert tuple(PRECISIONS) == arguments.PRECISIONS
    assert tuple(SUITES) == arguments.SUITES
    assert get_args(Splitting) == group_arguments.SPLITTINGS
    assert get_args(Runtime) == arguments.BACKENDS
    assert get_args(ExportPrecision) == arguments.EXPORT_PRECISIONS
    assert get_args(Format) == arguments.FORMATS
    assert get_args(RowKind) == command_line.ROW_KINDS


@pytest.mark.parametrize("name", ["prepair", "ground-words"])
def test_unknown_command_is_refused(capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([name])
    assert stopped.value.code == 2
    assert "prepare" in capsys.readouterr().err


def test_a_group_alone_says_what_is_below_it(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["words"])
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


CONFIG = ("train", "--config", "mcse:simcse/minilm_wiki_cpu")
MISTAKES = {
    "a key of other recipes": (
        [*CONFIG, "--loss.image_weight", "1"],
        "command line: unknown key 'loss.image_weight'; the recipes mcse, kdmcse, dalr, unpaired have this key; simcse",
    ),
    "a key of a group that others have": (
        [*CONFIG, "--image.head_learning_rate", "1"],
        "command line: unknown key 'image.head_learning_rate'; the recipes mcse, kdmcse, dalr, vse have this key",
    ),
    "a short name": (
        [*CONFIG, "--train.lr", "1"],
        "command line: unknown key 'train.lr'; did you mean 'optim.learning_ra",
    ),
    "half a variant": (
        [*CONFIG, "--mix.pair_every", "3"],
        "command line: mix: give one of schedule: mcse or schedule: e",
    ),
    "a flag": ([*CONFIG, "--dryrun"], "unrecognized arguments: --dryrun; did you mean --dry-run?"),
    "a flag for a value": (
        [*CONFIG, "--seed", "--optim.lr", "1"],
        "--seed lacks its value: keys are given as --key value",
    ),
    "a flag of a command": (
        ["evaluate", "x", "--sute", "sts"],
        "--sute sts; did you mean --suite? (mcse evaluate --help)",
    ),
    "a command": (["evalute", "x"], "no command 'evalute'; did you mean 'evaluate'?"),
    "a command of a group": (["search", "indx", "x"], "no command 'indx'; did you mean 'index'?"),
    "a recipe": (["train", "simcs"], "got 'simcs' (did you mean 'simcse'?)"),
    "a config by its name": (["train", "--config", "bert_base_sup"], "did you mean mcse:simcse/bert_base_sup?"),
    "a config by half its name": (
        ["train", "--config", "configs/mcse/minilm_cpu.yaml"],
        "no file at configs/mcse/minilm_cpu.yaml; did you mean mcse:mcse/minilm_wiki_flickr8k_cpu",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_said_with_what_was_meant(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, said = MISTAKES[case]
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_a_config_of_ones_own_is_found_beside(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.yaml").write_text("recipe: simcse\n")
    assert main(["train", "--config", "myrun.yaml"]) == 2
    assert "no file at myrun.yaml; did you mean my_run.yaml?" in capsys.readouterr().err


def test_all_that_is_wrong_with_a_run_is_said_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    keys = {
        "optim.lr": "1",
        "train.batch_size": "x",
        "encoder.name_or_path": f"{tmp_path}/bert",
        "data.sentences": "a.txt",
        "data.captions": "b.csv",
        "data.captions.images": "null",
        "data.images": "store",
        "data.sts": "c.tsv",
    }
    flags = [text for key, value in keys.items() for text in (f"--{key}", value)]
    assert main(["train", "--config", "mcse:mcse/minilm_wiki_flickr8k_cpu", *flags]) == 2
    faults = capsys.readouterr().err.removeprefix("mcse train: ").splitlines()
    assert [fault.split(";")[0].split(" at ")[0] for fault in faults] == [
        "command line: unknown key 'optim.lr'",
        "command line: train.batch_size: input should be a valid integer, got 'x'",
        "command line: encoder.name_or_path: no folder",
        "command line: data.sentences: no file",
        "command line: data.captions: no file",
        "command line: data.images.features: nothing",
        "command line: data.sts: neither a folder nor a file",
    ]
    assert f"{tmp_path}/a.txt; relative paths start at data.root = {tmp_path}" in faults[3]


@pytest.mark.parametrize(
    "keys",
    [
        {"encoder.name_or_path": "bert-base-uncased", "data.sentences": "OWNER/NAME"},
        {"encoder.name_or_path": "package:NAME/FOLDER/MORE", "data.sentences": "hf://datasets/OWNER/NAME/FILE.txt"},
        {"data.sentences": "OWNER/NAME::COLUMN", "data.sts": "null"},
        {"data.sentences": {"stream": "text/*.txt.gz"}},
        {"data.captions": "OWNER/NAME", "mix.schedule": "every"},
    ],
)
def test_what_the_hub_or_a_pattern_may_name_is_not_missed(keys, monkeypatch, tmp_path):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    keys = {"data.sentences": "OWNER/NAME"} | keys
    assert load_config(config_path("mcse:simcse/minilm_wiki_cpu"), flags_of(keys), check_files=True)


def test_keys_of_files_are_keys():
    known = {re.sub(r"\[\]", "[0]", info.key) for name in RECIPES for info in describe(config_class(name))}
    assert {key for key in known if _FILES.fullmatch(key)} >= {
        "data.sentences", "data.captions.file", "data.captions.images", "data.images.features", "data.images.folder",
        "data.images.table.path", "data.table.path", "data.tables[0].path", "data.sts", "data.dev_source",
        "words.similarity", "encoder.word_vectors", "evaluate[0].path",
    }  # fmt: skip


NO_DATA = {
    *("config", "encoder", "folders", "guide", "index", "mirror", "model", "models", "only", "output", "repository"),
    *("root", "run_folder", "sheet", "study", "tower", "true", "shuffled"),
    *("device", "host", "languages", "licence", "name", "pooling", "prompt", "prompt_name", "recipe", "seeds"),
    *("settings", "tasks", "token"),
}
"""Arguments that name models, runs, indexes and what is written; prepare --root has the variable as its default."""

TEXTS = {"among", "column", "columns", "datasets", "id_column", "merged", "minus", "plus", "positive", "query", "words"}
TEXTS |= {"name_or_path", "names", "captions", "sentences", "table", "sts"}
"""Words and names of columns and models; of init names below its folder."""


@pytest.mark.parametrize(("name", "command"), commands(), ids=[" ".join(name) for name, _ in commands()])
def test_data_that_a_command_takes_is_looked_for_below_the_data_variable(name, command, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "data" / "below").mkdir(parents=True)
    (tmp_path / "data" / "below" / "x.csv").write_text("a\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MCSE_DATA", str(tmp_path / "data"))
    found = str(tmp_path / "data" / "below" / "x.csv")
    for action in actions_of(command):
        if action.nargs == 0 or action.choices or action.type in (int, float) or action.dest in NO_DATA:
            continue
        if action.type in (command_line.data_file, command_line.data_path):
            assert str(action.type("below/x.csv")) == found
            assert str(action.type(f"{tmp_path}/y.csv")) == f"{tmp_path}/y.csv"
            assert str(action.type("OWNER/NAME")) == "OWNER/NAME"
        else:
            assert action.dest in TEXTS or (name, action.dest) in {
                (("search", "query"), "text"), (("words", "contexts"), "queries"),
            }, action.dest  # fmt: skip
    assert command_line.data_file("below/x.csv::text") == f"{found}::text"
    (tmp_path / "here" / "below").mkdir()
    (tmp_path / "here" / "below" / "x.csv").write_text("nearer\n")
    assert command_line.data_file("below/x.csv") == "below/x.csv"


@pytest.mark.parametrize("name", [(), *(name for name, _ in commands()), ("search",)], ids=" ".join)
def test_every_command_says_its_version(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*name, "--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"mcse {mcse.__version__}\n"


SNAPSHOTS = """
import contextlib, io, json, sys
from pathlib import Path
from mcse.commands.main import main

def snapshot():
    files = (path for path in Path(sys.argv[1]).rglob("*") if path.is_file() and "matplotlib" not in str(path))
    return {str(path): path.stat().st_mtime_ns for path in files}

for arguments in json.loads(sys.argv[2]):
    before = snapshot()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(arguments)
    print(json.dumps([code, sorted({path for path, _ in before.items() ^ snapshot().items()})]))
"""
"""The library matplotlib keeps a list of fonts below the home."""


@pytest.mark.slow
def test_commands_that_only_find_data_write_nothing(tmp_path):
    for name in ("home", "cwd", "tmp"):
        (tmp_path / name).mkdir()
    build_tiny_run(tmp_path / "data")
    train = ["train", *arguments_of(tmp_path / "data", "mcse", tmp_path / "cwd" / "run")]
    calls = [
        ["evaluate", "--list"],
        [*train, "--print-config"],
        [*train, "--dry-run"],
        ["configs"],
        ["runs", "."],
        ["study", "mcse:studies/scenes_quick", "--dry-run"],
    ]
    folders = {"HOME": "home", "TMPDIR": "tmp", "MCSE_DATA": "data"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment = kept | {key: str(tmp_path / name) for key, name in folders.items()} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SNAPSHOTS, str(tmp_path), json.dumps(calls)]
    done = subprocess.run(command, cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert told == [[0, []]] * len(calls)


def test_no_key_looks_like_a_flag_of_train():
    parser = argparse.ArgumentParser(add_help=False)
    COMMANDS["train"].arguments(parser)
    for recipe in RECIPES:
        for key in {info.key.partition(".")[0].partition("[")[0] for info in describe(config_class(recipe))} - {
            "recipe"
        }:
            assert _meant(parser, [f"--{key}"], cutoff=0.85) == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("bad"), 2), (FileNotFoundError("bad"), 2), (OSError("bad"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    def fails(dataset):
        raise error

    monkeypatch.setattr(prepare, "run", fails)
    assert main(["prepare", "sts"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mcse prepare: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sts"], "--root"),
        (["wiki1m", "--root", "x", "--ids", "y"], "--ids selects images of flickr30k or coco; wiki1m has none"),
        (["coco", "--root", "x", "--from-hub"], "the hub has no captions for coco"),
    ],
)
def test_wrong_arguments_of_prepare(monkeypatch, capsys, tmp_path, given, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    assert main(["prepare", *given]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_data_variable_is_the_default_root(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MCSE_DATA", str(tmp_path))
    assert main(["prepare", "coco"]) == 2
    assert str(tmp_path / "coco") in capsys.readouterr().err


def test_a_path_that_is_no_folder_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["prepare", "coco", "--root", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("mcse prepare: ")


@pytest.mark.slow
def test_the_package_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "mcse", "prepare", "coco", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cocodataset.org" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_lists_recipes_and_a_recipes_keys(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in RECIPES)
    for name in RECIPES:
        with pytest.raises(SystemExit):
            main(["train", name, "--help"])
        shown = capsys.readouterr().out
        for info in describe(config_class(name)):
            assert info.key == "recipe" or f"--{info.key}  ({info.type}; " in shown
    with pytest.raises(SystemExit) as stopped:
        main(["train", "simce", "--help"])
    assert stopped.value.code == 2
    assert f"choose one of {next(iter(RECIPES))}" in capsys.readouterr().err


def test_the_recipe_is_the_first_argument_and_a_keys_value_is_not(capsys, tmp_path):
    keys = ["--output_dir", "x", "--encoder.name_or_path", "bert"]
    assert main(["train", "simcse", *keys, "--print-config"]) == 2
    assert "missing key 'optim" in capsys.readouterr().err
    assert main(["train", *keys]) == 2
    assert "recipe: choose one of" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"mcse {mcse.__version__}\n"
    assert "0.1.0" in mcse.__version__


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["configs"], ["train", "mcse", "--help"]])
def test_a_reader_that_stops_is_no_error(arguments):
    """As under ``| head``: the reading end is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mcse", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "lower"),
    [
        (["train", "--config", "x.yaml"], "Lower train.batch_size or data.max_length, or give train.cached_chunk_size"),
        (["evaluate", "x"], "Lower --batch-size"),
        (["runs", "."], "Give it less at once"),
    ],
)
@pytest.mark.parametrize("ask", [lambda: torch.empty(10**16), lambda: np.empty(10**16)])
def test_too_little_memory_is_said_in_a_line_with_what_to_lower(ask, arguments, lower, monkeypatch, capsys):
    module = importlib.import_module(f"mcse.commands.{arguments[0]}")

    def run(**_):
        ask()

    run.__signature__ = inspect.signature(module.run)
    monkeypatch.setattr(module, "run", run)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "alloc" in line
    assert lower in line


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_of_a_recipe_shows_no_marks_of_code_and_cuts_no_value(recipe, capsys):
    with pytest.raises(SystemExit):
        main(["train", recipe, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "`" not in shown
    for info in describe(config_class(recipe)):
        if info.key != "recipe":
            assert f"--{info.key} ({info.type}" in shown
            assert all(choice in shown for choice in info.choices)


@pytest.mark.parametrize(("name", "takes"), [("train", True), ("evaluate", True), ("runs", False), ("configs", False)])
def test_commands_that_show_progress_can_be_told_not_to(name, takes, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert ("--quiet" in capsys.readouterr().out) == takes


def test_quiet_is_for_one_call_alone(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    seen = []
    monkeypatch.setattr("mcse.commands.export.run", lambda **options: seen.append(os.environ["TQDM_DISABLE"]) or 0)
    assert main(["export", "run", "--to", "onnx", "--output", "out", "--quiet"]) == 0
    assert seen == ["1"]
    assert not {"TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"} & os.environ.keys()
