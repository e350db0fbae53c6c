"""Recipes: one system a file, each with a ``Config`` and ``build(config, runtime) -> Run``."""

from __future__ import annotations

from types import ModuleType

from mcse.recipes import maf, mcse, simcse

RECIPES: dict[str, ModuleType] = {"simcse": simcse, "mcse": mcse, "maf": maf}
