"""Word vectors and their files (GloVe, word2vec, fastText; text or word2vec binary; ours in safetensors).

Read whole, or block by block where they are larger than memory; ``word_vector_writer`` writes them.

V words, N of one block, D width. A file of ours in safetensors holds ``vectors`` (V, D) and ``words``, the UTF-8 bytes
of all words, one a line.
"""

from __future__ import annotations

import codecs
import gzip
import logging
import zlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mcse.reading import say_read

logger = logging.getLogger(__name__)

_Stream: TypeAlias = gzip.GzipFile | BufferedReader
_Row: TypeAlias = tuple[str, NDArray[np.float32]]

TEXT_SUFFIXES = (".txt", ".vec")
BINARY_SUFFIXES = (".bin",)
SAFE_SUFFIXES = (".safetensors",)
_GZIP_MAGIC = b"\x1f\x8b"
_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")
"""The first bytes of fastText's own models."""

_MOST_DIGITS = 18
_BLOCK = 1 << 20
_LONGEST_WORD = 4096
"""In bytes: a binary file without a space for so long is not what its header says."""

_LOOKED_AT, _LEAST = 16, 1e-8
"""Rows of a binary file whose numbers are looked at; the least and, inverted, largest that a word vector may hold."""

_BLOCK_WORDS = 8192
_BLOCK_BYTES = 1 << 28
_MOST_UNPACKED = 1100
"""How many bytes one of a gzip file may become: its bound is 1,032."""


