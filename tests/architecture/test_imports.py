"""The import table, as the design draws it: a one-way graph, each library in its home, short functions, no prints.

Everything is read from the source, inside functions too. If the code needs an arrow that is not in ``table.py``, the
table changes on purpose.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcse.recipes import RECIPES
from tests.architecture.table import HOMES, PARTS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "mcse"

ALLOWED = {name: part.uses for name, part in PARTS.items()}
SHARED = {f"mcse.recipes.{name}" for name in ("shared", "export", "image_side", "teachers", "taught", "base", "graphs")}
TERMS = "mcse.recipes.terms"
"""The folder of loss terms that recipes share."""
LAUNCHER = "mcse.recipes.launch"
REFERENCE = "mcse.recipes.reference"
"""Not recipes: what recipes share, what starts them, and what describes their settings. Recipes use the first alone."""
RECIPE_FILES = {"config", "method"}
"""What every recipe's folder holds: its settings, and its method with step and losses."""
LIGHT = (
    "mcse.config",
    "mcse.config_fields",
    "mcse.data.config",
    "mcse.data.controls_config",
    "mcse.data.source_variants",
    "mcse.data.table_config",
    "mcse.data.teacher_config",
    "mcse.models.config",
    "mcse.training.config",
    "mcse.recipes.base",
    "mcse.recipes.terms.config",
)
"""Modules that configurations are made of: they import none of the libraries that take seconds."""

LIGHT_LIBRARIES = {"pydantic", "__future__", "mcse.yaml_files"}

RENAMES = {"os.rename", "os.renames", "os.replace", "shutil.move"}
PRINTS = ("mcse/commands/", "mcse/report/")
MAX_FUNCTION = 60


@dataclass(frozen=True, slots=True)
class Source:
    """A file's path from the repository, its dotted name, and its tree."""

    path: str
    module: str
    tree: ast.Module
    lines: int

    @property
    def part(self) -> str:
        """The folder or single module of ``mcse`` it belongs to; the file's own name outside."""
        return part_of(self.module) if self.module.split(".")[0] == "mcse" else self.path


