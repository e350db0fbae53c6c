"""Recipes: one system a file, each with a ``Config`` and ``build(config, runtime) -> Run``."""

from __future__ import annotations

from types import ModuleType

from mcse.recipes import cove, elmo, maf, mcse, simcse, vse

RECIPES: dict[str, ModuleType] = {"simcse": simcse, "mcse": mcse, "vse": vse, "maf": maf, "elmo": elmo, "cove": cove}
