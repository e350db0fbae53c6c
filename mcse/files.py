"""Files and folders written whole, their digests, and lines of text: the one place that renames and hashes.

A kill, a full disk or a power cut leaves what stood there before, or what was to be written, whole. Everything in the
project that writes a file which somebody reads later goes through ``replacing`` or ``replacing_folder``.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import gzip
import hashlib
import itertools
import json
import logging
import os
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

logger = logging.getLogger(__name__)

_DRAFT, _OLD, _LOCK = ".partial", ".old", ".lock"
_LOCK_PAUSE = 0.05  # seconds between two tries
_BLOCK = 2**20
_SYNCING = 16  # files forced to the disk at a time: one after the other takes ten times as long


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when the block ends well; otherwise ``path`` stays as it was.

    The draft's name is this process's own. It is forced to the disk before it takes its place, and removed on failure;
    a process that was killed leaves its draft to whoever writes next to it.

    Raises:
        OSError: The disk is full, cannot be written to or fails; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _own_draft(path)
    try:
        with naming(path):
            yield draft
            _sync(draft, mode=_mode())
            os.replace(draft, path)
        _sync_names(path.parent)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def claimed(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keeps a file or folder to this process while the block runs, and for no longer than the process lives.

    The claim is a lock on ``.NAME.lock`` beside ``path``, so that ``path`` itself may be replaced or not be there yet.
    A folder beside which nothing may be written is locked itself. Processes that are forked inside the block hold the
    claim too. Where a file system knows no locks, nothing is claimed.

    Args:
        path: What no other process may write to.
        wait: Seconds to wait for another process that has it.

    Raises:
        ValueError: Another process has it; names the process and its machine.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_file(path)
    descriptor = _lock(lock, path, until=time.monotonic() + wait)
    try:
        yield
    finally:
        if descriptor is not None:
            if lock != path:
                lock.unlink(missing_ok=True)
            os.close(descriptor)


def _lock_file(path: Path) -> Path:
    """What is locked for ``path``: a container's folder of results may lie where nothing else may be written."""
    lock = path.with_name(f".{path.name}{_LOCK}")
    return path if path.is_dir() and not os.access(path.parent, os.W_OK) else lock


