"""What a finished run has read, found again from its configuration: evaluation drops test pairs that stand in it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mcse.data.config import DataConfig, is_shards
from mcse.data.load import clean_images, load_caption_table, open_caption_shards, sts_test_sentences
from mcse.data.sentences.files import file_digest, open_sentences, read_lines
from mcse.data.sentences.streaming import open_texts
from mcse.data.shards.tars import open_shards
from mcse.data.test_sets.contamination import normalise

MOST_SENTENCES = 20_000_000
"""What evaluation looks through: some gigabytes of memory. Streamed text may be far more."""

_LINE_ROLES = {"elmo": ("sentences",), "cove": ("source",)}
"""Of recipes that train on lines of files as they stand: the roles of the files, all of whose lines count as read."""


class UnknownTrainingTextError(ValueError):
    """A run's training text is not to be had any more, or is not what the run read."""


def read_training_text(run: Path) -> frozenset[str]:
    """The normalised sentences of a run's training text; every caption of its images counts, drawn or not.

    Raises:
        UnknownTrainingTextError: The run folder does not say what it read, the files are gone, or have changed.
    """
    try:
        written = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        roles, section = _LINE_ROLES.get(written["recipe"]), written["data"]
        recorded = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
        config = None if roles else _data_config(section, recorded)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UnknownTrainingTextError(f"{run} does not say what it was trained on ({error})") from None
    try:
        for file in recorded:
            _check_unchanged(file, streaming=config is not None and config.streaming)
        if config is None:
            paths = tuple(Path(file["path"]) for file in recorded if file["role"] in (roles or ()))
            return _normalised_lines(paths)
        return _normalised(config)
    except (OSError, ValueError) as error:
        raise UnknownTrainingTextError(f"{run}: its training text cannot be read again: {error}") from None


@functools.lru_cache(maxsize=2)
def _normalised_lines(paths: tuple[Path, ...]) -> frozenset[str]:
    return frozenset(normalise(line) for path in paths for line in read_lines(path) if line)


@functools.lru_cache(maxsize=2)
def _normalised(config: DataConfig) -> frozenset[str]:
    """Kept for the next run, as the seeds of a recipe read the same text."""
    found: set[str] = set()
    for sentence in _sentences(config):
        found.add(normalise(sentence))
        if len(found) > MOST_SENTENCES:
            raise ValueError(f"more than {MOST_SENTENCES:,} sentences; data.decontaminate keeps test pairs out of them")
    return frozenset(found)


def _data_config(section: Mapping[str, Any], recorded: Sequence[Mapping[str, str]]) -> DataConfig:
    # Recipes have further keys of their own, which choose among the same captions.
    known = {field.name for field in fields(DataConfig)}
    given = {key: value for key, value in section.items() if key in known}
    root = given.pop("root", None)
    return DataConfig(root=Path(root) if root is not None else _recorded_root(given, recorded), **given)


def _recorded_root(section: Mapping[str, Any], recorded: Sequence[Mapping[str, str]]) -> Path | None:
    """Where the run's relative paths started, whatever the environment says today; ``None`` if no path tells."""
    for key in ("sentences", "captions"):
        name = str(section.get(key)).partition("::")[0]
        for file in recorded:
            if f"/{file['path']}".endswith(f"/{name}"):
                return Path(file["path"].removesuffix(name) or ".")
    return None


def _check_unchanged(file: Mapping[str, str], *, streaming: bool) -> None:
    """Of the text alone: images and their features may be elsewhere by now."""
    path = Path(file["path"])
    if file["role"] == "captions" and is_shards(file["path"], root=Path()):
        if open_shards(file["path"], root=Path()).digest != file["digest"]:
            raise ValueError(f"{path} has changed since")
        return
    if file["role"] == "sentences" and streaming:
        if open_texts(file["path"], root=Path()).digest != file["digest"]:
            raise ValueError(f"{path} have changed since")
        return
    if file["role"] not in ("sentences", "captions", "source") or _is_hub_name(file["path"]):
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path} is gone")
    if file_digest(path) != file["digest"]:
        raise ValueError(f"{path} has changed since")


def _is_hub_name(path: str) -> bool:
    return not Path(path).exists() and path.count("/") == 1 and not path.startswith("/") and not Path(path).suffix


def _sentences(config: DataConfig) -> Iterator[str]:
    known = sts_test_sentences(config)
    if config.streaming and config.sentences is not None:
        texts = open_texts(config.sentences, root=config.folder)
        for part in range(len(texts)):
            yield from (row for row in texts.rows(part, start=0) if row and normalise(row) not in known)
    elif config.sentences is not None:
        for row in open_sentences(config.sentences, root=config.folder).rows():
            if not any(normalise(sentence) in known for sentence in row):
                yield from row
    if config.captions_are_shards:
        shards = open_caption_shards(config)
        for captions in map(shards.captions, range(len(shards))):
            yield from () if any(normalise(caption) in known for caption in captions) else captions
    elif config.captions is not None:
        table = load_caption_table(config)
        for several, is_clean in zip(table.captions, clean_images(table, config), strict=True):
            yield from several if is_clean else ()
