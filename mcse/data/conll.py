"""CoNLL files: texts of words with their tags, and the images that ``IMGID`` lines name."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mcse.data.tables import ending
from mcse.files import text_lines
from mcse.reading import say_read
from mcse.text.tags import OUTSIDE, Repairs, TagSet, check_tag, repair_tags, types_of

_IMAGE_LINE = "IMGID:"
_DOCUMENT_LINE = "-DOCSTART-"
_BLANKS = " \t\v\f"
_NUMBER = re.compile(r"\d+(?:[-.]\d+)?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaggedText:
    """One text of a file: words, tags as they stand there, its image's name, and the line of its first word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    image: str | None
    line: int


@dataclass(frozen=True, slots=True)
class TaggedTexts:
    """The texts of one file, in order; ``has_tags``: the file has a column of tags."""

    path: Path
    texts: tuple[TaggedText, ...]
    has_tags: bool = True

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tags(self) -> list[tuple[str, ...]]:
        """Tags as written in the file."""
        return [text.tags for text in self.texts]

    @property
    def words(self) -> list[tuple[str, ...]]:
        """Words of every text."""
        return [text.words for text in self.texts]

    @property
    def repairs(self) -> Repairs:
        """How many tags are no valid BIO."""
        return sum((repair_tags(text.tags)[1] for text in self.texts), Repairs())


def read_conll(path: Path) -> TaggedTexts:
    """The texts of a CoNLL file: a word and its tag a line, split by tabs or spaces, the tag last; a blank line ends.

    An ``IMGID:name`` line before the words names the image. A file without tags (one column) gets ``O``. Where the
    first of three columns or more is a number on every line of the file, the word is the second.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A table or JSON by its ending; no text in it; a tag that is none, or an IMGID line inside a text or
            without words (file and line).
    """
    if ending(path) in (".csv", ".json", ".jsonl"):
        raise ValueError(f"{path}: no CoNLL file by its ending; write a word and its tag a line, parted by a tab")
    reader = _Reader(path)
    number = 0
    for number, line in enumerate(text_lines(path, strip=False), start=1):
        reader.take(line, number)
    reader.close(number + 1)
    words = sum(len(text.words) for text in reader.texts)
    say_read(path, read=words, total=number, unit="lines", passed_over=reader.passed_over, is_usual=True)
    if not reader.texts:
        raise ValueError(f"{path}: no texts in it")
    if reader.has_tags and reader.untagged:
        logger.warning(
            "%s: %d lines have no tag and count as %s, line %d first",
            path,
            len(reader.untagged),
            OUTSIDE,
            reader.untagged[0],
        )
    texts = reader.texts
    if reader.is_numbered:
        logger.warning("%s: the first column is numbers throughout, so the words are the second", path)
        texts = [replace(text, words=words) for text, words in zip(texts, reader.seconds, strict=True)]
    return TaggedTexts(path, tuple(texts), has_tags=reader.has_tags)


class _Reader:
    """Lines of a CoNLL file to texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[TaggedText] = []
        self.rows: list[tuple[Sequence[str], str]] = []
        self.seconds: list[tuple[str, ...]] = []
        self.is_numbered = True
        self.has_tags = False
        self.untagged: list[int] = []
        self.start = 0
        self.image: str | None = None
        self.image_line: int | None = None
        self.passed_over: Counter[str] = Counter()

    def take(self, line: str, number: int) -> None:
        where = f"{self.path}, line {number}"
        if not line.strip(_BLANKS):
            self.passed_over["blank"] += 1
            if self.rows:
                self.close(number)
        elif line[: len(_IMAGE_LINE)].upper() == _IMAGE_LINE:
            if self.rows:
                raise ValueError(f"{where}: an {_IMAGE_LINE} line inside a text; no blank line before it")
            self.close(number)
            self.passed_over["naming images"] += 1
            self.image, self.image_line = line[len(_IMAGE_LINE) :].strip() or None, number
        elif line.startswith(_DOCUMENT_LINE):
            self.passed_over["between documents"] += 1
        else:
            self.start = self.start if self.rows else number
            columns, tag = _columns_and_tag(line, where=where)
            self.has_tags |= tag is not None
            if tag is None:
                self.untagged.append(number)
            self.rows.append((columns, tag or OUTSIDE))

    def close(self, number: int) -> None:
        """Ends a text before line ``number``."""
        if self.rows:
            columns, tags = zip(*self.rows, strict=True)
            words = tuple(several[0] for several in columns)
            self.texts.append(TaggedText(words, tags, self.image, self.start))
            self.seconds.append(tuple(several[min(1, len(several) - 1)] for several in columns))
            self.is_numbered &= all(len(several) > 1 and _NUMBER.fullmatch(several[0]) for several in columns)
        elif self.image_line is not None:
            raise ValueError(f"{self.path}, line {self.image_line}: no words between it and line {number}")
        self.rows, self.image, self.image_line = [], None, None


def _columns_and_tag(line: str, *, where: str) -> tuple[Sequence[str], str | None]:
    """The columns before the tag, and the tag. A no-break space is part of a word."""
    columns = line.split("\t") if "\t" in line else [column for column in re.split(f"[{_BLANKS}]", line) if column]
    if len(columns) == 1:
        return columns, None
    tag = columns[-1].strip()
    check_tag(tag, where=where)
    return columns[:-1], tag


def find_tags(train: TaggedTexts) -> TagSet:
    """The tags of the types that occur in a file.

    Raises:
        ValueError: There are none.
    """
    types = types_of(train.tags)
    if not types:
        raise ValueError(f"{train.path}: every tag is O, so there is nothing to learn")
    return TagSet(types)


def check_types(texts: TaggedTexts, tags: TagSet) -> None:
    """Refuses a file with a type that the tag set lacks, such as MISC where training has OTHER.

    Raises:
        ValueError: Names the type, file and line.
    """
    for text in texts.texts:
        for place, tag in enumerate(text.tags):
            if unknown := set(types_of([[tag]])) - set(tags.types):
                raise ValueError(
                    f"{texts.path}, line {text.line + place}: type {unknown.pop()!r}, but the tagger knows "
                    f"{', '.join(tags.types)}"
                )
