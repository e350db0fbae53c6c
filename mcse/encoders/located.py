"""Models of the hub that are checkpoints of ours: fetched whole, and then a folder like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mcse.encoders.sentence_transformers_folder import fetch
from mcse.hub import folder_at_commit
from mcse.manifest import MANIFEST, Located, locate


def located_anywhere(name: str | Path | Located) -> Located:
    """As ``locate``; of a repository of the hub with an ``mcse.json`` the folder of its files in the cache.

    Raises:
        OSError: Some of its files cannot be had.
        ValueError: As ``locate``.
    """
    located = locate(name)
    if located.kind != "hub" or fetch(located.path, MANIFEST) is None:
        return located
    folder = folder_at_commit(located.path)
    return located if folder is None else replace(locate(folder), name=located.name, reading=located.reading)
