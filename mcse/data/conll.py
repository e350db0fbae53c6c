"""Tagged tweets: CoNLL files with ``IMGID`` lines, their images, and batches of them.

B tweets of a batch, W words, T tokens, R regions, F region width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.config import ImageControl
from mcse.data.controls import assign_images
from mcse.data.images.features import FeatureStore
from mcse.data.images.names import ABSENT, match_names
from mcse.data.images.pixels import PixelRows
from mcse.data.images.sources import find_bad_images
from mcse.data.seeds import Draw
from mcse.data.streams import ImageRows, Sampler, pad
from mcse.files import read_lines
from mcse.text.tags import OUTSIDE, Repairs, TagSet, check_tag, repair_tags, types_of
from mcse.text.word_pieces import Part, WordTokenizer, cut_words
from mcse.types import FloatArray, TokenBatch, TweetBatch

_IMAGE_LINE = "IMGID:"
_DOCUMENT_LINE = "-DOCSTART-"

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
        """Tags as they stand in the file."""
        return [text.tags for text in self.texts]

    @property
    def words(self) -> list[tuple[str, ...]]:
        """Words of every text."""
        return [text.words for text in self.texts]

    @property
    def repairs(self) -> Repairs:
        """How many tags are no valid BIO."""
        return sum((repair_tags(text.tags)[1] for text in self.texts), Repairs())


def read_tagged(path: Path) -> TaggedTexts:
    """The texts of a CoNLL file: a word and its tag a line, split by tabs or spaces, the tag last; a blank line ends.

    An ``IMGID:name`` line before the words names the image. A file without tags (one column) gets ``O``.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: No text in it; a tag that is none, or an IMGID line inside a text or without words (file and line).
    """
    reader = _Reader(path)
    number = 0
    for number, line in enumerate(read_lines(path, strip=False), start=1):
        reader.take(line.rstrip("\r\n"), number)
    reader.close(number + 1)
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
    return TaggedTexts(path, tuple(reader.texts), has_tags=reader.has_tags)


class _Reader:
    """Lines of a CoNLL file to texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[TaggedText] = []
        self.rows: list[tuple[str, str]] = []
        self.has_tags = False
        self.untagged: list[int] = []
        self.start = 0
        self.image: str | None = None
        self.image_line: int | None = None

    def take(self, line: str, number: int) -> None:
        where = f"{self.path}, line {number}"
        if not line.strip():
            if self.rows:
                self.close(number)
        elif line.startswith(_IMAGE_LINE):
            if self.rows:
                raise ValueError(f"{where}: an {_IMAGE_LINE} line inside a text; no blank line before it")
            self.close(number)
            self.image, self.image_line = line[len(_IMAGE_LINE) :].strip() or None, number
        elif not line.startswith(_DOCUMENT_LINE):
            self.start = self.start if self.rows else number
            word, tag = _word_and_tag(line, where=where)
            self.has_tags |= tag is not None
            if tag is None:
                self.untagged.append(number)
            self.rows.append((word, tag or OUTSIDE))

    def close(self, number: int) -> None:
        """Ends a text before line ``number``."""
        if self.rows:
            words, tags = zip(*self.rows, strict=True)
            self.texts.append(TaggedText(words, tags, self.image, self.start))
        elif self.image_line is not None:
            raise ValueError(f"{self.path}, line {self.image_line}: no words between it and line {number}")
        self.rows, self.image, self.image_line = [], None, None


def _word_and_tag(line: str, *, where: str) -> tuple[str, str | None]:
    columns = line.split("\t") if "\t" in line else line.split()
    if len(columns) == 1:
        return columns[0], None
    tag = columns[-1].strip()
    check_tag(tag, where=where)
    return columns[0], tag


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


@dataclass(frozen=True, slots=True)
class TweetPart:
    """A tweet, or a part of a long one: its pieces, its tags' ids, and the row of its image (``ABSENT``: none)."""

    part: Part
    tag_W: NDArray[np.int64]
    image_row: int


