"""What says that a checkpoint's weights are those that were saved: their SHA-256 in ``mcse.json``.

A folder of another make, or one from before digests were written, has none and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

KEY = "sha256"
"""Under it ``mcse.json`` holds the digests by file name, relative to the folder, with ``/``."""


def weight_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every safetensors file of a folder, as hexadecimal digits, by name."""
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def check_weights(folder: Path, name: str) -> None:
    """Refuses a file of weights that is not the one that was saved.

    Args:
        folder: A checkpoint of ours or any other folder, or no folder.
        name: The file, relative to the folder.

    Raises:
        ValueError: ``mcse.json`` notes another digest, or notes one of a file that is absent; or it is no JSON.
    """
    path = folder / "mcse.json"
    if not path.is_file():
        return
    try:
        noted = json.loads(path.read_text(encoding="utf-8")).get(KEY, {}).get(name)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if noted is None:
        return
    file = folder / name
    if not file.is_file():
        raise ValueError(f"{file} is missing, though {path} lists it")
    if file_sha256(file) != noted:
        raise ValueError(
            f"{file} is damaged: its SHA-256 is not the one in {path}, noted when it was saved (was it changed on "
            f"purpose? then delete its line under {KEY!r} there)"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
