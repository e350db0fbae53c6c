"""The ``mcse`` console script: its commands, exit codes and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mcse.commands import main as script
from mcse.commands import prepare
from mcse.commands.main import COMMANDS, build_parser, main


def test_every_command_is_offered_and_sets_its_own_run(capsys):
    assert main([]) == 2
    offered = capsys.readouterr().err
    modules = {path.stem.replace("_", "-") for path in Path(script.__file__).parent.glob("*.py")}
    assert set(COMMANDS) <= modules
    for name in COMMANDS:
        assert name in offered
        with pytest.raises(SystemExit) as stopped:
            build_parser().parse_args([name, "--help"])
        assert stopped.value.code == 0


def test_a_command_imports_no_other():
    code = "import sys; from mcse.commands.main import main; main(['runs', '.'])\n"
    code += "print('mcse.commands.demo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepair"])
    assert stopped.value.code == 2
    assert "prepare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("bad"), 2), (FileNotFoundError("bad"), 2), (OSError("bad"), 1), (KeyboardInterrupt(), 130)],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    def fails(args):
        raise error

    monkeypatch.setattr(prepare, "run", fails)
    assert main(["prepare", "sts"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mcse prepare: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sts"], "--root"),
        (["wiki1m", "--root", "x", "--ids", "y"], "--ids selects images of flickr30k or coco; wiki1m has none"),
        (["coco", "--root", "x", "--from-hub"], "the hub has no captions for coco"),
    ],
)
def test_wrong_arguments_of_prepare(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MCSE_DATA", raising=False)
    assert main(["prepare", *arguments]) == 2
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


def test_the_module_runs_as_a_script(tmp_path):
    command = [sys.executable, "-m", "mcse.commands.main", "prepare", "coco", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cocodataset.org" in done.stderr
    assert "Traceback" not in done.stderr
