"""Files that a path or a pattern names."""

from __future__ import annotations

from pathlib import Path

_SIGNS = "*?["


def is_pattern(name: str) -> bool:
    """Whether a name stands for files that fit it."""
    return any(sign in name for sign in _SIGNS)


def files_named(name: str, *, root: Path) -> list[Path]:
    """The file at a path, or those that fit a pattern, sorted. Relative ones start at ``root``."""
    if (root / name).is_file():
        return [root / name]
    if not is_pattern(name):
        return []
    given = Path(name)
    start = Path(given.anchor) if given.is_absolute() else root
    return sorted(path for path in start.glob(str(given.relative_to(given.anchor))) if path.is_file())
