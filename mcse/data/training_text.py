"""Training text that is read again after the run: evaluation drops test pairs that occur in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mcse.data.captions.table import load_captions, select_images
from mcse.data.images.tables import open_image_table
from mcse.data.load import clean_images
from mcse.data.named_columns import digest_of_source, open_named_columns
from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.data.shards.tars import open_shards
from mcse.data.source_variants import CaptionedTable
from mcse.data.table_config import NamedTable
from mcse.data.test_sets.contamination import normalise, sts_test_sentences
from mcse.files import sha256_file, text_lines
from mcse.types import DataFile, TrainingText

MOST_SENTENCES = 40_000_000
"""What evaluation looks through: some gigabytes of memory. Streamed text may be far more."""

_HERE = Path()


def read_training_text(files: Iterable[DataFile]) -> frozenset[str]:
    """The normalised sentences of the training text among ``files``; every caption of its images counts, drawn or not.

    Raises:
        FileNotFoundError: A file is gone.
        ValueError: A file has changed since, or there are too many sentences.
    """
    found = [(file, file.text) for file in files if file.text is not None]
    for file, text in found:
        _check_unchanged(file, text)
    return _normalised(tuple(dict.fromkeys(text for _, text in found)))


@functools.lru_cache(maxsize=2)
def _normalised(texts: tuple[TrainingText, ...]) -> frozenset[str]:
    """Kept for the next run, as the seeds of a recipe read the same text."""
    found: set[str] = set()
    for text in texts:
        for sentence in _READERS[text.reader](text):
            found.add(normalise(sentence))
            if len(found) > MOST_SENTENCES:
                advice = "data.decontaminate keeps test pairs out of them"
                raise ValueError(f"more than {MOST_SENTENCES:,} sentences; {advice}")
    return frozenset(found)


def _check_unchanged(file: DataFile, text: TrainingText) -> None:
    if text.reader == "shards":
        digest = open_shards(file.path, root=_HERE).digest
    elif text.reader == "stream":
        digest = open_texts(file.path, root=_HERE).digest
    elif text.reader in ("table", "image_table"):
        digest = digest_of_source(file.path)
    elif _is_hub_name(file.path):
        return
    elif not Path(file.path).is_file():
        raise FileNotFoundError(f"{file.path} is gone")
    else:
        digest = sha256_file(Path(file.path))
    if digest != file.digest:
        raise ValueError(f"{file.path} has changed since")


def _is_hub_name(path: str) -> bool:
    return not Path(path).exists() and path.count("/") == 1 and not path.startswith("/") and not Path(path).suffix


def _lines(text: TrainingText) -> Iterator[str]:
    return (line for line in text_lines(Path(text.source)) if line)


def _sentences(text: TrainingText) -> Iterator[str]:
    known = sts_test_sentences(text.tests)
    for row in open_sentences(text.source, root=_HERE).rows():
        if not any(normalise(sentence) in known for sentence in row):
            yield from row


def _stream(text: TrainingText) -> Iterator[str]:
    known = sts_test_sentences(text.tests)
    parts = open_texts(text.source, root=_HERE)
    for part in range(len(parts)):
        yield from (row for row in parts.rows(part, start=0) if row and normalise(row) not in known)


def _captions(text: TrainingText) -> Iterator[str]:
    table = load_captions(text.source, images=None if text.images is None else Path(text.images))
    for several, is_clean in zip(table.captions, clean_images(table, text.tests), strict=True):
        yield from several if is_clean else ()


def _shards(text: TrainingText) -> Iterator[str]:
    known = sts_test_sentences(text.tests)
    shards = open_shards(text.source, root=_HERE)
    for captions in map(shards.captions, range(len(shards))):
        yield from () if any(normalise(caption) in known for caption in captions) else captions


def _table(text: TrainingText) -> Iterator[str]:
    known = sts_test_sentences(text.tests)
    named = NamedTable(
        path=text.source,
        query=text.columns[0],
        positive=text.columns[1] if len(text.columns) > 1 else None,
        negatives=text.columns[2:],
        line_breaks=text.line_breaks,
        empty_rows="skip" if text.skips_empty else "error",
    )
    for example in open_named_columns(named, root=_HERE, key=text.source).rows():
        if not any(normalise(sentence) in known for sentence in example.texts):
            yield from example.texts


def _image_table(text: TrainingText) -> Iterator[str]:
    image, caption = text.columns
    config = CaptionedTable(
        path=text.source,
        image=image,
        caption=caption,
        line_breaks=text.line_breaks,
        empty_rows="skip" if text.skips_empty else "error",
    )
    table = open_image_table(config, root=_HERE, key=text.source).captions()
    table = table if text.images is None else select_images(table, Path(text.images))
    for several, is_clean in zip(table.captions, clean_images(table, text.tests), strict=True):
        yield from several if is_clean else ()


_READERS: Mapping[str, Callable[[TrainingText], Iterator[str]]] = {
    "lines": _lines,
    "sentences": _sentences,
    "stream": _stream,
    "captions": _captions,
    "shards": _shards,
    "table": _table,
    "image_table": _image_table,
}