def _lock(lock: Path, path: Path, *, until: float) -> int | None:
    while True:
        descriptor = os.open(lock, os.O_RDONLY if lock == path else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed the file between opening and locking; then the lock is free.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    if lock != path:
                        os.truncate(descriptor, 0)
                        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                owner = "" if lock == path else _owner(descriptor)
                os.close(descriptor)
                raise ValueError(
                    f"{path} is in use by {owner or 'another process'}; wait until it has ended, or choose another name"
                ) from None
            time.sleep(_LOCK_PAUSE)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return None
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    """Who holds a lock, which is written down a moment after it is taken."""
    for _ in range(20):
        if owner := os.pread(descriptor, 200, 0).decode():
            return owner
        time.sleep(_LOCK_PAUSE)
    return ""


@contextmanager
def keeping(path: Path) -> Iterator[Path]:
    """As ``replacing``, for what is computed once and found again: its digest is there, beside it, before it is."""
    with replacing(path) as draft:
        yield draft
        write_text(_digest_file(path), sha256_file(draft))


def is_kept(path: Path) -> bool:
    """Whether ``path`` is there as ``keeping`` wrote it. What was damaged since is said, and is to be made anew."""
    if not path.is_file():
        return False
    beside = _digest_file(path)
    if beside.is_file() and beside.read_bytes() == sha256_file(path).encode():
        return True
    logger.warning("%s is damaged, or was not written to its end; it is made anew", path)
    return False


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


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
        with naming(folder):
            yield draft
            sync_folder(draft)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(folder, old)
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def creating_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``folder`` when the block ends well: for what several processes may make.

    Raises:
        FileExistsError: Another process was first, or something else stands there; ``folder`` is as it was.
        OSError: The disk is full, cannot be written to or fails; names ``folder``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = _own_draft(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        with naming(folder):
            yield draft
            sync_folder(draft)
        try:
            os.rename(draft, folder)  # in place of nothing, or of an empty folder
        except OSError as error:
            if not folder.exists():
                raise
            raise FileExistsError(errno.EEXIST, "stands there already", str(folder)) from error
        _sync_names(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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


def move(path: Path, target: Path) -> None:
    """Renames a file or folder, in place of whatever stood at ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    os.rename(path, target)
    _sync_names(target.parent)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    with replacing(path) as draft:
        # The name of a file need not be text; in JSON this is an escape like any other.
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_line(path: Path, line: str) -> None:
    """Adds a line, which stands on the disk when this returns."""
    is_new = not path.exists()
    with naming(path), path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        _sync_names(path.parent)


def write_json(path: Path, content: object) -> None:
    """Writes readable JSON with a line break at its end, whole or not at all.

    Raises:
        ValueError: ``content`` holds NaN or infinity, which JSON does not have.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be written ({error})") from None
    write_text(path, text + "\n")


def read_lines(path: Path, *, strip: bool = True) -> Iterator[str]:
    """Lines of a UTF-8 text file, plain or gzip (``.gz``); a byte order mark is left out.

    Args:
        path: The file.
        strip: Whether lines lose the blanks around them; otherwise they keep even their line breaks.

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
            is_wide = number == 1 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            what = "UTF-16; save it as UTF-8" if is_wide else f"byte {error.object[error.start]:#04x}"
            raise ValueError(f"{path}, line {number}: not UTF-8 ({what})") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}, line {number + 1}: damaged gzip file ({error})") from None


def count_lines(path: Path) -> int:
    """How many lines a file has, plain or gzip, by its line feeds; nothing of them is looked at."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(2**20), b""))


def text_lines(path: Path, *, strip: bool = True) -> Iterator[str]:
    """Lines of text that people bring, without what ends them: line feeds, CRLF, or in the whole file CR.

    Args:
        path: The file.
        strip: Whether lines lose the blanks around them, too.

    Raises:
        ValueError: As ``read_lines``; and for a NUL byte, or a carriage return inside a line, which some programs take
            for its end and others do not.
        OSError: It cannot be opened.
    """
    lines = read_lines(path, strip=False)
    head = list(itertools.islice(lines, 2))
    if len(head) == 1 and not head[0].endswith("\n"):
        head = head[0].removesuffix("\r").split("\r")  # as old Macs wrote them
    for number, line in enumerate(itertools.chain(head, lines), start=1):
        text = line.rstrip("\r\n")
        if "\0" in text or "\r" in text:
            what = "a NUL byte" if "\0" in text else "a carriage return"
            raise ValueError(f"{path}, line {number}: {what} inside the line; remove it, or fetch the file again")
        yield text.strip() if strip else text


def read_text(path: Path) -> str:
    """The whole of a UTF-8 text file; refuses what ``read_lines`` refuses."""
    return "".join(read_lines(path, strip=False))


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """The whole of a file, plain or gzip (``.gz``), without a byte order mark of UTF-8.

    Raises:
        ValueError: It holds, unpacked, more than ``most_bytes``, or the gzip file is damaged; names the file.
        OSError: It cannot be opened.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        try:
            content = stream.read(most_bytes + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from None
    if len(content) > most_bytes:
        raise ValueError(f"{path}: more than {most_bytes:,} bytes")
    return content.removeprefix(codecs.BOM_UTF8)


def sha256_file(*paths: Path) -> str:
    """SHA-256 of a file's bytes, or of those of several files one after another: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def sha256_bytes(*contents: bytes | memoryview) -> str:
    """``sha256_file`` of files with these contents."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 of several texts, which differs wherever one of them or their number does: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def seed_of(text: str) -> int:
    """A seed for random draws that a text names: the first 64 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets errors of the disk name what could not be written; safetensors has one of its own for a full disk."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from None


def _own_draft(path: Path) -> Path:
    """A name beside ``path`` that no other process writes to; drafts there of processes that have died are removed."""
    here = digest_of(socket.gethostname(), str(_process_numbers()))[:8]
    for draft in path.parent.glob(f"*.{here}-*{_DRAFT}"):
        number = draft.name.removesuffix(_DRAFT).rpartition("-")[2]
        if number.isdigit() and not _is_alive(int(number)):
            with contextlib.suppress(OSError):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    return path.with_name(f"{path.name}.{here}-{os.getpid()}{_DRAFT}")


def _process_numbers() -> int | None:
    """Among whom a process's number is its own: containers number theirs apart, also under one host's name."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def sync_folder(folder: Path) -> None:
    """Forces everything in a folder to the disk."""
    paths, mode = [*folder.rglob("*"), folder], _mode()
    with ThreadPoolExecutor(_SYNCING) as pool:
        list(pool.map(lambda path: _sync(path, mode=mode), paths))


def _sync(path: Path, *, mode: int) -> None:
    """Forces what was written to the disk, so that the rename cannot overtake it, and lets others read it."""
    if path.is_dir():
        _sync_names(path)
        return
    path.chmod(mode)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _mode() -> int:
    """What may be done with new files here; safetensors makes its own readable for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_names(folder: Path) -> None:
    """Forces to the disk which files a folder holds; some network file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
