"""Where sentences, captions and images come from: the variants of ``data.sentences``, ``.captions`` and ``.images``.

A source is one of several variants, told apart by the key that is given; so no key can be given that would do nothing.
Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

OnBad: TypeAlias = Literal["error", "skip"]
PerImage: TypeAlias = Literal["one", "all"]


# --- sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """A table of sentences and their positives and hard negatives."""

    path: str
    """With the columns sent0, sent1, hard_neg (``.csv``, ``.tsv``, ``.jsonl``); or ``hf://datasets/OWNER/NAME/FILE``."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSentences:
    """Sentences with hard negatives."""

    table: TableFile
    """The table; its path alone will do."""

    @staticmethod
    def reads(text: str) -> bool:
        """By its ending."""
        return text.removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl"))


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSentences:
    """Sentences of a file."""

    file: str
    """One sentence a line; a table's column text or sentence; ``hf://datasets/OWNER/NAME/FILE``; else a hub dataset."""

    @staticmethod
    def reads(text: str) -> bool:
        """Whatever no other source takes."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSentences:
    """Sentences of a dataset."""

    hub: str
    """A Hugging Face dataset ``OWNER/NAME``, or ``OWNER/NAME::COLUMN``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSentences:
    """Sentences read as training goes on, without a copy, part by part in an order permuted each epoch."""

    stream: str
    """A text or parquet file, a pattern or folder of such, or a hub dataset; ``::COLUMN`` names a table's column."""

    window: int = 65_536
    """Sentences that are shuffled among each other at a time, in memory."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"data.sentences.window: must be 1 or more, got {self.window}")


TextSource: TypeAlias = HubSentences | FileSentences
Sentences: TypeAlias = TableSentences | StreamSentences | TextSource


# --- captions


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCaptions:
    """Captions by image, from a file."""

    file: str
    """A caption file or folder of any known format; or else a hub dataset. ``::SPLIT`` chooses a split."""

    images: str | None = None
    """A file that lists the images to use, one a line, or a store's ``names.json``; ``null`` uses all."""

    per_image: PerImage = "one"
    """``one`` caption of an image, drawn once by the seed, or ``all``. Source: MCSE draws one."""

    @staticmethod
    def reads(text: str) -> bool:
        """Whatever no other source takes."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubCaptions:
    """Captions by image, from a dataset."""

    hub: str
    """A Hugging Face dataset with images and captions, ``OWNER/NAME`` or ``OWNER/NAME::SPLIT``."""

    images: str | None = None
    """A file that lists the images to use, one a line, or a store's ``names.json``; ``null`` uses all."""

    per_image: PerImage = "one"
    """``one`` caption of an image, drawn once by the seed, or ``all``. Source: MCSE draws one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCaptions:
    """Captions with their images, or rows of features, in tars of WebDataset's layout."""

    shards: str
    """Tars: a range (``pairs-{000..099}.tar``), a pattern, or a folder that holds them."""

    per_image: PerImage = "one"
    """``one`` caption of an image, drawn once by the seed, or ``all``. Source: MCSE draws one."""

    window: int | None = None
    """``null`` permutes all pairs (8 bytes a pair); a number permutes tars, and that many pairs at a time in them."""

    on_bad: OnBad = "error"
    """Whether a sample without caption, or whose image cannot be read, stops the run or is left out."""

    @staticmethod
    def reads(text: str) -> bool:
        """By its ending."""
        return text.endswith((".tar", ".tar.gz", ".tgz"))

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"data.captions.window: must be 1 or more, got {self.window}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageColumn:
    """A table of which one column names or holds images. Without the column named, it is found by a plain name."""

    path: str
    """``.csv``, ``.tsv``, ``.jsonl`` (also ``.gz``), ``.parquet``, a folder of ``save_to_disk``, or a hub dataset."""

    image: str | None = None
    """The column of images: files, from the table's folder or ``data.root``; or bytes, or images of ``datasets``."""

    line_breaks: bool = False
    """Whether a quoted cell may hold line breaks, which are otherwise refused as an unclosed quotation mark."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedTable(ImageColumn):
    """A table of images with captions."""

    caption: str | None = None
    """The column of captions, of texts or lists of texts; several rows may be of one image."""

    empty_rows: OnBad = "error"
    """Whether a row without image or caption stops the run, or is counted and left out."""

    def __post_init__(self) -> None:
        check_roles(self.image, self.caption)


def check_roles(*names: str | None) -> None:
    """Refuses a column that stands for two things.

    Raises:
        ValueError: There is one; names it.
    """
    given = [name for name in names if name is not None]
    if doubled := [name for name in given if given.count(name) > 1]:
        raise ValueError(f"the column {doubled[0]!r} is named twice; each column is one thing")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableCaptions:
    """Captions by image, from a table by its columns."""

    table: CaptionedTable
    """The table; its path alone will do."""

    images: str | None = None
    """A file that lists the images to use, one a line, or a store's ``names.json``; ``null`` uses all."""

    per_image: PerImage = "one"
    """``one`` caption of an image, drawn once by the seed, or ``all``. Source: MCSE draws one."""


