"""Datasets of the Hugging Face hub, each read at one commit as long as the process lives."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import datasets

from mcse.hub import commit_of

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_hub_dataset(name: str, *, split: str | None = None, streaming: bool = False) -> Any:
    """What ``datasets.load_dataset`` gives, at the commit that ``commit_of`` names, which is logged.

    Without the hub that library takes the newest that its cache holds, whatever commit it is asked for.

    Raises:
        ValueError: Its cache holds another commit, and the hub cannot be reached.
        OSError: No such dataset, or what else that library raises.
    """
    commit = commit_of(name, kind="dataset")
    pinned = {} if commit is None else {"revision": commit}
    loaded = datasets.load_dataset(name, split=split, streaming=streaming, **pinned)
    found = _commits_of(loaded)
    if commit is not None and not found <= {commit}:
        raise ValueError(
            f"{name}: commit {commit} is wanted, but the cache holds {', '.join(sorted(found))}, and the hub cannot be "
            "reached; load the dataset once with the hub"
        )
    for one in sorted(found | ({commit} if commit else set())):
        logger.info("%s at commit %s", name, one)
    return loaded


def _commits_of(loaded: Any) -> set[str]:
    """The commits in whose folders of the library's cache the files of a dataset lie."""
    parts = loaded.values() if isinstance(loaded, dict) else [loaded]
    files = [file["filename"] for part in parts if isinstance(part, datasets.Dataset) for file in part.cache_files]
    return {folder for file in files if _COMMIT.fullmatch(folder := Path(file).parent.name)}
