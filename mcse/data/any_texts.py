"""Texts of anything that training reads, exactly as its readers hand them to the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mcse.data.captions.table import load_captions
from mcse.data.sentences.files import open_sentences
from mcse.data.sentences.streaming import open_texts
from mcse.data.shards.tars import open_shards
from mcse.data.source_variants import ShardCaptions
from mcse.data.tables import TABLE_SUFFIXES, ending, in_one_line
from mcse.data.text_column import open_text_column

_HERE = Path()


def read_texts(source: str, *, key: str) -> Iterator[str]:
    """The texts of a source of ``data.sentences`` or ``data.captions``; of a table those of every reader that takes it.

    Args:
        source: A text file, a table (``::COLUMN`` names its column), a caption file or folder (``::SPLIT``), a pattern
            or folder of streamed files, tars, or a hub dataset.
        key: What it was given as, for messages.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: No reader takes it; says what each one misses.
    """
    name, _, column = source.partition("::")
    path = Path(name)
    if ShardCaptions.reads(name):
        return _shards(name)
    if column and path.is_file() and ending(path) in TABLE_SUFFIXES:
        return _column(name, column)
    readers: list[Callable[[str], Iterable[str]]] = [_sentences, _captions, _stream]
    if path.is_file() and ending(path) not in (*TABLE_SUFFIXES, ".json", ".parquet"):
        readers = [_sentences, _captions]
    found: list[Iterable[str]] = []
    faults: list[Exception] = []
    for reader in readers:
        try:
            found.append(reader(source))
        except (ValueError, OSError) as error:
            faults.append(error)
            continue
        if reader is _sentences and path.is_file() and ending(path) not in TABLE_SUFFIXES:
            break  # lines of text, which captions without images are, too
    if not found:
        absent = all(isinstance(fault, FileNotFoundError) for fault in faults)
        raise (FileNotFoundError if absent else ValueError)(f"{key} {source}: {'; '.join(map(str, faults))}")
    return (text for texts in found for text in texts)


def _sentences(source: str) -> Iterable[str]:
    opened = open_sentences(source, root=_HERE)
    return (text for row in opened.rows() for text in row)


def _captions(source: str) -> Iterable[str]:
    return [caption for several in load_captions(source).captions for caption in several]


def _stream(source: str) -> Iterable[str]:
    parts = open_texts(source, root=_HERE)
    return (row for part in range(len(parts)) for row in parts.rows(part, start=0) if row)


def _shards(source: str) -> Iterator[str]:
    shards = open_shards(source, root=_HERE)
    for captions in map(shards.captions, range(len(shards))):
        yield from captions


def _column(name: str, column: str) -> Iterator[str]:
    """Both as the readers of sentences, and as those of caption files, put a cell into one line."""
    for row in open_text_column(name, column=column, empty_rows="skip", line_breaks=True).rows():
        yield in_one_line(row.text)
        yield " ".join(row.text.splitlines()).strip()
