"""Recipes: one system a folder, with its settings in ``config.py`` and its method in ``method.py``."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

from mcse.config import ConfigError

RECIPES = {
    "mlm": "an encoder that fills in hidden words, from nothing or on your own text (Devlin et al. 2019)",
    "simcse": "sentence embeddings from text alone (Gao et al. 2021)",
    "diffcse": "sentence embeddings from text that also tell a sentence from an edited one (Chuang et al. 2022)",
    "mcse": "sentence embeddings from text and images (Zhang et al. 2022)",
    "kdmcse": "sentence embeddings from text, images and a frozen image–text teacher (Nguyen et al. 2024)",
    "dalr": "sentence embeddings from text, images and frozen teachers of sentences (He et al. 2025)",
    "rankcse": "sentence embeddings that order sentences as frozen teachers do (Liu et al. 2023)",
    "tables": "sentence embeddings from your own tables of pairs, hard negatives, scores or labels",
    "unpaired": "sentence embeddings from text, and from images that belong to no text (Jian et al. 2022)",
    "vse": "captions and images in one space (Kiros et al. 2014, Faghri et al. 2018)",
    "grounded_words": "visually grounded word vectors (Shahmohammadi et al. 2021)",
    "elmo": "word vectors in context, from language models of characters (Peters et al. 2018)",
    "cove": "word vectors in context, from a translation model (McCann et al. 2017)",
    "word_features": "a tagger or sentence classifier on frozen word features",
    "maf": "named entities in tweets with images (Xu et al. 2022)",
}
"""Every recipe, a folder of this one, with what it trains."""


def config_class(name: object) -> Any:
    """The recipe's ``Config``. Nothing that is imported for it imports torch.

    Raises:
        ConfigError: There is no such recipe.
    """
    return _part(name, "config").Config


def method(name: object) -> ModuleType:
    """The module of the recipe with ``build(config, runtime) -> Run``.

    Raises:
        ConfigError: There is no such recipe.
    """
    return _part(name, "method")


def _part(name: object, part: str) -> ModuleType:
    if name not in RECIPES:
        near = difflib.get_close_matches(str(name), RECIPES, n=1)
        meant = f"did you mean {near[0]!r}?" if near else "is --config FILE missing?"
        raise ConfigError(f"recipe: choose one of {', '.join(RECIPES)}, got {name!r} ({meant})")
    return importlib.import_module(f"mcse.recipes.{name}.{part}")
