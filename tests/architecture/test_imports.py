"""The import table, as the design draws it: a one-way graph, each library in its home, short functions, no prints.

Everything is read from the source, inside functions too. If the code needs an arrow that is not here, the table changes
on purpose, here and in the documentation.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "mcse"

BELOW_RECIPES = {
    "files",
    "run_folder",
    "types",
    "config",
    "distributed",
    "cpu",
    "losses",
    "metrics",
    "nn",
    "text",
    "data",
    "scenes",
    "models",
    "encoders",
    "search",
    "evaluation",
    "report",
    "training",
}
ALLOWED: dict[str, set[str]] = {
    "files": set(),
    "types": set(),
    "run_folder": {"files"},
    "config": {"files"},
    "distributed": set(),
    "cpu": set(),
    "losses": {"types"},
    "metrics": set(),
    "nn": {"types"},
    "text": {"files"},
    "data": {"files", "types", "text"},
    "scenes": {"files", "types"},
    "models": {"files", "run_folder", "types", "nn", "text"},
    "encoders": {"files", "run_folder", "types", "text", "models", "distributed", "cpu"},
    "search": {
        "files",
        "run_folder",
        "types",
        "data",
        "text",
        "models",
        "encoders",
        "metrics",
        "report",
        "distributed",
    },
    "evaluation": {"files", "run_folder", "types", "metrics", "data", "distributed"},
    "report": {"files", "run_folder", "types", "metrics"},
    "training": {"files", "run_folder", "types", "config", "distributed", "cpu"},
    "recipes": BELOW_RECIPES,
    "commands": BELOW_RECIPES | {"recipes"},
    # ``mcse/__init__.py``: what people import, on first use.
    "": {"encoders", "search"},
    "train.py": {"recipes", "training", "config", "distributed"},
    "evaluate.py": {"recipes", "evaluation", "report", "config", "encoders", "run_folder"},
}
SHELF = {f"mcse.recipes.{name}" for name in ("shared", "export", "image_side", "joint_side", "tagging_side")}
LAUNCHER = "mcse.recipes.launch"
"""Not recipes: what recipes share, and what starts them. Recipes may use the first, none of them the second."""

# A library, or a part of one, and the only places that may import it.
HOMES: dict[str, set[str]] = {
    "torch.distributed": {"distributed"},
    "torch.nn.parallel": set(),
    "accelerate": {"training"},
    "datasets": {"data"},
    "open_clip": {"models"},
    "timm": {"models"},
    "transformers": {"models"},
    "sentence_transformers": set(),
    "h5py": {"data", "models"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "pydantic": {"config"},
    "faiss": {"search"},
    "mteb": {"evaluation"},
    "sacrebleu": {"metrics"},
    "fastapi": {"search"},
    "starlette": {"search"},
    "uvicorn": {"search"},
    "wandb": set(),
    "tensorboard": set(),
}
# Tokenizers are strings to ids; their type is named where a tokenizer passes through.
TOKENIZER_NAMES = {"PreTrainedTokenizerBase", "PreTrainedTokenizerFast", "AutoTokenizer"}
TOKENIZER_HOMES = {"encoders", "data", "recipes", "commands"}

PRINTS = ("train.py", "evaluate.py", "mcse/commands/", "mcse/report/")
MAX_FUNCTION, MAX_RECIPE = 60, 300


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
    """Recipes and the shelf reach the shelf alone; the table of recipes reaches recipes; the launcher the table."""
    if source.module == "mcse.recipes":
        allowed = target not in {*SHELF, LAUNCHER}
    elif source.module == LAUNCHER:
        allowed = target == "mcse.recipes"
    else:
        allowed = target in SHELF
    if not allowed:
        yield f"{where}: {source.module} may not import {target}: recipes share by {', '.join(sorted(SHELF))} alone"


def library_faults(source: Source) -> Iterator[str]:
    for line, module, name in imports(source):
        for library, homes in HOMES.items():
            whole = f"{module}.{name}" if name else module
            if not any(reached == library or reached.startswith(library + ".") for reached in (module, whole)):
                continue
            is_tokenizer = library == "transformers" and module == library and name in TOKENIZER_NAMES
            if source.part not in homes | (TOKENIZER_HOMES if is_tokenizer else set()):
                yield f"{source.path}:{line}: {whole} belongs to {sorted(homes) or 'nobody'}"
    if library_attribute(source.tree) and source.part != "distributed":
        yield f"{source.path}: torch.distributed is used without an import"


def library_attribute(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed" for node in ast.walk(tree))


def style_faults(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{source.path}:{node.lineno}: {node.name} has {length} lines, more than {MAX_FUNCTION}"
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and not source.path.startswith(PRINTS):
            yield f"{source.path}:{node.lineno}: print; use logging.getLogger(__name__)"
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            yield f"{source.path}:{node.lineno}: NotImplementedError"
    if source.part == "recipes" and source.lines > MAX_RECIPE:
        yield f"{source.path}: {source.lines} lines, more than {MAX_RECIPE}"
    if source.module.startswith("mcse") and ast.get_docstring(source.tree) is None and source.lines:
        yield f"{source.path}: no docstring that says what it owns"
    yield from import_time_faults(source)


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
    assert {"mcse/__init__.py", "mcse/recipes/mcse.py", "mcse/distributed.py", "train.py", "evaluate.py"} <= paths
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
}
PLANTED = {
    "a loss that names a process": ("mcse/losses/x.py", "from mcse import distributed"),
    "a loss that names a process, inside a function": ("mcse/losses/x.py", "def f():\n    import mcse.distributed"),
    "an evaluator that names a model": ("mcse/evaluation/x.py", "from mcse.models.checkpoint import load_checkpoint"),
    "a loop that names a task": ("mcse/training/x.py", "from mcse.recipes import simcse"),
    "data that knows the loop": ("mcse/data/x.py", "import mcse.training.loop as loop"),
    "a recipe that uses another": ("mcse/recipes/x.py", "from mcse.recipes.mcse import image_term"),
    "a recipe that uses another by its package": ("mcse/recipes/x.py", "from mcse.recipes import mcse"),
    "a recipe that starts itself": ("mcse/recipes/x.py", "from mcse.recipes.launch import train"),
    "a shelf that knows a recipe": ("mcse/recipes/shared.py", "from mcse.recipes import mcse"),
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
    "a model in encoders": ("mcse/encoders/x.py", "import transformers"),
    "a tower in data": ("mcse/data/x.py", "import timm.data"),
    "a data set in a recipe": ("mcse/recipes/x.py", "from datasets import load_dataset"),
    "a web page in encoders": ("mcse/encoders/x.py", "import fastapi"),
    "a print": ("mcse/training/x.py", '"""Owns it."""\ndef f():\n    print(1)'),
    "a long function": ("mcse/nn/x.py", '"""Owns it."""\ndef f():\n' + "    a = 1\n" * 60),
    "a long recipe": ("mcse/recipes/x.py", '"""Owns it."""\n' + "A = 1\n" * 300),
    "a promise": ("mcse/nn/x.py", '"""Owns it."""\ndef f():\n    raise NotImplementedError'),
    "no docstring": ("mcse/nn/x.py", "A = 1"),
    "work at import": ("mcse/nn/x.py", '"""Owns it."""\nregister("x")'),
}


def faults_of(path: str, text: str) -> list[str]:
    source = read(text, path)
    return [*graph_faults(source, MODULES), *library_faults(source), *style_faults(source)]


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
        ("mcse/recipes/x.py", "from mcse.recipes import shared\nfrom mcse.training.run import Run"),
        ("mcse/recipes/__init__.py", "from mcse.recipes import mcse"),
        ("mcse/recipes/launch.py", "from mcse.recipes import RECIPES\nfrom mcse.training.fit import fit"),
        ("mcse/commands/x.py", "from mcse.recipes.launch import train\n\ndef f():\n    print(1)"),
        ("mcse/evaluation/x.py", "from mcse import distributed\nfrom mcse.evaluation.sts import f"),
        ("mcse/encoders/x.py", "from transformers import PreTrainedTokenizerBase"),
        ("mcse/nn/x.py", "def f():\n" + "    a = 1\n" * 59),
    ],
)
def test_what_is_allowed_is_not_caught(path, text):
    assert faults_of(path, f'"""Owns."""\n{text}') == []
