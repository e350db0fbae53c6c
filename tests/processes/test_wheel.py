"""A wheel is built, unpacked into an empty folder, and used there without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PARTS = ("mcse", "configs", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The unpacked wheel."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for part in PARTS:
        path = repository / part
        if path.is_dir():
            # The link to configs is copied as the link that it is.
            shutil.copytree(path, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / part)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("mcse-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


def mcse(installed: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "mcse", *arguments]
    return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)


def test_the_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import mcse, mcse.commands.configs as c; print(mcse.__file__, c.CONFIGS)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(installed / "mcse" / "__init__.py"), str(installed / "mcse" / "configs")]
    assert (installed / "mcse" / "py.typed").is_file()
    assert list((installed / "mcse").rglob("*.j2"))


def test_every_configuration_is_in_the_wheel_and_is_listed(installed: Path, tmp_path: Path, repository: Path) -> None:
    files = {path.relative_to(repository / "configs"): path for path in (repository / "configs").rglob("*.*")}
    assert len(files) > 60
    for name, path in files.items():
        assert (installed / "mcse" / "configs" / name).read_bytes() == path.read_bytes()
    done = mcse(installed, tmp_path, "configs")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert listed >= {name.with_suffix("").as_posix() for name in files if name.suffix == ".yaml"}


@pytest.mark.parametrize("name", ["demo/mcse", "simcse/bert_base_unsup", "grounded_words/scenes"])
def test_a_configuration_is_taken_by_name(installed: Path, tmp_path: Path, name: str) -> None:
    done = mcse(installed, tmp_path, "train", "--config", f"mcse:{name}", "--print-config", "--seed", "5")
    assert done.returncode == 0, done.stderr
    assert "\nseed: 5\n" in done.stdout
    assert not any(tmp_path.iterdir())


def test_help_and_version_need_no_checkout(installed: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["train", "--help"], "simcse"),
        (["evaluate", "--help"], "--suite"),
        (["--version"], "mcse "),
    ):
        done = mcse(installed, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
