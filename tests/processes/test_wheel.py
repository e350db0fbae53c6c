"""Source archive and wheel: built, checked, and the wheel installed and used where the checkout is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import numpy as np
import pytest

from mcse import SentenceEncoder
from mcse.models.checkpoint import save_sentence_transformers
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert

PARTS = ("mcse", "configs", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of ``python -m build``, of files of the checkout alone."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        path = repository / part
        if path.is_dir():
            # The link to configs is copied as the link that it is.
            shutil.copytree(path, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / part)
    # Without isolation, which would download setuptools. The wheel is built from the archive.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, where the libraries of this one are found, and the checkout is not."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    [wheel] = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    # A checkout on PYTHONPATH that is installed itself would count as the wheel.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True, capture_output=True, env=environment)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def start(installed: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of the environment, in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "bin" / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)


def test_archive_and_wheel_are_what_an_index_takes(built: Path) -> None:
    [archive], [wheel] = built.glob("mcse-*.tar.gz"), built.glob("mcse-*-py3-none-any.whl")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(archive), str(wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "mcse/configs/demo/mcse.yaml"} <= names


def test_the_metadata_say_what_it_is_and_what_each_extra_brings(installed: Path, repository: Path) -> None:
    [found] = [Distribution.at(path) for path in installed.glob("lib/python*/site-packages/mcse-*.dist-info")]
    assert found.metadata["Summary"].startswith("Train and evaluate ")
    extras = set(found.metadata.get_all("Provides-Extra"))
    assert {"serve", "onnx", "openvino", "lora", "judge", "track", "all"} <= extras
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == project.keys()
    # Whatever an error or a page tells people to install is there.
    pages = [*(repository / "mcse").rglob("*.py"), *(repository / "docs").rglob("*.md"), repository / "README.md"]
    told = {name for page in pages for name in re.findall(r"mcse\[([a-z0-9,-]+)\]", page.read_text())}
    assert told
    assert {name for names in told for name in names.split(",")} <= extras | {"str"}


def test_the_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import mcse, mcse.commands.configs as c; print(mcse.__file__, c.CONFIGS)"
    done = start(installed, tmp_path, "python", "-P", "-c", code)
    [package] = installed.glob("lib/python*/site-packages/mcse")
    assert done.stdout.split() == [str(package / "__init__.py"), str(package / "configs")], done.stderr
    assert (package / "py.typed").is_file()


def test_every_configuration_is_in_the_wheel_and_is_listed(installed: Path, tmp_path: Path, repository: Path) -> None:
    files = {path.relative_to(repository / "configs"): path for path in (repository / "configs").rglob("*.*")}
    assert len(files) > 60
    [configs] = installed.glob("lib/python*/site-packages/mcse/configs")
    for name, path in files.items():
        assert (configs / name).read_bytes() == path.read_bytes()
    done = start(installed, tmp_path, "mcse", "configs")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert listed >= {name.with_suffix("").as_posix() for name in files if name.suffix == ".yaml"}


@pytest.mark.parametrize("name", ["demo/mcse", "simcse/bert_base_unsup", "grounded_words/scenes"])
def test_a_configuration_is_taken_by_name(installed: Path, tmp_path: Path, name: str) -> None:
    done = start(installed, tmp_path, "mcse", "train", "--config", f"mcse:{name}", "--print-config", "--seed", "5")
    assert done.returncode == 0, done.stderr
    assert "\nseed: 5\n" in done.stdout
    assert not any(tmp_path.iterdir())


def test_help_and_version_need_no_checkout(installed: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["--help"], "evaluate"),
        (["train", "--help"], "simcse"),
        (["evaluate", "--help"], "--suite"),
        (["--version"], "mcse "),
    ):
        done = start(installed, tmp_path, "mcse", *arguments)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_it_encodes_and_writes_reports_from_the_wheels_templates(installed: Path, tmp_path: Path) -> None:
    bert, model, empty = build_tiny_bert(tmp_path / "bert"), tmp_path / "model", tmp_path / "empty"
    for folder in (model, empty):
        folder.mkdir()
    tokenizer = load_tokenizer(str(bert))
    save_sentence_transformers(
        model, encoder=load_text_encoder(str(bert), pooling="mean"), tokenizer=tokenizer, head=None
    )
    code = f"""
import numpy as np
from mcse import SentenceEncoder
np.save("rows.npy", SentenceEncoder.from_pretrained({str(model)!r}).encode(["two dogs"]))
"""
    done = start(installed, empty, "python", "-P", "-c", code)
    assert done.returncode == 0, done.stderr
    rows = SentenceEncoder.from_pretrained(model).encode(["two dogs"])
    np.testing.assert_allclose(np.load(empty / "rows.npy"), rows, atol=1e-6)
    pairs = "".join(f"{n % 6}\t{TEXTS[n % 10]}\t{TEXTS[n * 3 % 10]}\n" for n in range(20))
    (empty / "pairs.tsv").write_text("score\tsentence1\tsentence2\n" + pairs)
    done = start(
        installed, empty, "mcse", "evaluate", str(model), "--suite", "sts", "--data", "pairs.tsv", "--output", "out"
    )
    assert done.returncode == 0, done.stderr
    assert "<html" in (empty / "out" / "report.html").read_text()
