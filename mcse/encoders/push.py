"""A checkpoint to the hub: what goes there, its card as the hub reads it, and what is said when it does not arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from mcse.encoders.loading import encoder_digest
from mcse.errors import said
from mcse.files import read_text
from mcse.manifest import CARD, MANIFEST, Located, check_files, locate, read_manifest
from mcse.reading import read_json
from mcse.report.hub_results import FOLDER, model_index, result_files
from mcse.report.model_card import published_card
from mcse.report.results import EarlierResults
from mcse.run_folder import EVALUATION, RESULTS

_SEARCHED = 2**20
"""Bytes of each file in which folders of this machine are looked for; of weights it is the header."""

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
"""Files of other people's words, which are no folders."""

_PLACE = re.compile(rb"""(?:(?<![\w.:/\\-])|(?<=file://))/([\w.@+-]+)/[\w.@+-][^\s"'`,;)\]}]*""")
"""A file or folder named from the root of a disk."""

_FAILURES = (HTTPError, OSError, RuntimeError, ValueError)
"""Of the hub's library: answers, connections, one file of several, and what the hub says of a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        repository: Of the hub, ``OWNER/NAME``.
        files: Sizes in bytes.
        url: Of the commit; ``None`` of a dry run.
        kept: Files that were in the repository before and stay.
    """

    repository: str
    files: Mapping[str, int]
    url: str | None = None
    kept: tuple[str, ...] = ()


def push(
    model: str,
    repository: str,
    *,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    private: bool = True,
    dry_run: bool = False,
) -> Pushed:
    """Sends a checkpoint to the hub in one commit: all of it can be seen there, or nothing.

    A run's ``best/`` is what goes there: what its manifest lists, the manifest, the card with results, and the results
    as files. Of an earlier push, files that are no longer part of the model are removed.

    Args:
        model: A run, a checkpoint or an export of ``mcse export --to onnx`` or ``openvino``.
        repository: ``OWNER/NAME``; made where it is not there.
        licence: The hub's name of it, such as ``mit``; needed where the card states none.
        datasets: What the model was trained on: ids of the hub, ``OWNER/NAME``, or words; needed where the card states
            none.
        languages: ISO codes, instead of the card's.
        private: Whether others cannot see it; a public repository of that name is then refused.
        dry_run: Asks and sends nothing.

    Raises:
        ValueError: No checkpoint, one with damaged files or with a path of this machine in them; no licence, no data,
            no name of a repository, or one that is public, or is private, though the other was asked for; no token.
        OSError: The hub refuses it or cannot be reached; says what is there.
    """
    located = locate(model)
    if located.manifest is None:
        raise ValueError(f"{model} is no run and no checkpoint of mcse; of other folders 'hf upload' is the command")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is no name of a repository: {said(error)}") from None
    if repository.count("/") != 1:
        raise ValueError(f"{repository!r} is no name of a repository; it is OWNER/NAME")
    check_files(located.folder)
    contents = _contents(located, repository, licence=licence, datasets=datasets, languages=languages)
    _check_no_place(contents)
    files = {name: _size(content) for name, content in contents.items()}
    if dry_run:
        return Pushed(repository=repository, files=files)
    if get_token() is None:
        raise ValueError("there is no token of the hub: 'hf auth login' stores one, or set HF_TOKEN")
    return _send(repository, contents, files, private=private)


def _contents(
    located: Located, repository: str, *, licence: str | None, datasets: Sequence[str], languages: Sequence[str]
) -> dict[str, Path | bytes]:
    """What goes to the hub, by its name there."""
    folder, manifest = located.folder, read_manifest(located.folder)
    results = _results(located)
    card = published_card(
        read_text(folder / CARD) if (folder / CARD).is_file() else "",
        repository=repository,
        licence=licence,
        datasets=datasets,
        languages=languages,
        results=model_index(results, manifest.scores),
    )
    own = {name: folder / name for name in (*manifest.files, MANIFEST)}
    made = {name: text.encode() for name, text in {CARD: card, **result_files(results)}.items()}
    return {**own, **made}


