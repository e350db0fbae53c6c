"""Word vectors' files: GloVe, word2vec and fastText, as text or in word2vec's binary format, gzipped or not.

V words, D width.
"""

from __future__ import annotations

import codecs
import gzip
import logging
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_Stream: TypeAlias = gzip.GzipFile | BufferedReader

_TEXT_SUFFIXES = (".txt", ".vec")
_BINARY_SUFFIXES = (".bin",)
_GZIP_MAGIC = b"\x1f\x8b"
_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
"""The first bytes of fastText's own models."""

_BLOCK = 1 << 20
_LONGEST_WORD = 4096
"""In bytes: a binary file without a space for so long is not what its header says."""


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """V words in the order of their file, the row of each, and the rows as they are stored, not normalised."""

    words: tuple[str, ...]
    index: Mapping[str, int]
    row_VD: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        """D."""
        return int(self.row_VD.shape[1])


def is_word_vectors_name(name: str) -> bool:
    """Whether a file of this name is read as word vectors: ``.txt``, ``.vec`` or ``.bin``, also with ``.gz``."""
    return _suffix(Path(name)) in (*_TEXT_SUFFIXES, *_BINARY_SUFFIXES)


def load_word_vectors(path: str | Path, *, keep: Set[str] | None = None) -> WordVectors:
    """Reads a file of word vectors.

    A text line is a word and D numbers; a first line of two whole numbers is word2vec's and fastText's header, which
    GloVe does not have. Fields are parted by spaces or tabs alone, because words may hold other white space, and GloVe
    has words with spaces in them. Of a word that comes twice the first row counts; words that are not UTF-8 are left
    out. Both are logged.

    Args:
        path: ``.txt`` or ``.vec`` for text, ``.bin`` for word2vec binary, each also with ``.gz``.
        keep: Only the rows of these words are read, so that memory grows with them and not with the file. The form of
            the other lines is checked, their numbers are not.

    Raises:
        ValueError: No such file, another suffix, a model of fastText, damaged gzip, a line of another width, a number
            that is none or not finite, no word, or other than the number of words that the header promises; with the
            line, or of a binary file with the word's place.
    """
    file = Path(path)
    suffix = _suffix(file)
    if suffix not in (*_TEXT_SUFFIXES, *_BINARY_SUFFIXES):
        raise ValueError(f"{file}: word vectors are read from .txt, .vec (text) or .bin (word2vec binary), also .gz")
    if not file.is_file():
        raise ValueError(f"{file}: no such file of word vectors")
    read = _read_text if suffix in _TEXT_SUFFIXES else _read_binary
    try:
        with _open(file) as stream:
            return read(stream, file, keep)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}: damaged gzip: {error}") from None


