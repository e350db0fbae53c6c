"""The notebooks run from nothing, in a fresh kernel and without a network, and their outputs are committed, small.

``MCSE_WRITE_DOCS=1 pytest tests/docs/test_notebooks.py`` writes the outputs anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000
SECONDS = 120

pytestmark = pytest.mark.slow


def kinds(cell):
    """What a cell shows: the media types of its outputs, without what goes by on a stream."""
    return [sorted(output["data"]) for output in cell.get("outputs", ()) if "data" in output]


def write(notebook, path):
    """Writes a notebook without times, and with what a bar left on the screen in the end."""
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    nbformat.write(notebook, path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_committed(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # of bars that ipywidgets would draw
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    committed = [kinds(cell) for cell in notebook.cells]
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
    client.execute()
    if os.environ.get("MCSE_WRITE_DOCS") == "1":
        write(notebook, path)
        return
    assert [kinds(cell) for cell in notebook.cells] == committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_small_and_whole(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    code = [cell for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]
    assert code
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in types for cell in code for types in kinds(cell))
    assert any("text/html" in types for cell in code for types in kinds(cell))
    streams = [output.text for cell in code for output in cell.outputs if output.output_type == "stream"]
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|usr)/|Warning", "".join(streams))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_there_is_a_notebook():
    assert NOTEBOOKS