def part_of(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def read(text: str, path: str) -> Source:
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return Source(path, module, ast.parse(text), len(text.splitlines()))


def sources() -> list[Source]:
    files = [*sorted(PACKAGE.rglob("*.py")), REPOSITORY / "train.py", REPOSITORY / "evaluate.py"]
    return [read(file.read_text(encoding="utf-8"), file.relative_to(REPOSITORY).as_posix()) for file in files]


def imports(source: Source) -> Iterator[tuple[int, str, str | None]]:
    """Line, module and imported name of every import, wherever it stands."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "?"
            yield node.lineno, str(name), None


def targets(module: str, name: str | None, modules: set[str]) -> str:
    """The module that an import reaches: ``from mcse import distributed`` reaches ``mcse.distributed``."""
    whole = f"{module}.{name}"
    return whole if whole in modules else module


def graph_faults(source: Source, modules: set[str]) -> Iterator[str]:
    for line, module, name in imports(source):
        where = f"{source.path}:{line}"
        if module.startswith("."):
            yield f"{where}: relative import"
            continue
        if module.split(".")[0] != "mcse":
            continue
        target = targets(module, name, modules)
        part = part_of(target)
        if part == source.part:
            if part == "recipes":
                yield from recipe_faults(source, target, where)
            continue
        if part not in ALLOWED.get(source.part, set()):
            yield f"{where}: {source.part or 'mcse/__init__.py'} may not import {target}"


def recipe_faults(source: Source, target: str, where: str) -> Iterator[str]:
    """Recipes reach their own folder and what is shared; the launcher the table of recipes and what is done to all."""
    own = recipe_of(source.module)
    if source.module in (LAUNCHER, REFERENCE):
        allowed = target in ("mcse.recipes", "mcse.recipes.base", "mcse.recipes.graphs")
    else:
        allowed = is_shared(target) or (own is not None and recipe_of(target) == own)
    if not allowed:
        shared = ", ".join(sorted(SHARED | {TERMS}))
        yield f"{where}: {source.module} may not import {target}: recipes share by {shared} alone"


def is_shared(module: str) -> bool:
    """Whether recipes may all use a module of ``mcse.recipes``."""
    return module in SHARED or module == TERMS or module.startswith(f"{TERMS}.")


def recipe_of(module: str) -> str | None:
    """The recipe whose folder a module stands in."""
    names = module.split(".")
    in_a_folder = names[:2] == ["mcse", "recipes"] and len(names) > 2 and module not in {LAUNCHER, REFERENCE}
    return names[2] if in_a_folder and not is_shared(module) else None


def light_faults(source: Source) -> Iterator[str]:
    """Configurations import each other and the standard library, so that a misspelt key is told at once."""
    if source.module not in LIGHT and not (recipe_of(source.module) and source.module.endswith(".config")):
        return
    for line, module, name in imports(source):
        first = module.split(".")[0]
        is_config = module in LIGHT or f"{module}.{name}" in LIGHT
        if not (is_config or first in sys.stdlib_module_names or module in LIGHT_LIBRARIES):
            yield f"{source.path}:{line}: a configuration imports {module}"


def library_faults(source: Source) -> Iterator[str]:
    for line, module, name in imports(source):
        for library, homes in HOMES.items():
            whole = f"{module}.{name}" if name else module
            if not any(reached == library or reached.startswith(library + ".") for reached in (module, whole)):
                continue
            if source.part not in homes:
                yield f"{source.path}:{line}: {whole} belongs to {sorted(homes) or 'nobody'}"
    if library_attribute(source.tree) and source.part != "distributed":
        yield f"{source.path}: torch.distributed is used without an import"


def library_attribute(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed" for node in ast.walk(tree))


def rename_faults(source: Source) -> Iterator[str]:
    """Renames outside ``mcse/files.py``, which alone knows how a file or folder takes its place whole.

    A method ``replace`` with one argument is a path's: a text's takes two, a dataclass's and a date's take names.
    """
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            is_rename = any(f"{node.module}.{alias.name}" in RENAMES for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_path_method = node.func.attr == "rename" or (
                node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
            )
            is_rename = is_path_method or ast.unparse(node.func) in RENAMES
        else:
            continue
        if is_rename and source.part != "files":
            yield f"{source.path}:{node.lineno}: a rename: {ast.unparse(node)}; write by mcse.files"


def image_faults(source: Source) -> Iterator[str]:
    """Images opened outside ``mcse/images.py``: Pillow runs other programs for some formats, and knows no bound.

    A column of images in a data set is opened by whoever reads a row, unless it is told not to.
    """
    if source.module == "mcse.images":
        return
    openers = {"PIL.Image.open"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "PIL":
            openers |= {f"{alias.asname or alias.name}.open" for alias in node.names if alias.name == "Image"}
        elif isinstance(node, ast.Import):
            openers |= {f"{alias.asname}.open" for alias in node.names if alias.name == "PIL.Image" and alias.asname}
    for node in ast.walk(source.tree):
        is_import = isinstance(node, ast.ImportFrom) and node.module == "PIL.Image"
        is_opener = isinstance(node, ast.Attribute) and ast.unparse(node) in openers
        is_column = isinstance(node, ast.Call) and ast.unparse(node.func) == "datasets.Image"
        told = is_column and any(word.arg == "decode" and ast.unparse(word.value) == "False" for word in node.keywords)
        if is_import or is_opener or (is_column and not told):
            yield f"{source.path}:{node.lineno}: an image is opened: {ast.unparse(node)}; decode by mcse.images"


def style_faults(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # An argument has its line twice, in signature and docstring, and neither is to be made short by hiding it.
            statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0
            if length > MAX_FUNCTION:
                yield f"{source.path}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION}"
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and not source.path.startswith(PRINTS):
            yield f"{source.path}:{node.lineno}: print; use logging.getLogger(__name__)"
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            yield f"{source.path}:{node.lineno}: NotImplementedError"
    if source.module.startswith("mcse") and ast.get_docstring(source.tree) is None and source.lines:
        yield f"{source.path}: no docstring that says what it owns"
    yield from import_time_faults(source)
    yield from rename_faults(source)
    yield from image_faults(source)


def import_time_faults(source: Source) -> Iterator[str]:
    """Statements that do work when a module is imported; an assignment makes a constant and is let through."""
    for node in source.tree.body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try) or (isinstance(node, ast.Expr) and not is_text):
            yield f"{source.path}:{node.lineno}: work at import: {ast.unparse(node).splitlines()[0]}"


@pytest.fixture(scope="module")
def found():
    return sources()


def test_the_whole_package_is_read(found):
    paths = {source.path for source in found}
    assert len(paths) > 60
    assert {
        "mcse/__init__.py",
        "mcse/recipes/mcse/method.py",
        "mcse/distributed.py",
        "train.py",
        "evaluate.py",
    } <= paths
    parts = {source.part for source in found}
    assert parts <= set(ALLOWED), f"folders that the table does not know: {sorted(parts - set(ALLOWED))}"
    assert sum(1 for source in found for _ in imports(source)) > 400


def test_the_table_has_no_cycle():
    order: list[str] = []
    rest = dict(ALLOWED)
    while rest:
        free = [part for part, below in rest.items() if below <= set(order)]
        assert free, f"a cycle among {sorted(rest)}"
        order += free
        for part in free:
            del rest[part]


def test_imports_follow_the_table(found):
    modules = {source.module for source in found}
    faults = [fault for source in found for fault in graph_faults(source, modules)]
    assert not faults, "\n".join(faults)


def test_libraries_stay_at_home(found):
    faults = [fault for source in found for fault in library_faults(source)]
    assert not faults, "\n".join(faults)


def test_configurations_are_light(found):
    faults = [fault for source in found for fault in light_faults(source)]
    assert not faults, "\n".join(faults)
    light = {source.module for source in found if source.module in LIGHT}
    assert light == set(LIGHT)


def test_every_recipe_is_a_folder_that_shows_its_method(found):
    folders: dict[str, set[str]] = {}
    for source in found:
        if name := recipe_of(source.module):
            folders.setdefault(name, set()).add(source.module.rpartition(".")[2])
    assert set(folders) == set(RECIPES)
    for name, files in folders.items():
        assert files >= RECIPE_FILES, f"mcse/recipes/{name} lacks {sorted(RECIPE_FILES - files)}"
        tree = next(source.tree for source in found if source.module == f"mcse.recipes.{name}.method")
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert "build" in functions
        assert any("step" in function for function in functions), f"{name}/method.py holds no step"
        losses = [module for _, module, _ in imports(found_module(found, f"mcse.recipes.{name}.method"))]
        assert any(module == "mcse.types" for module in losses)


def found_module(found, module):
    return next(source for source in found if source.module == module)


def test_house_style(found):
    faults = [fault for source in found for fault in style_faults(source)]
    assert not faults, "\n".join(faults)


MODULES = {
    "mcse",
    "mcse.distributed",
    "mcse.recipes",
    "mcse.recipes.shared",
    "mcse.recipes.launch",
    "mcse.recipes.mcse",
    "mcse.recipes.mcse.method",
    "mcse.recipes.x",
}
PLANTED = {
    "a loss that names a process": ("mcse/losses/x.py", "from mcse import distributed"),
    "a loss that names a process, inside a function": ("mcse/losses/x.py", "def f():\n    import mcse.distributed"),
    "an evaluator that names a model": ("mcse/evaluation/x.py", "from mcse.models.checkpoint import load_checkpoint"),
    "a loop that names a task": ("mcse/training/x.py", "from mcse.recipes import simcse"),
    "data that knows the loop": ("mcse/data/x.py", "import mcse.training.loop as loop"),
    "a recipe that uses another": ("mcse/recipes/x/method.py", "from mcse.recipes.mcse.method import image_term"),
    "a recipe that uses another by its package": ("mcse/recipes/x/method.py", "from mcse.recipes import mcse"),
    "a recipe that starts itself": ("mcse/recipes/x/method.py", "from mcse.recipes.launch import train"),
    "a term that knows a recipe": ("mcse/recipes/terms/x.py", "from mcse.recipes.mcse import method"),
    "a shared part that knows a recipe": ("mcse/recipes/shared.py", "from mcse.recipes.mcse import method"),
    "a table of recipes that imports one": ("mcse/recipes/__init__.py", "from mcse.recipes.mcse import method"),
    "a configuration that imports torch": ("mcse/recipes/x/config.py", "import torch"),
    "a configuration that imports a model": ("mcse/data/config.py", "from mcse.types import Score"),
    "a relative import": ("mcse/nn/x.py", "from ..models import sentence_model"),
    "a name found at run time": ("mcse/nn/x.py", "import importlib\nimportlib.import_module('mcse.models.checkpoint')"),
    "a type for checking only": (
        "mcse/metrics/x.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mcse.models import text_encoder",
    ),
    "an unknown folder": ("mcse/utils/x.py", "from mcse.types import Score"),
    "a script that reaches below": ("train.py", "from mcse.models.checkpoint import load_checkpoint"),
    "another collective": ("mcse/training/x.py", "import torch.distributed as dist"),
    "a collective by its package": ("mcse/evaluation/x.py", "from torch import distributed"),
    "a collective by attribute": ("mcse/training/x.py", "import torch\nn = torch.distributed.get_rank()"),
    "an own wrapper": ("mcse/training/x.py", "from torch.nn.parallel import DistributedDataParallel"),
    "a second Accelerator": ("mcse/recipes/x.py", "def f():\n    from accelerate import Accelerator"),
    "a model in data": ("mcse/data/x.py", "from transformers import AutoModel"),
    "a tokenizer of transformers in encoders": ("mcse/encoders/x.py", "from transformers import AutoTokenizer"),
    "a model in encoders": ("mcse/encoders/x.py", "import transformers"),
    "a tower in data": ("mcse/data/x.py", "import timm.data"),
    "a data set in a recipe": ("mcse/recipes/x.py", "from datasets import load_dataset"),
    "a web page in encoders": ("mcse/encoders/x.py", "import fastapi"),
    "a print": ("mcse/training/x.py", '"""Owns it."""\ndef f():\n    print(1)'),
    "a long function": ("mcse/nn/x.py", '"""Owns it."""\ndef f():\n' + "    a = 1\n" * 61),
    "a promise": ("mcse/nn/x.py", '"""Owns it."""\ndef f():\n    raise NotImplementedError'),
    "no docstring": ("mcse/nn/x.py", "A = 1"),
    "a digest of its own": ("mcse/data/x.py", "import hashlib"),
    "a digest inside a function": ("evaluate.py", "def f():\n    from hashlib import sha256"),
    "a rename": ("mcse/data/x.py", "import os\n\ndef f(a, b):\n    os.rename(a, b)"),
    "a replaced file": ("mcse/report/x.py", "import os\n\ndef f(a, b):\n    os.replace(a, b)"),
    "a rename by its name": ("mcse/report/x.py", "from os import replace"),
    "a moved folder": ("mcse/scenes/x.py", "import shutil\n\ndef f(a, b):\n    shutil.move(a, b)"),
    "a path that is renamed": ("mcse/search/x.py", "def f(path):\n    path.with_suffix('.part').rename(path)"),
    "a path that is replaced": ("train.py", "def f(path, target):\n    (path / 'part').replace(target)"),
    "an image that is opened": ("mcse/data/x.py", "from PIL import Image\n\ndef f(a):\n    return Image.open(a)"),
    "an image opened under another name": ("mcse/encoders/x.py", "from PIL import Image as I\nf = I.open"),
    "an image opened by its package": (
        "mcse/search/x.py",
        "import PIL.Image\nf = PIL.Image.open",
    ),
    "an opener by its name": ("mcse/models/x.py", "from PIL.Image import open"),
    "a column of images": ("mcse/data/x.py", "def f(a):\n    return a.cast_column('image', datasets.Image())"),
    "another library's images": ("mcse/data/x.py", "from torchvision.io import decode_image"),
    "work at import": ("mcse/nn/x.py", '"""Owns it."""\nregister("x")'),
}


def faults_of(path: str, text: str) -> list[str]:
    source = read(text, path)
    return [*graph_faults(source, MODULES), *library_faults(source), *style_faults(source), *light_faults(source)]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_caught(name):
    path, text = PLANTED[name]
    if name != "no docstring" and not text.startswith('"'):
        text = f'"""Owns it."""\n{text}'
    faults = faults_of(path, text)
    assert len(faults) >= 1
    assert all(fault.startswith(path) for fault in faults)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mcse/recipes/mcse/method.py", "from mcse.recipes import shared\nfrom mcse.recipes.mcse.config import Config"),
        ("mcse/recipes/launch.py", "from mcse.recipes import RECIPES\nfrom mcse.training.fit import fit"),
        ("mcse/recipes/x/config.py", "from mcse.data.config import DataConfig\nfrom pathlib import Path"),
        ("mcse/commands/x.py", "from mcse.recipes.launch import train\n\ndef f():\n    print(1)"),
        ("mcse/evaluation/x.py", "from mcse import distributed\nfrom mcse.evaluation.suites.sts import f"),
        ("mcse/nn/x.py", "def f():\n" + "    a = 1\n" * 59),
        ("mcse/files.py", "import hashlib\nimport os\n\ndef f(a, b):\n    os.replace(a, b)\n    a.rename(b)"),
        ("mcse/data/x.py", "def f(a, day):\n    return a.replace('b', 'c'), day.replace(year=1)"),
        ("mcse/data/x.py", "from dataclasses import replace\n\ndef f(a):\n    return replace(a)"),
        ("mcse/images.py", "from PIL import Image\n\ndef f(a):\n    return Image.open(a)"),
        ("mcse/data/x.py", "def f(a):\n    return a.cast_column('image', datasets.Image(decode=False))"),
    ],
)
def test_what_is_allowed_is_not_caught(path, text):
    assert faults_of(path, f'"""Owns."""\n{text}') == []


@pytest.mark.slow
def test_all_settings_load_without_the_heavy_libraries():
    """What ``--print-config`` and a misspelt key cost: ``python -X importtime`` shows where it goes."""
    heavy = ("torch", "transformers", "numpy", "datasets", "accelerate")
    program = (
        "import sys\nfrom mcse.recipes import RECIPES, config_class\nfrom mcse.recipes.launch import load_config\n"
        f"print([config_class(name).__name__ for name in RECIPES], [m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{['Config'] * len(RECIPES)} []"
