"""Files and folders written whole, their digests, and lines of text: the one place that renames and hashes.

A kill, a full disk or a power cut leaves what stood there before, or what was to be written, whole. Everything in the
project that writes a file which somebody reads later goes through ``replacing`` or ``replacing_folder``.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_DRAFT, _OLD = ".partial", ".old"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when the block ends well; otherwise ``path`` stays as it was.

    The draft's name is this process's own. It is forced to the disk before it takes its place, and removed on failure.

    Raises:
        OSError: The disk is full, cannot be written to or fails; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}{_DRAFT}")
    try:
        with _naming(path):
            yield draft
            _sync(draft)
            os.replace(draft, path)
        _sync_names(path.parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``folder`` when the block ends well.

    A crash leaves the old folder, the new one, or for an instant the old one as ``<name>.old``, which
    ``recover_folder`` puts back; never a half-written one.

    Raises:
        OSError: The disk is full, cannot be written to or fails; names ``folder``, which is as it was.
    """
    draft, old = _beside(folder, _DRAFT), _beside(folder, _OLD)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with _naming(folder):
            yield draft
            for path in draft.rglob("*"):
                _sync(path)
            _sync(draft)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(folder, old)
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Undoes what a crash inside ``replacing_folder`` or ``remove_folder`` left."""
    old = _beside(folder, _OLD)
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(_beside(folder, _DRAFT), ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Deletes a folder; renamed first, so that a kill in the middle leaves none that looks whole."""
    draft = _beside(folder, _DRAFT)
    with contextlib.suppress(OSError):
        os.rename(folder, draft)
        shutil.rmtree(draft)


def move_folder(folder: Path, target: Path) -> None:
    """Renames a folder, in place of whatever stood at ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    os.rename(folder, target)
    _sync_names(target.parent)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Writes readable JSON with a line break at its end, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: Not UTF-8 or not JSON; names file and line.
        OSError: It cannot be opened.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: broken JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: broken JSON (nested too deeply)") from None


def read_lines(path: Path, *, strip: bool = True) -> Iterator[str]:
    """Lines of a UTF-8 text file, plain or gzip (``.gz``); a byte order mark is left out.

    Args:
        path: The file.
        strip: Whether lines lose the blanks around them; otherwise they keep even their line breaks, as ``csv`` wants.

    Raises:
        ValueError: A line is not UTF-8, or the gzip file is damaged; names file and line.
        OSError: It cannot be opened.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        number = 0
        try:
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.strip() if strip else text
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x})") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}, line {number + 1}: damaged gzip file ({error})") from None


def read_text(path: Path) -> str:
    """The whole of a UTF-8 text file; refuses what ``read_lines`` refuses."""
    return "".join(read_lines(path, strip=False))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes: 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 of several texts, which differs wherever one of them or their number does: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets errors of the disk name what could not be written; safetensors has one of its own for a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from None


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _sync(path: Path) -> None:
    """Forces what was written to the disk, so that the rename cannot overtake it, and lets others read it.

    safetensors makes its files readable for their owner alone; a file is as public as its folder.
    """
    if path.is_dir():
        _sync_names(path)
        return
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_names(folder: Path) -> None:
    """Forces to the disk which files a folder holds; some network file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
