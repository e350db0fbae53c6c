"""Recipes: one system a file, each with a ``Config`` and ``build(config, runtime) -> Run``."""

from __future__ import annotations

from types import ModuleType

from mcse.recipes import cove, elmo, grounded_words, maf, mcse, simcse, vse, word_features

RECIPES: dict[str, ModuleType] = {
    "simcse": simcse,
    "mcse": mcse,
    "vse": vse,
    "grounded_words": grounded_words,
    "elmo": elmo,
    "cove": cove,
    "word_features": word_features,
    "maf": maf,
}
