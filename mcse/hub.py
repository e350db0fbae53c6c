"""Models of the Hugging Face hub: the commit that a repository's name stands for, one as long as the process lives."""

from __future__ import annotations

import functools
import logging
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

logger = logging.getLogger(__name__)

_FILES = ("config.json", "modules.json", "open_clip_config.json")
"""Every repository with an encoder has one of them."""

_commits: dict[str, str] = {}


def fetch_file(repository: str, file: str) -> Path | None:
    """A file of a repository at its commit, from the cache or the hub; ``None`` where it cannot be had."""
    _look_for_network()
    try:
        # Of a commit that is known, the cache answers without asking the hub.
        return Path(hf_hub_download(repository, file, revision=_commits.get(repository)))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None


def commit_of(name: str) -> str | None:
    """The commit that is read of a repository; ``None`` of a folder, or where nothing of it can be had.

    It is asked of the hub once, or of the cache where the hub cannot be reached, so that config, weights and tokenizer
    are of one commit, and what is written down is what was read.
    """
    if Path(name).exists():
        return None
    for file in _FILES if name not in _commits else ():
        # .../snapshots/COMMIT/FILE, from where every loader reads
        if (found := fetch_file(name, file)) is not None:
            _commits[name] = found.parent.name
            break
    return _commits.get(name)


def at_commit(name: str) -> dict[str, str]:
    """What pins a loader of transformers to ``commit_of``; nothing of a folder."""
    commit = commit_of(name)
    return {} if commit is None else {"revision": commit}


def forget_commits() -> None:
    """Asks anew from now on, as another process does."""
    _commits.clear()


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