def _results(located: Located) -> EarlierResults | None:
    """What ``mcse evaluate`` found of these very files."""
    path = None if located.run is None else located.run / EVALUATION / RESULTS
    if path is None or not path.is_file():
        return None
    results = read_json(path, EarlierResults)
    return results if results.digest == encoder_digest(str(located.run)) else None


def _check_no_place(contents: Mapping[str, Path | bytes]) -> None:
    for name, content in contents.items():
        if name.rpartition("/")[2] in _VOCABULARIES:
            continue
        for found in _PLACE.finditer(_head(content)):
            if Path("/", found[1].decode(errors="replace")).is_dir():
                place = found[0].decode(errors="replace")
                raise ValueError(f"{name} names a place of this machine, {place}; nothing was sent")


def _head(content: Path | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    with content.open("rb") as stream:
        return stream.read(_SEARCHED)


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _send(repository: str, contents: Mapping[str, Path | bytes], files: Mapping[str, int], *, private: bool) -> Pushed:
    api = HfApi()
    with _saying_what_is_there(api, repository):
        api.whoami()  # of a wrong token, other questions say that there is no such repository
        head, is_private = _open(api, repository, private=private)
    if private and not is_private:
        raise ValueError(f"{repository} is public; --public pushes there all the same. Nothing was sent")
    if is_private and not private:
        raise ValueError(f"{repository} is private, and --public was given; change it on the hub. Nothing was sent")
    with _saying_what_is_there(api, repository, head):
        there = set(api.list_repo_files(repository, revision=head)) - {".gitattributes"}
        gone = _earlier(api, repository, there, head) - contents.keys()
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, content) for name, content in contents.items()),
                *map(CommitOperationDelete, sorted(gone)),
            ],
            commit_message="Push by mcse",
            parent_commit=head,
        )
    kept = tuple(sorted(there - gone - contents.keys()))
    return Pushed(repository=repository, files=files, url=commit.commit_url, kept=kept)


@contextmanager
def _saying_what_is_there(api: HfApi, repository: str, head: str | None = None) -> Iterator[None]:
    """Failures of the hub's library as one ``OSError`` that says what arrived; ``head`` is the commit before."""
    try:
        yield
    except _FAILURES as error:
        raise OSError(f"{repository}: {_why(error)}. {_what_is_there(api, repository, head)}") from None


def _open(api: HfApi, repository: str, *, private: bool) -> tuple[str, bool]:
    """Its newest commit, and whether it is private; it is made where it is not there."""
    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=private)
        info = api.model_info(repository)
    return str(info.sha), bool(info.private)


def _earlier(api: HfApi, repository: str, there: set[str], head: str) -> set[str]:
    """Files there that an earlier push sent."""
    results = {name for name in there if name.startswith(f"{FOLDER}/")}
    if MANIFEST not in there:
        return set()
    folder = Path(api.hf_hub_download(repository, MANIFEST, revision=head)).parent
    try:
        return there & (results | read_manifest(folder).files.keys())
    except ValueError:  # of a newer version, or not ours: nothing of it is touched
        return set()


def _why(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "the hub does not take the token (401); 'hf auth login' stores another, or set HF_TOKEN"
    if status == 403:
        return "the token may not write there (403); it needs write access to this owner's repositories"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answered {status}: {error.server_message or said(error)}"
    # One file of several failed; or a card is refused, line by line.
    both = [error, error.__cause__] if isinstance(error, RuntimeError) and error.__cause__ else [error]
    return " ".join(" ".join(str(one).split()) or type(one).__name__ for one in both).rstrip(".")


def _what_is_there(api: HfApi, repository: str, head: str | None) -> str:
    if head is None:
        return "Nothing was sent"
    try:
        now = api.model_info(repository).sha
    except _FAILURES:
        return "Whether anything of it arrived could not be asked; the same command sends what is missing"
    if now != head:
        return "Another commit is there now: of this push, or of somebody else"
    return "The repository shows nothing of it, since files come with one commit, which was not made"
