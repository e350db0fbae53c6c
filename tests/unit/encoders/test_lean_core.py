"""What encoding imports, and that it needs no more: in an environment of a few libraries, and beside transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from mcse import SentenceEncoder
from mcse.models.checkpoint import save_sentence_transformers
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from tests.fixtures.tiny_models import build_tiny_bert

pytestmark = pytest.mark.slow

CORE = ("huggingface_hub", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "torch", "tqdm", "transformers")
"""docs/deploying.md names these for those who encode and do nothing else."""

HEAVY = {
    *("accelerate", "datasets", "h5py", "matplotlib", "onnx", "onnxruntime", "open_clip", "openvino", "pandas", "peft"),
    *("pyarrow", "rich", "scipy", "sentence_transformers", "sklearn", "timm", "torchvision"),
}
THEIR_OWN = {"accelerate", "scipy", "torchvision"}
"""transformers imports these with any model, where they are installed, for losses of detectors of objects."""

OURS = {"annotated_types", "mcse", "pydantic", "pydantic_core", "typing_inspection"}

ENCODES = """
from mcse import SentenceEncoder
rows = SentenceEncoder.from_pretrained(sys.argv[1]).encode(["A man plays the guitar.", "two dogs"]).tolist()
"""
LOADS = """
from transformers import AutoModel, AutoTokenizer
AutoModel.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
rows = []
"""
TELLS = """
import json
names = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(json.dumps([sorted(names), rows]))
"""


def told(code: str, model: Path, *flags: str, path: str) -> tuple[set[str], list[list[float]]]:
    """The libraries that a fresh Python has imported in the end, and its rows."""
    command = [sys.executable, *flags, "-c", f"import sys\n{code}{TELLS}", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    libraries, rows = json.loads(done.stdout)
    return set(libraries), rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bert = str(build_tiny_bert(folder / "bert"))
    text, tokenizer = load_text_encoder(bert, pooling="mean"), load_tokenizer(bert)
    (folder / "st").mkdir()
    save_sentence_transformers(folder / "st", encoder=text, tokenizer=tokenizer, head=None)
    return folder / "st"


def needed(name: str, seen: set[str]) -> Iterator[Distribution]:
    """A library as it is installed here, and all that it says it needs."""
    if name.lower() in seen:
        return
    seen.add(name.lower())
    try:
        found = distribution(name)
    except PackageNotFoundError:  # another platform's
        return
    yield found
    for line in found.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from needed(requirement.name, seen)


def linked(folder: Path, names: tuple[str, ...]) -> str:
    """A folder in which these libraries are found with what they need, and no others."""
    seen: set[str] = set()
    for name in names:
        for found in needed(name, seen):
            for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(Path(str(found.locate_file(top))))
    return str(folder)


def test_encoding_works_where_only_its_libraries_are_installed(model, tmp_path, repository):
    few = linked(tmp_path, CORE)
    # Without site: nothing of this environment's own folder.
    libraries, rows = told(ENCODES, model, "-S", path=f"{few}{os.pathsep}{repository}")
    assert "torch" in libraries
    assert not libraries & HEAVY
    expected = SentenceEncoder.from_pretrained(model).encode(["A man plays the guitar.", "two dogs"])
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_encoding_imports_what_transformers_does_and_pydantic(model, repository):
    ours, _ = told(ENCODES, model, path=str(repository))
    theirs, _ = told(LOADS, model, path=str(repository))
    assert {name for name in ours - theirs if not name.startswith("_")} <= OURS
    assert ours & HEAVY <= THEIR_OWN
