"""Models and datasets of the Hugging Face hub: the commit that a repository's name stands for, one a process."""

from __future__ import annotations

import functools
import logging
import socket
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["model", "dataset"]

_FILES: dict[Kind, tuple[str, ...]] = {
    "model": ("config.json", "modules.json", "open_clip_config.json", "mcse.json"),
    "dataset": ("README.md", ".gitattributes"),
}
"""Every repository with an encoder, or with a dataset, has one of them."""

_commits: dict[tuple[Kind, str], str] = {}


def fetch_file(repository: str, file: str, *, kind: Kind = "model") -> Path | None:
    """A file of a repository at its commit, from the cache or the hub; ``None`` where it cannot be had."""
    _look_for_network()
    try:
        # Of a commit that is known, the cache answers without asking the hub.
        return Path(hf_hub_download(repository, file, repo_type=kind, revision=_commits.get((kind, repository))))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None


def commit_of(name: str, *, kind: Kind = "model") -> str | None:
    """The commit that is read of a repository; ``None`` of a folder, or where nothing of it can be had.

    It is asked of the hub once, or of the cache where the hub cannot be reached, so that config, weights and tokenizer
    are of one commit, and what is written down is what was read.
    """
    if Path(name).exists():
        return None
    for file in _FILES[kind] if (kind, name) not in _commits else ():
        # .../snapshots/COMMIT/FILE, from where every loader reads
        if (found := fetch_file(name, file, kind=kind)) is not None:
            _commits[kind, name] = found.parent.name
            break
    return _commits.get((kind, name))


def at_commit(name: str, *, kind: Kind = "model") -> dict[str, str]:
    """What pins a loader of transformers, datasets or open_clip to ``commit_of``; nothing of a folder."""
    commit = commit_of(name, kind=kind)
    return {} if commit is None else {"revision": commit}


def folder_at_commit(name: str) -> Path | None:
    """All files of a model at its commit, for a loader that takes no commit; ``None`` as ``commit_of``.

    Raises:
        OSError: Some of them cannot be had.
    """
    commit = commit_of(name)
    return None if commit is None else Path(snapshot_download(name, revision=commit))


@functools.cache
def _look_for_network() -> None:
    """Without a network, has the hub's library answer from its cache at once: it would ask for half a minute a file."""
    if constants.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        logger.warning("the hub cannot be reached; only models that its cache holds are found")
        constants.HF_HUB_OFFLINE = True
