"""The embedded picture world: contents, drawings, wordings and gold, made on the spot and written to disk."""

from mcse.scenes.build import WorldConfig, build_world

__all__ = ["WorldConfig", "build_world"]
