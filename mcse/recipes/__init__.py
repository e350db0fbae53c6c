"""Recipes: one system a file, each with a ``Config`` and ``build(config, runtime) -> Run``."""

from __future__ import annotations

from types import ModuleType

from mcse.recipes import cove, elmo, maf, mcse, simcse, word_features

RECIPES: dict[str, ModuleType] = {
    "simcse": simcse,
    "mcse": mcse,
    "maf": maf,
    "elmo": elmo,
    "cove": cove,
    "word_features": word_features,
}
