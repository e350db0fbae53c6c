"""Files that commands fetch and unpack: whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from huggingface_hub import hf_hub_download

from mcse.files import move, replacing, sync_folder


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub dataset; ``sha256`` is what the hub's page of the file shows, where we have seen it."""

    repository: str
    name: str
    revision: str = "main"
    sha256: str | None = None

    @property
    def url(self) -> str:
        """Where a browser downloads it."""
        return f"https://huggingface.co/datasets/{self.repository}/resolve/{self.revision}/{self.name}"


Fetch = Callable[[HubFile], Path]


def fetch_from_hub(file: HubFile) -> Path:
    """The file in the hub's local cache, downloaded if it is not there yet.

    Raises:
        FileNotFoundError: It cannot be had; the message gives its address.
    """
    try:
        return Path(hf_hub_download(file.repository, file.name, repo_type="dataset", revision=file.revision))
    except Exception as error:  # the hub's client raises many kinds, some of them its own
        raise FileNotFoundError(
            f"{file.name} cannot be had from the hub ({type(error).__name__}); download it by hand from {file.url}"
        ) from error


def fetch_from_folder(mirror: Path) -> Fetch:
    """Takes hub files from a folder laid out ``OWNER/NAME/FILE``."""

    def fetch(file: HubFile) -> Path:
        path = mirror / file.repository / file.name
        if not path.is_file():
            raise FileNotFoundError(f"--mirror: no file at {path}; it is {file.url}")
        return path

    return fetch


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, whole or not at all."""
    with replacing(target) as draft:
        shutil.copyfile(source, draft)


def unpack(archive: Path, folder: Path, *, wanted: Sequence[str]) -> None:
    """Takes files and folders by name out of a zip or tar, wherever they lie; those in ``folder`` stay as they are.

    They come one after another, whole, the first of ``wanted`` last: it is there when all of them are.

    Raises:
        ValueError: Not a zip or tar, or nothing by these names in it.
    """
    draft = folder / f"{archive.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        members = _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)
        for name, stream in members:
            inside = _from(name, wanted)
            if inside is not None:
                (draft / inside).parent.mkdir(parents=True, exist_ok=True)
                with (draft / inside).open("wb") as output:
                    shutil.copyfileobj(stream, output)
        if not draft.is_dir():
            raise ValueError(f"{archive}: holds none of {', '.join(wanted)}")
        sync_folder(draft)
        for name in reversed(wanted):
            if (draft / name).exists() and not (folder / name).exists():
                move(draft / name, folder / name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{archive}: not readable as an archive, perhaps cut short ({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _from(name: str, wanted: Sequence[str]) -> PurePosixPath | None:
    """The path from the first wanted part on; ``None`` without one, and for hidden files and paths that climb."""
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") and part != "." for part in parts):
        return None
    start = next((i for i, part in enumerate(parts) if part in wanted), None)
    return None if start is None else PurePosixPath(*parts[start:])


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            # What macOS adds to archives: resource forks that look like the files.
            if member.flag_bits & 1:
                raise ValueError(
                    f"{path}: {member.filename} is encrypted; unpack the archive by hand, with its password"
                )
            if not member.is_dir() and not member.filename.startswith("__MACOSX/"):
                with archive.open(member) as stream:
                    yield member.filename, stream


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, stream