def cut_tweets(
    texts: TaggedTexts,
    image_row_N: NDArray[np.int64],
    *,
    tags: TagSet,
    tokenizer: WordTokenizer,
    max_length: int,
) -> list[TweetPart]:
    """Every tweet with its tags repaired; one that is too long as several parts, cut where no entity goes on.

    Raises:
        ValueError: An entity is longer than a part, or a type is unknown (file and line).
    """
    check_types(texts, tags)
    parts: list[TweetPart] = []
    for text, row in zip(texts.texts, image_row_N.tolist(), strict=True):
        repaired, _ = repair_tags(text.tags)
        tag_W = tags.ids(repaired)
        joined_W = [tag.startswith("I-") for tag in repaired]
        try:
            cut = cut_words(text.words, tokenizer, max_length=max_length, joined_W=joined_W)
        except ValueError as error:
            raise ValueError(f"{texts.path}, line {text.line}: {error}") from None
        parts += [TweetPart(part, tag_W[part.start : part.start + len(part)], row) for part in cut]
    if (more := len(parts) - len(texts)) > 0:
        logger.warning("%s: tweets longer than %d tokens were cut into %d further parts", texts.path, max_length, more)
    return parts


def match_tweets(texts: TaggedTexts, images: FeatureStore | PixelRows | None) -> NDArray[np.int64]:
    """The row of each text's image, ``ABSENT`` where it has none that can be used; says how many in a warning.

    Raises:
        ValueError: Not a single image was found, which is a wrong file.
    """
    row_N = np.full(len(texts), ABSENT, dtype=np.int64)
    if images is None:
        return row_N
    names = images.names if isinstance(images, FeatureStore) else images.source.names
    origin = str(images.path) if isinstance(images, FeatureStore) else images.origin
    if names is None:
        raise ValueError(f"{origin}: no image names, so nothing says whose regions these are")
    # Two tweets may show one image, so names are matched once each.
    wanted = sorted({text.image for text in texts.texts if text.image is not None})
    found = match_names(wanted, names, where=f"{texts.path} against {origin}")
    row_of = dict(zip(wanted, found.tolist(), strict=True))
    if isinstance(images, PixelRows):
        for bad in find_bad_images(images.source, [row for row in row_of.values() if row != ABSENT]):
            row_of = {name: ABSENT if names[row] == bad.name else row for name, row in row_of.items()}
    row_N[:] = [ABSENT if text.image is None else row_of[text.image] for text in texts.texts]
    missing = int((row_N == ABSENT).sum())
    if missing == len(texts):
        first = wanted[0] if wanted else None
        raise ValueError(f"{origin}: holds none of the {len(texts)} images of {texts.path}, first {first!r}")
    if missing:
        logger.warning("%s: %d of %d texts have no usable image in %s", texts.path, missing, len(texts), origin)
    return row_N


def control_images(image_row_N: NDArray[np.int64], control: ImageControl, *, seed: int) -> NDArray[np.int64]:
    """``assign_images`` among the texts that have an image."""
    row_N = image_row_N.copy()
    has_N = row_N != ABSENT
    if control is not True and has_N.any():
        row_N[has_N] = assign_images(row_N[has_N], control, seed=seed)
    return row_N


def image_block(images: ImageRows, row_B: NDArray[np.int64]) -> FloatArray:
    """(B, …) feature rows or pixels, zeros for ``ABSENT``; at least one row must be there."""
    has_B = row_B != ABSENT
    found = images.rows(row_B[has_B])
    block = np.zeros((len(row_B), *found.shape[1:]), dtype=np.float32)
    block[has_B] = found
    return block