Table: TypeAlias = HubCaptions | TableCaptions | FileCaptions
Captions: TypeAlias = ShardCaptions | Table


# --- scored pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTable:
    """A table of scored pairs. Without any column named, they are found by their names where these are plain."""

    path: str
    """``.csv``, ``.tsv``, ``.jsonl`` (also ``.gz``), ``.parquet``, a folder of ``save_to_disk``, or a hub dataset."""

    query: str | None = None
    """The column of the first sentences."""

    positive: str | None = None
    """The column of the sentences that they are compared with."""

    score: str | None = None
    """The column of numbers that say how similar a pair is; more is more."""

    line_breaks: bool = False
    """Whether a quoted cell may hold line breaks, which are otherwise refused as an unclosed quotation mark."""

    empty_rows: OnBad = "error"
    """Whether a row with an empty cell stops the run, or is counted and left out."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)

    def __post_init__(self) -> None:
        given = [name for name in (self.query, self.positive, self.score) if name is not None]
        if len(given) in (1, 2):
            raise ValueError("data.sts.query, data.sts.positive, data.sts.score: name all three columns, or none")
        check_roles(*given)

    @property
    def name(self) -> str:
        """What its scores are called: the file without its ending, or the hub's name of a dataset."""
        return Path(Path(self.path.partition("::")[0]).name.removesuffix(".gz")).stem


ScoredPairsSource: TypeAlias = str | ScoredTable


# --- images


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Stored features of images."""

    features: str
    """A store that ``mcse extract-features`` wrote, or a matrix in ``.npy`` or HDF5; supersets are legal."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """An image encoder that reads images inside the step."""

    tower: str
    """As ``mcse extract-features --tower`` names it, such as ``timm:resnet50.tv_in1k``."""

    train: bool = False
    """Whether it is trained (batch statistics are those of a process's batch), or frozen in evaluation mode."""

    learning_rate: float | None = None
    """The peak rate of a trained one; ``null`` is ``optim.learning_rate``."""

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"data.images.learning_rate: must be positive, got {self.learning_rate}")
        if self.learning_rate is not None and not self.train:
            raise ValueError("data.images.learning_rate: the image encoder is frozen; give data.images.train true")


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder(Tower):
    """Image files, read by an image encoder inside the step."""

    TAG: ClassVar[str] = "folder"

    folder: str
    """A folder, searched to any depth, or a hub dataset; ``::SPLIT`` chooses a split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedFeatures(Features):
    """Stored features of the captions' images."""

    on_bad: OnBad = "error"
    """Whether images that could not be read when features were extracted stop the run or lose their captions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedFolder(Folder):
    """The captions' images, read by an image encoder inside the step."""

    on_bad: OnBad = "error"
    """Whether images that cannot be read stop the run or lose their captions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTable(Tower):
    """The captions' images, which a column of a table names or holds, read by an image encoder inside the step."""

    TAG: ClassVar[str] = "table"

    table: ImageColumn
    """The table; its path alone will do."""

    on_bad: OnBad = "error"
    """Whether images that cannot be read stop the run or lose their captions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesInShards:
    """Rows of features that lie beside the captions in their tars."""

    shards: Literal["features"]
    """``features``: each sample's ``.npy`` row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesInShards(Tower):
    """Images that lie beside the captions in their tars, read by an image encoder inside the step."""

    TAG: ClassVar[str] = "shards"

    shards: Literal["images"]
    """``images``: each sample's image file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesAlone:
    """Image files that belong to no text."""

    folder: str
    """A folder, searched to any depth, or a hub dataset; ``::SPLIT`` chooses a split.

    An image's class is the first folder below it.
    """

    listed: str | None = None
    """A file that lists the images to use, one a line; names may lack their folders. ``null`` uses all."""

    on_bad: OnBad = "error"
    """Whether images that cannot be read stop the run or are left out."""

    @staticmethod
    def reads(text: str) -> bool:
        """Any path."""
        return bool(text)


NamedImages: TypeAlias = PairedFeatures | PairedFolder | PairedTable
Images: TypeAlias = NamedImages | FeaturesInShards | ImagesInShards