@dataclass(frozen=True, slots=True, eq=False)
class WordVectors:
    """V words in the order of their file, the row of each, and the rows as they are stored, not normalised."""

    words: tuple[str, ...]
    index: Mapping[str, int]
    row_VD: NDArray[np.float32]

    @classmethod
    def of(cls, words: tuple[str, ...], row_VD: NDArray[np.float32]) -> WordVectors:
        """From words that all differ and their rows."""
        return cls(words, {word: number for number, word in enumerate(words)}, row_VD)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def width(self) -> int:
        """D."""
        return int(self.row_VD.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class WordBlock:
    """N words and their rows."""

    words: tuple[str, ...]
    row_ND: NDArray[np.float32]


def load_word_vectors(path: str | Path, *, keep: Set[str] | None = None, limit: int | None = None) -> WordVectors:
    """Reads a file of word vectors into memory.

    A text line is a word and D numbers; a first line of two whole numbers is word2vec's and fastText's header, which
    GloVe does not have. Fields are parted by spaces or tabs alone, because words may hold other white space, and GloVe
    has words with spaces in them. Of a word that comes twice the first row counts; words that are not UTF-8 are left
    out. Both are logged.

    Args:
        path: ``.txt`` or ``.vec`` for text, ``.bin`` for word2vec binary, each also with ``.gz``; ``.safetensors`` for
            a file of ours.
        keep: Only the rows of these words are read, so that memory grows with them and not with the file. The form of
            the other lines is checked, their numbers are not.
        limit: Stops after that many words; what follows is not looked at. Files are sorted by frequency.

    Raises:
        ValueError: No such file, another suffix, a model of fastText, damaged gzip, a line of another width, a number
            that is none or not finite, no word, or other than the number of words that the header promises; with the
            line, or of a binary file with the word's place.
    """
    with _reading(Path(path), keep) as (width, rows):
        words: list[str] = []
        row_VD = np.empty((_rows_at_once(1024, width), width), dtype=np.float32)
        for word, row_D in rows:
            if len(words) == len(row_VD):
                # In place: a copy would need the room of a large file twice.
                row_VD.resize((len(words) + len(words) // 2 + 1, width), refcheck=False)
            row_VD[len(words)] = row_D
            words.append(word)
            if len(words) == limit:
                break
    row_VD.resize((len(words), width), refcheck=False)
    return WordVectors.of(tuple(words), row_VD)


def stream_word_vectors(path: str | Path, *, block_words: int = _BLOCK_WORDS) -> Iterator[WordBlock]:
    """The words of a file and their rows, in its order, ``block_words`` at a time; only the words stay in memory.

    What is read and refused is as for ``load_word_vectors``; a fault far down the file is met only there.
    """
    with _reading(Path(path), None) as (width, rows):
        words: list[str] = []
        row_ND = np.empty((_rows_at_once(block_words, width), width), dtype=np.float32)
        for word, row_D in rows:
            row_ND[len(words)] = row_D
            words.append(word)
            if len(words) == len(row_ND):
                yield WordBlock(tuple(words), row_ND.copy())
                words = []
        if words:
            yield WordBlock(tuple(words), row_ND[: len(words)].copy())


def _rows_at_once(wanted: int, width: int) -> int:
    """As many rows as are wanted, or as fit into a block of memory where they are very wide."""
    return min(wanted, max(1, _BLOCK_BYTES // (4 * width)))


@contextmanager
def _reading(file: Path, keep: Set[str] | None) -> Iterator[tuple[int, Iterator[_Row]]]:
    """Width and rows of a file that stays open so long."""
    suffix = _suffix(file)
    if suffix not in (*TEXT_SUFFIXES, *BINARY_SUFFIXES, *SAFE_SUFFIXES):
        raise ValueError(f"{file}: word vectors are read from .txt, .vec (text) or .bin (word2vec binary), also .gz")
    if not file.is_file():
        raise ValueError(f"{file}: no such file of word vectors")
    filter_ = _Filter(file, keep=keep)
    if suffix in SAFE_SUFFIXES:
        yield _read_safe(file, filter_)
        filter_.report()
        return
    read = _read_text if suffix in TEXT_SUFFIXES else _read_binary
    try:
        with _open(file) as stream:
            yield read(stream, file, filter_)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}: damaged gzip: {error}") from None
    filter_.report()


class _Filter:
    """Which rows are wanted: the first of each word, and of the words asked for alone."""

    def __init__(self, file: Path, *, keep: Set[str] | None) -> None:
        self._file, self._keep = file, keep
        self._seen: set[str] = set()
        self._repeats = 0
        self._first_repeat = ""
        self._undecodable = self._unwanted = self._total = 0

    def wanted(self, raw: bytes, place: int) -> str | None:
        """The word if its row is to be read; ``place`` is its line, or its number among a binary file's words."""
        self._total += 1
        try:
            word = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._undecodable += 1
            return None
        if self._keep is not None and word not in self._keep:
            self._unwanted += 1
            return None
        if word in self._seen:
            self._repeats += 1
            self._first_repeat = self._first_repeat or f"{word!r} at {place}"
            return None
        self._seen.add(word)
        return word

    def report(self) -> None:
        if self._repeats:
            logger.warning(
                "%s: %d words come again (first %s); their first rows count",
                self._file,
                self._repeats,
                self._first_repeat,
            )
        say_read(
            self._file,
            read=len(self._seen),
            total=self._total,
            unit="words",
            passed_over={
                "not UTF-8": self._undecodable,
                "that come again": self._repeats,
                "not asked for": self._unwanted,
            },
            is_usual=not self._undecodable,
        )


def _finite(word: str, row_D: NDArray[np.float32], place: str) -> _Row:
    if not np.isfinite(row_D).all():
        raise ValueError(f"{place}: the vector of {word!r} holds a number that is not finite")
    return word, row_D


def _read_safe(file: Path, filter_: _Filter) -> tuple[int, Iterator[_Row]]:
    try:
        with safe_open(file, framework="numpy") as stored:
            if {"vectors", "words"} - set(stored.keys()):
                raise ValueError(f"{file}: holds no word vectors of ours (tensors 'vectors' and 'words')")
            words = stored.get_tensor("words").tobytes().split(b"\n")
            shape = stored.get_slice("vectors").get_shape()
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged, or no safetensors: {error}") from None
    if len(shape) != 2 or shape[0] != len(words):
        raise ValueError(f"{file}: vectors of shape {shape} for {len(words)} words")

    def rows() -> Iterator[_Row]:
        with safe_open(file, framework="numpy") as stored:
            vectors = stored.get_slice("vectors")
            for start in range(0, len(words), _BLOCK_WORDS):
                row_ND = vectors[start : min(start + _BLOCK_WORDS, len(words))]
                for number, row_D in enumerate(row_ND, start=start):
                    word = filter_.wanted(words[number], number + 1)
                    if word is not None:
                        yield _finite(word, row_D, f"{file}, word {number + 1}")

    return int(shape[1]), rows()


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()


def _open(file: Path) -> _Stream:
    return gzip.open(file, "rb") if _is_packed(file) else file.open("rb")


def _is_packed(file: Path) -> bool:
    """By its first bytes: files lose and gain a .gz on their way."""
    with file.open("rb") as stream:
        return stream.read(2) == _GZIP_MAGIC


def _read_text(stream: _Stream, file: Path, filter_: _Filter) -> tuple[int, Iterator[_Row]]:
    first = stream.readline().removeprefix(codecs.BOM_UTF8)
    promised, width = _text_header(first, file)

    def rows() -> Iterator[_Row]:
        found = 0
        for number, line in _lines(stream, first=None if promised is not None else first):
            place = f"{file}, line {number}"
            found += 1
            # Most lines of most files: the numbers of a word that is not asked for are not even split.
            if line.count(b" ") == width:
                raw, _, numbers = line.partition(b" ")
            else:
                raw, numbers = _split_line(line, width, place)
            if not raw:
                raise ValueError(f"{place}: begins with white space, so there is no word")
            word = filter_.wanted(raw, number)
            if word is not None:
                yield _finite(word, _numbers(numbers, width, place), place)
        if found == 0:
            raise ValueError(f"{file}: holds no word vectors")
        if promised is not None and found != promised:
            raise ValueError(
                f"{file}, line 1: promises {promised} words, but {found} follow; fetch the file again, or correct the "
                "line if the file was shortened on purpose"
            )

    return width, rows()


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
        return _positive(fields, file, digits=2)
    if len(fields) < 2:
        raise ValueError(f"{file}, line 1: expected a word and its numbers, or the header 'N D', got {_shown(line)}")
    return None, len(fields) - 1


def _positive(fields: list[bytes], file: Path, *, digits: int) -> tuple[int, int]:
    """N and D of a header, held against the file's size before anything is allocated; a number has ``digits`` bytes."""
    if max(map(len, fields)) > _MOST_DIGITS:
        raise ValueError(f"{file}, line 1: the header promises {_shown(b' '.join(fields))}, more than there can be")
    words, width = int(fields[0]), int(fields[1])
    if words < 1 or width < 1:
        raise ValueError(f"{file}, line 1: the header promises {words} words of {width} numbers")
    size = file.stat().st_size * (_MOST_UNPACKED if _is_packed(file) else 1)
    if words * (1 + digits * width) > size:
        raise ValueError(
            f"{file}, line 1: the header promises {words:,} words of {width:,} numbers, more than the file's "
            f"{file.stat().st_size:,} bytes can hold; it is cut off, or the header is wrong"
        )
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
            row_D = np.array(fields, dtype=np.float32)
        if b"_" in text:
            raise ValueError
        return row_D
    except ValueError:
        wrong = next(field for field in fields if not _is_number(field))
        raise ValueError(f"{place}: {_shown(wrong)} is not a number") from None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field  # Python reads 1_0 as 10


def _read_binary(stream: _Stream, file: Path, filter_: _Filter) -> tuple[int, Iterator[_Row]]:
    header = stream.readline(_LONGEST_WORD)
    if header.startswith(_FASTTEXT_MAGIC):
        raise ValueError(
            f"{file}: is a model of fastText, not word2vec binary; take the .vec file published beside it, or write "
            "one with 'fasttext print-word-vectors MODEL.bin < words.txt > vectors.vec'"
        )
    fields = header.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        raise ValueError(
            f"{file}, line 1: expected word2vec binary's header 'N D', got {_shown(header)}; a text file's name must "
            "end in .txt or .vec"
        )
    promised, width = _positive(fields, file, digits=4)

    def rows() -> Iterator[_Row]:
        for number, raw, row in _binary_records(stream, file, words=promised, width=width):
            if number <= _LOOKED_AT and _is_big_endian(row):
                raise ValueError(
                    f"{file}, word {number}: its numbers are big-endian, as other machines than today's wrote them; "
                    "word2vec binary is little-endian (numpy.ndarray.byteswap turns them round)"
                )
            word = filter_.wanted(raw, number)
            if word is not None:
                yield _finite(word, np.frombuffer(row, dtype="<f4"), f"{file}, word {number}")

    return width, rows()


def _is_big_endian(row: bytes) -> bool:
    """Whether most numbers of a row are absurd as they stand, and none with their bytes turned round."""
    absurd = []
    for order in ("<f4", ">f4"):
        with np.errstate(invalid="ignore"):
            size_D = np.abs(np.frombuffer(row, dtype=order).astype(np.float64))
        absurd.append(int((~((size_D == 0) | ((size_D > _LEAST) & (size_D < 1 / _LEAST)))).sum()))
    return 2 * absurd[0] * 4 > len(row) and not absurd[1]


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
                    f"{file}, word {number}: no word ends within {_LONGEST_WORD} bytes, so rows are not {width} floats "
                    "wide as line 1 says, or the file is damaged"
                )
            more = stream.read(max(_BLOCK, size))
            if not more:
                raise ValueError(f"{file}: is cut off in word {number} of the {words} that line 1 promises")
            block, at = block[at:] + more, 0
        word = block[at:space].lstrip(b"\r\n")
        if b"\n" in word or b"\0" in word:
            raise ValueError(
                f"{file}, word {number}: {_shown(word)} holds a line break or NUL byte; a word before it may hold a "
                "space, which this format cannot tell from its end"
            )
        yield number, word, block[space + 1 : space + 1 + size]
        at = space + 1 + size
    if (block[at:] + stream.read(_BLOCK)).strip(b"\r\n"):
        raise ValueError(f"{file}: goes on after the {words} words that line 1 promises")


def _is_text_line(line: bytes, width: int) -> bool:
    fields = line.split()
    return len(fields) == width + 1 and all(_is_number(field) for field in fields[1:])


def _shown(raw: bytes) -> str:
    return repr(raw[:60].decode("utf-8", errors="replace"))