class TweetStream:
    """Batches of tagged tweets, with swaps for the matching loss.

    In a step, ``num_swapped`` tweets of the global batch exchange images in pairs. Pairs stand side by side in the
    sampler's order, so that both are on one process, and which pairs is drawn over the global batch: the swaps do not
    depend on the number of processes. A pair with one image, or without one, stays as it is.

    Args:
        tweets: Tokenised.
        images: Their images; ``None`` reads none.
        sampler: Draws tweets.
        pad_id: The tokenizer's padding id.
        num_swapped: Tweets of a global batch; even.
        seed: Names the swaps.
        blank: Shape of an image's row, for batches without any image.
    """

    def __init__(
        self,
        tweets: Sequence[TweetPart],
        images: ImageRows | None,
        sampler: Sampler,
        *,
        pad_id: int,
        num_swapped: int,
        seed: int,
        blank: tuple[int, ...] = (),
    ) -> None:
        share = sampler.share
        if num_swapped and (share.batch_size % 2 or num_swapped % 2 or num_swapped > share.global_batch_size):
            raise ValueError(
                f"loss.num_swapped: {num_swapped} swapped tweets of {share.global_batch_size} (train.batch_size "
                f"{share.batch_size}): both must be even, and the first no more than the second"
            )
        self.tweets, self.images, self.sampler, self.pad_id = tweets, images, sampler, pad_id
        self.num_swapped, self.seed, self.blank = num_swapped, seed, blank

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in one pass."""
        return self.sampler.steps_per_epoch

    def batch(self, step: int) -> TweetBatch:
        """This process's tweets of ``step``."""
        chosen = [self.tweets[row] for row in self.sampler.index(step)]
        row_B = np.asarray([tweet.image_row for tweet in chosen], dtype=np.int64)
        return make_batch(
            [tweet.part for tweet in chosen],
            tags=[tweet.tag_W for tweet in chosen],
            image_row_B=row_B,
            image_BF=self._images(row_B),
            partner_B=self._partners(row_B, step=step),
            pad_id=self.pad_id,
        )

    def _images(self, row_B: NDArray[np.int64]) -> FloatArray | None:
        if self.images is None:
            return None
        if (row_B == ABSENT).all():
            return np.zeros((len(row_B), *self.blank), dtype=np.float32)
        return image_block(self.images, row_B)

    def _partners(self, row_B: NDArray[np.int64], *, step: int) -> NDArray[np.int64]:
        own_B = np.arange(len(row_B))
        if not self.num_swapped:
            return own_B
        share = self.sampler.share
        generator = np.random.default_rng([self.seed, Draw.SWAPS, step])
        pairs = generator.permutation(share.global_batch_size // 2)[: self.num_swapped // 2]
        is_swapped_B = np.isin((own_B + share.rank * share.batch_size) // 2, pairs)
        other_B = own_B ^ 1
        is_swapped_B &= (row_B != ABSENT) & (row_B[other_B] != ABSENT) & (row_B != row_B[other_B])
        return np.where(is_swapped_B, other_B, own_B)


def make_batch(
    parts: Sequence[Part],
    *,
    tags: Sequence[NDArray[np.int64]],
    image_row_B: NDArray[np.int64],
    image_BF: FloatArray | None,
    partner_B: NDArray[np.int64],
    pad_id: int,
) -> TweetBatch:
    """Parts as one batch, padded on the right."""
    first = pad([part.first_W for part in parts], pad_id=0)
    tokens: TokenBatch = pad([part.id_T for part in parts], pad_id=pad_id)
    return TweetBatch(
        tokens=tokens,
        first_BW=first.input_ids_BT,
        word_mask_BW=first.attention_mask_BT.bool(),
        tag_BW=pad(tags, pad_id=0).input_ids_BT,
        has_image_B=torch.from_numpy(image_row_B != ABSENT),
        image_id_B=torch.from_numpy(image_row_B),
        partner_B=torch.from_numpy(partner_B),
        image_BF=None if image_BF is None else torch.from_numpy(image_BF),
    )