class _Rows:
    """Rows as they come: the first of each word, and of the words asked for alone."""

    def __init__(self, file: Path, *, width: int, keep: Set[str] | None) -> None:
        self._file = file
        self._keep = keep
        self._row_VD = np.empty((1024, width), dtype=np.float32)
        self._words: list[str] = []
        self._index: dict[str, int] = {}
        self._repeats = 0
        self._first_repeat = ""
        self._undecodable = 0

    def wanted(self, raw: bytes, place: int) -> str | None:
        """The word if its row is to be read; ``place`` is its line, or its number among a binary file's words."""
        try:
            word = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._undecodable += 1
            return None
        if self._keep is not None and word not in self._keep:
            return None
        if word in self._index:
            self._repeats += 1
            self._first_repeat = self._first_repeat or f"{word!r} at {place}"
            return None
        return word

    def add(self, word: str, row_D: NDArray[np.float32], place: str) -> None:
        if not np.isfinite(row_D).all():
            raise ValueError(f"{place}: the vector of {word!r} holds a number that is not finite")
        number = len(self._words)
        if number == len(self._row_VD):
            # In place: a copy would need the room of a large file twice.
            self._row_VD.resize((number + number // 2, self._row_VD.shape[1]), refcheck=False)
        self._row_VD[number] = row_D
        self._index[word] = number
        self._words.append(word)

    def finish(self) -> WordVectors:
        self._row_VD.resize((len(self._words), self._row_VD.shape[1]), refcheck=False)
        if self._repeats:
            logger.warning(
                "%s: %d words come again (first %s); their first rows count",
                self._file,
                self._repeats,
                self._first_repeat,
            )
        if self._undecodable:
            logger.warning("%s: %d words are not UTF-8 and left out", self._file, self._undecodable)
        return WordVectors(tuple(self._words), self._index, self._row_VD)


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _open(file: Path) -> _Stream:
    """By its first bytes: files lose and gain a .gz on their way."""
    with file.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    return gzip.open(file, "rb") if packed else file.open("rb")


def _read_text(stream: _Stream, file: Path, keep: Set[str] | None) -> WordVectors:
    first = stream.readline().removeprefix(codecs.BOM_UTF8)
    promised, width = _text_header(first, file)
    rows = _Rows(file, width=width, keep=keep)
    found = 0
    for number, line in _lines(stream, first=None if promised is not None else first):
        place = f"{file} line {number}"
        found += 1
        # Most lines of most files: the numbers of a word that is not asked for are not even split.
        if line.count(b" ") == width:
            raw, _, numbers = line.partition(b" ")
        else:
            raw, numbers = _split_line(line, width, place)
        if not raw:
            raise ValueError(f"{place}: begins with white space, so there is no word")
        word = rows.wanted(raw, number)
        if word is not None:
            rows.add(word, _numbers(numbers, width, place), place)
    if found == 0:
        raise ValueError(f"{file}: holds no word vectors")
    if promised is not None and found != promised:
        raise ValueError(
            f"{file} line 1: promises {promised} words, but {found} follow; fetch the file again, or correct the line "
            "if the file was shortened on purpose"
        )
    return rows.finish()


def _lines(stream: _Stream, *, first: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines without what ends them; blank lines are left out."""
    if first is not None:
        yield 1, first.rstrip(b" \t\r\n")
    for number, line in enumerate(stream, start=2):
        stripped = line.rstrip(b" \t\r\n")
        if stripped:
            yield number, stripped


def _text_header(line: bytes, file: Path) -> tuple[int | None, int]:
    """The number of words, ``None`` where the file does not say it, and D."""
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return _positive(fields, file)
    if len(fields) < 2:
        raise ValueError(f"{file} line 1: expected a word and its numbers, or the header 'N D', got {_shown(line)}")
    return None, len(fields) - 1


def _positive(fields: list[bytes], file: Path) -> tuple[int, int]:
    words, width = int(fields[0]), int(fields[1])
    if words < 1 or width < 1:
        raise ValueError(f"{file} line 1: the header promises {words} words of {width} numbers")
    return words, width


def _split_line(line: bytes, width: int, place: str) -> tuple[bytes, bytes]:
    """Word and numbers of a line with tabs or runs of spaces, or with spaces in its word."""
    fields = line.split()
    extra = fields[1:-width] if len(fields) > width + 1 else []
    if len(fields) < width + 1 or any(_is_number(field) for field in extra):
        raise ValueError(
            f"{place}: the vector of {_shown(fields[0])} has {len(fields) - 1} numbers, not the {width} of line 1"
        )
    return b" ".join(fields[:-width]), b" ".join(fields[-width:])


def _numbers(text: bytes, width: int, place: str) -> NDArray[np.float32]:
    fields = text.split()
    if len(fields) != width:
        raise ValueError(f"{place}: has {len(fields)} numbers, not the {width} of line 1")
    try:
        with np.errstate(over="ignore"):  # what does not fit is refused as not finite
            return np.array(fields, dtype=np.float32)
    except ValueError:
        wrong = next(field for field in fields if not _is_number(field))
        raise ValueError(f"{place}: {_shown(wrong)} is not a number") from None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_binary(stream: _Stream, file: Path, keep: Set[str] | None) -> WordVectors:
    header = stream.readline(_LONGEST_WORD)
    if header.startswith(_FASTTEXT_MAGIC):
        raise ValueError(
            f"{file}: is a model of fastText, not word2vec binary; take the .vec file published beside it, or write "
            "one with 'fasttext print-word-vectors MODEL.bin < words.txt > vectors.vec'"
        )
    fields = header.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        raise ValueError(
            f"{file} line 1: expected word2vec binary's header 'N D', got {_shown(header)}; a text file's name must "
            "end in .txt or .vec"
        )
    promised, width = _positive(fields, file)
    rows = _Rows(file, width=width, keep=keep)
    for number, raw, row in _binary_records(stream, file, words=promised, width=width):
        word = rows.wanted(raw, number)
        if word is not None:
            rows.add(word, np.frombuffer(row, dtype="<f4"), f"{file} word {number}")
    return rows.finish()


def _binary_records(stream: _Stream, file: Path, *, words: int, width: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, word and the bytes of its row. word2vec ends a row with a newline, other writers do not."""
    size = 4 * width
    block = stream.read(_BLOCK)
    if _is_text_line(block.partition(b"\n")[0], width):
        raise ValueError(f"{file}: holds text, not word2vec binary; rename it to end in .vec")
    at = 0
    for number in range(1, words + 1):
        while (space := block.find(b" ", at)) < 0 or len(block) < space + 1 + size:
            if space < 0 and len(block) - at > _LONGEST_WORD:
                raise ValueError(
                    f"{file} word {number}: no word ends within {_LONGEST_WORD} bytes, so rows are not {width} floats "
                    "wide as line 1 says, or the file is damaged"
                )
            more = stream.read(max(_BLOCK, size))
            if not more:
                raise ValueError(f"{file}: is cut off in word {number} of the {words} that line 1 promises")
            block, at = block[at:] + more, 0
        yield number, block[at:space].lstrip(b"\n"), block[space + 1 : space + 1 + size]
        at = space + 1 + size
    if (block[at:] + stream.read(_BLOCK)).strip(b"\r\n"):
        raise ValueError(f"{file}: goes on after the {words} words that line 1 promises")


def _is_text_line(line: bytes, width: int) -> bool:
    fields = line.split()
    return len(fields) == width + 1 and all(_is_number(field) for field in fields[1:])


def _shown(raw: bytes) -> str:
    return repr(raw[:60].decode("utf-8", errors="replace"))
