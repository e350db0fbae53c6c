"""The complete recipe of docs/adding-a-recipe.md, as it stands there: it trains, and what it writes loads."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mcse.recipes
from mcse.encoders.sentence_encoder import SentenceEncoder
from mcse.recipes import RECIPES
from mcse.recipes.launch import load_config, train
from tests.fixtures.tiny_run import build_tiny_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-recipe.md"
FILE = re.compile(r"`mcse/recipes/(dropout/\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)


def test_the_documented_recipe_trains(tmp_path, monkeypatch):
    files = dict(FILE.findall(PAGE.read_text(encoding="utf-8")))
    assert set(files) == {"dropout/__init__.py", "dropout/config.py", "dropout/method.py"}
    for name, text in files.items():
        (tmp_path / "recipes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "recipes" / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(mcse.recipes, "__path__", [*mcse.recipes.__path__, str(tmp_path / "recipes")])
    monkeypatch.setitem(RECIPES, "dropout", "a recipe of the documentation")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = build_tiny_run(tmp_path / "data")
    flags = {
        "recipe": "dropout",
        "output_dir": tmp_path / "run",
        "encoder.name_or_path": data / "bert",
        "data.root": data,
        "data.sentences": "sentences.txt",
        "data.sts": "dev.tsv",
        "optim.learning_rate": 1e-3,
        "train.batch_size": 8,
        "train.max_steps": 4,
        "train.eval_steps": 2,
        "train.select_by": "dev.spearman",
        "temperature": 0.05,
    }
    try:
        config = load_config(None, [text for key, value in flags.items() for text in (f"--{key}", str(value))])
        assert train(config, overwrite=False, show_progress=False) == 0
    finally:
        for name in [name for name in sys.modules if name.startswith("mcse.recipes.dropout")]:
            del sys.modules[name]
    assert SentenceEncoder.from_pretrained(tmp_path / "run").encode(["the dog runs"]).shape == (1, 32)
