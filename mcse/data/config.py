"""What a run reads: the groups ``data`` and ``words``. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mcse.data.source_variants import (
    Captions,
    Features,
    FeaturesInShards,
    Folder,
    Images,
    ImagesAlone,
    ImagesInShards,
    NamedImages,
    PairedFeatures,
    ScoredPairsSource,
    Sentences,
    ShardCaptions,
    Table,
    TableSentences,
    TextSource,
)

Splitting: TypeAlias = Literal["words", "spaces"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRoot:
    """Where the files of a run are, and what the model card says of them."""

    root: Path | None = None
    """Where relative paths start; by default the environment variable ``MCSE_DATA``, else the working folder."""

    licence: str | None = None
    """Of the model, as its data allows it: the hub's name, such as ``cc-by-sa-4.0``. Only the model card says it."""

    languages: tuple[str, ...] = ()
    """ISO codes of the text's languages, such as ``en``. Only the model card says them."""

    @property
    def folder(self) -> Path:
        """``root``, or what stands for it."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))

    def path(self, key: str) -> Path:
        """Where the file is that the setting ``key`` names.

        Raises:
            FileNotFoundError: It is not there.
        """
        given = getattr(self, key)
        path: Path = self.folder / given
        if not path.is_file():
            raise self.absent(given, f"data.{key}: no file at {path}")
        return path

    def absent(self, given: str, reason: str) -> FileNotFoundError:
        """The error that ``reason`` tells, with where the search for a relative path began."""
        if Path(given).is_absolute():
            return FileNotFoundError(reason)
        start = "" if self.root is not None else " (neither data.root nor MCSE_DATA is set)"
        if self.root is None and "MCSE_DATA" in os.environ:
            start = " (from the environment variable MCSE_DATA)"
        return FileNotFoundError(f"{reason}; relative paths start at data.root = {self.folder}{start}")


_FILES = re.compile(
    r"""data\.(
            sentences | (sentences|captions)\.file | sentences\.stream | captions\.images
            | images\.(features|folder|listed) | ((sentences|captions|images)\.)?table\.path | tables\[\d+\]\.path
            | sts(\.path)? | train | dev | test | (dev_)?(source|target) | vectors
        )
    | words\.(vectors|similarity) | encoder\.word_vectors | evaluate\[\d+\]\.path""",
    re.VERBOSE,
)
"""Keys whose texts name files below ``data.root``."""

_PERHAPS_OF_THE_HUB = ("file", "stream", "folder", "path")
_ABSENT = {"features": "nothing", "folder": "no folder", "sts": "neither a folder nor a file"}
_OF_FILES = re.compile(r"\.(txt|csv|tsv|jsonl?|gz|parquet|token|tar|npy|hdf5|h5)", re.IGNORECASE)


def missing_files(tree: Mapping[str, Any]) -> Callable[[str, Any], Iterator[tuple[str, str]]]:
    """A check for ``build_config``: which files that a group names are not there; only what is no hub name for certain.

    Args:
        tree: The whole configuration, nested, for its ``data.root``.
    """
    data = tree.get("data")
    given = data.get("root") if isinstance(data, Mapping) else None
    start = DataRoot(root=Path(given) if isinstance(given, str | Path) and given not in ("", "~", "null") else None)

    def check(path: str, group: Any) -> Iterator[tuple[str, str]]:
        for field in fields(group):
            value, key = getattr(group, field.name), f"{path}{field.name}"
            if not isinstance(value, str):
                continue
            if field.name == "name_or_path" and _is_path(value) and not Path(value).exists():
                yield key, f"{key}: no folder at {value}"
            if _FILES.fullmatch(key) and (kind := _lacking(value, field.name, start.folder)):
                shown = path.rstrip(".") if field.name in ("file", "stream", "path") else key
                yield key, str(start.absent(value, f"{shown}: {kind} at {start.folder / value.partition('::')[0]}"))

    return check


def _lacking(value: str, name: str, folder: Path) -> str:
    """What is not there; nothing where it is, or where a pattern or a dataset of the hub may be meant."""
    value = value.partition("::")[0]
    if re.search(r"[*?\[{]|://", value) or (folder / value).exists():
        return ""
    if name in _PERHAPS_OF_THE_HUB and (not _is_path(value) or Path(value).exists()):
        return ""
    return _ABSENT.get(name, "no file")


def _is_path(value: str) -> bool:
    """Whether a name is no ``OWNER/NAME`` of the hub, nor of another library's."""
    if ":" in value:
        return False
    return (
        value.startswith(("/", "./", "../"))
        or value.count("/") > 1
        or _OF_FILES.fullmatch(Path(value).suffix) is not None
    )


# --- what recipes read


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenConfig(DataRoot):
    """Text that is cut into tokens."""

    max_length: int = 32
    """Tokens that a training sentence keeps, special ones included. Source: SimCSE."""

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(f"data.max_length: must hold a token and two special ones, got {self.max_length}")

    def tests_in(self, given: ScoredPairsSource | None) -> str:
        """The folder in which the STS test files are looked for: ``given``, or if that is none ``root``."""
        folder = self.folder / given if isinstance(given, str) else self.folder
        # A file of scored pairs selects checkpoints; it is not the test set.
        return str(folder if folder.is_dir() else self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(TokenConfig):
    """Sentences, captions as text, or both; and the scored pairs that select the checkpoint."""

    sentences: Sentences | None = None
    """Sentences without images; given as a text alone a file or hub dataset, or by its ending ``.csv`` a table."""

    captions: Captions | None = None
    """Captions of images; given as a text alone a file or hub dataset, or by its ending ``.tar`` shards."""

    decontaminate: bool = False
    """Whether sentences, and images any of whose captions, occur in the STS test files are left out."""

    sts: ScoredPairsSource | None = None
    """A file of scored pairs to select by, or SentEval's folder; ``null`` looks below ``root``, then at the hub.

    With the keys below it may be a table whose columns have other names than sentence1, sentence2 and score.
    """

    repetition: float = 0.0
    """ESimCSE's rate of doubled tokens in a sentence's positive: 0.32 for BERT, 0.30 for RoBERTa; 0 doubles none."""

    def __post_init__(self) -> None:
        TokenConfig.__post_init__(self)
        if self.sentences is None and self.captions is None:
            raise ValueError("data.sentences, data.captions: give at least one of them")
        if not 0 <= self.repetition <= 1:
            raise ValueError(f"data.repetition: must be in [0, 1], got {self.repetition:g}")
        if self.repetition and isinstance(self.sentences, TableSentences):
            raise ValueError("data.repetition, data.sentences: a table of hard negatives has positives of its own")
        if isinstance(self.sentences, TableSentences) and self.captions is not None:
            raise ValueError("data.sentences, data.captions: a table of hard negatives cannot be mixed with captions")

    @property
    def tests(self) -> str | None:
        """Where the STS test files are; ``None`` if nothing is left out."""
        return self.tests_in(self.sts) if self.decontaminate else None


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedDataConfig(TokenConfig):
    """Text of a masked language model, and the part of it that is held out."""

    sentences: TextSource
    """Sentences or short paragraphs; given as a text alone a file or hub dataset."""

    max_length: int = 128
    """Tokens that a line keeps, special ones included."""

    dev: str | None = None
    """A file of lines to evaluate on, which are not trained on; ``null`` holds out ``dev_share`` of ``sentences``."""

    dev_share: float | None = None
    """Share of the sentences that is held out, chosen by their own letters, so that it is the same in every run.

    ``null`` is 0.01, or none beside ``dev``.
    """

    decontaminate: bool = False
    """Whether sentences that occur in the STS test files are left out."""

    sts: ScoredPairsSource | None = None
    """A file of scored pairs, or SentEval's folder, that the encoder is evaluated on as well; ``null`` is none.

    With the keys below it may be a table whose columns have other names than sentence1, sentence2 and score.
    """

    def __post_init__(self) -> None:
        TokenConfig.__post_init__(self)
        if self.dev is None and self.dev_share is None:
            object.__setattr__(self, "dev_share", 0.01)
        if self.dev_share is not None and not 0 < self.dev_share < 1:
            raise ValueError(f"data.dev_share: must be above 0 and below 1, got {self.dev_share:g}")
        if self.dev is not None and self.dev_share is not None:
            raise ValueError("data.dev_share: would do nothing, since data.dev is a file of its own")

    @property
    def tests(self) -> str | None:
        """Where the STS test files are; ``None`` if nothing is left out."""
        return self.tests_in(self.sts) if self.decontaminate else None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDataConfig(DataConfig):
    """Captions with their images, and sentences beside them."""

    captions: Captions
    """Captions of images; given as a text alone a file or hub dataset, or by its ending ``.tar`` shards."""

    images: Images
    """The captions' images; given as a text alone a store of features."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        if isinstance(self.images, FeaturesInShards | ImagesInShards) != isinstance(self.captions, ShardCaptions):
            raise ValueError(
                "data.captions, data.images: captions in shards have their images beside them; give data.images.shards "
                "with data.captions.shards, and neither without the other"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedDataConfig(DataConfig):
    """Sentences, and images that have nothing to do with them."""

    images: ImagesAlone
    """Images without texts; their folder alone will do."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        if self.captions is not None:
            raise ValueError("data.captions: the images of this recipe belong to no text; give data.sentences")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionDataConfig(TokenConfig):
    """Captions of images alone."""

    captions: Table
    """Captions of images; given as a text alone a file or hub dataset."""

    decontaminate: bool | str = False
    """Whether images any of whose captions occur in the STS test files are left out; or the folder with these files."""

    @property
    def tests(self) -> str | None:
        """Where the STS test files are; ``None`` if nothing is left out."""
        given = self.decontaminate
        return self.tests_in(given if isinstance(given, str) else None) if given else None


@dataclass(frozen=True, kw_only=True, slots=True)
class JointDataConfig(CaptionDataConfig):
    """Captions with their images, and images held out to select the checkpoint."""

    images: NamedImages
    """The captions' images; given as a text alone a store of features."""

    dev_images: int | str | None = None
    """Images held out to select by: how many (drawn by the seed), a file that lists them, or a split such as ``::val``.

    They are not trained on. ``null`` holds out none, for runs without ``train.select_by``.
    """

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        TokenConfig.__post_init__(self)
        if isinstance(self.dev_images, int) and self.dev_images < 2:
            raise ValueError(f"data.dev_images: must be 2 or more, got {self.dev_images}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordDataConfig(CaptionDataConfig):
    """Captions with stored features of their images."""

    images: PairedFeatures
    """The captions' images; given as a text alone a store of features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggedConfig(TokenConfig):
    """Tagged tweets with or without images."""

    train: str
    """A CoNLL file: a word and its tag a line, a blank line after each tweet, ``IMGID:`` lines naming images."""

    dev: str
    """Such a file that selects the checkpoint."""

    images: Features | Folder | None = None
    """The tweets' images; given as a text alone a store of features of their regions; ``null`` reads text alone."""

    max_length: int = 128
    """Tokens of a part; a longer tweet is cut between entities into parts, each with its image. Source: MAF."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageDataConfig(DataRoot):
    """Text of a language model."""

    sentences: str
    """A text file, plain or gzip, one sentence a line, or a pattern of such files (``news/*.txt``)."""

    dev: str | None = None
    """Such a file to evaluate on; ``null`` holds out the first ``dev_sentences`` of ``sentences``."""

    dev_sentences: int = 1000
    """Sentences to evaluate on."""

    max_sentences: int | None = None
    """Sentences that are trained on; ``null`` takes all."""

    splitting: Splitting = "words"
    """``words`` parts punctuation from words; ``spaces`` takes tokenised text as it is."""

    vocabulary_size: int | None = None
    """Most frequent words that are predicted; others count as unknown, but are read by their characters."""

    min_count: int = 1
    """How often a word that is predicted must occur."""

    unroll: int = 20
    """Places that a step back-propagates through. Source: Peters et al. 2018, the released code."""

    fresh_share: float = 0.0
    """Share of sentences that are read from a zero state, not from where the sentence before them ended.

    Source: the released code has 0. A model that always carries on meets the zero state of a sentence by itself for the
    first time when it is used.
    """

    def __post_init__(self) -> None:
        for key in ("dev_sentences", "max_sentences", "vocabulary_size", "min_count", "unroll"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"data.{key}: must be 1 or more, got {value}")
        if not 0 <= self.fresh_share <= 1:
            raise ValueError(f"data.fresh_share: must be in [0, 1], got {self.fresh_share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationDataConfig(DataRoot):
    """Sentences with their translations."""

    source: str
    """A text file, plain or gzip, one sentence a line."""

    target: str
    """Their translations, line by line."""

    dev_source: str
    """Sentences to evaluate on."""

    dev_target: str
    """Their translations, line by line."""

    vectors: str
    """A file of the word vectors that the source is read through."""

    max_length: int = 50
    """Words; pairs with a longer side are left out. Source: OpenNMT, which McCann et al. 2017 trained with."""

    min_count: int = 1
    """How often a target word that is predicted must occur."""

    vocabulary_size: int | None = 50_000
    """Most frequent target words that are predicted; ``null`` takes all. Source: OpenNMT."""

    max_pairs: int | None = None
    """Pairs that are trained on; ``null`` takes all."""

    lower_case: bool = False
    """Whether the source is lower-cased even if the word vectors have capitals."""

    shuffled_targets: bool = False
    """The control in which every source gets another's translation."""

    def __post_init__(self) -> None:
        for key in ("max_length", "min_count", "vocabulary_size", "max_pairs"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"data.{key}: must be 1 or more, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledConfig(DataRoot):
    """Labelled sentences."""

    max_train: int | None = None
    """Sentences that are trained on, drawn by the seed; ``null`` takes all."""

    def __post_init__(self) -> None:
        if self.max_train is not None and self.max_train < 1:
            raise ValueError(f"data.max_train: must be 1 or more, got {self.max_train}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFiles(LabelledConfig):
    """Tagged sentences."""

    train: str
    """A CoNLL file: a word and its tag a line, a blank line after each sentence."""

    dev: str
    """Such a file that selects the checkpoint."""

    test: str
    """Such a file that is evaluated beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferData(LabelledConfig):
    """A classification task of SentEval."""

    transfer: Literal["SST2", "TREC"]
    """``SST2`` comes in three parts; of ``TREC`` a tenth of the training part is held out as dev."""


LabelledDataConfig: TypeAlias = LabelledFiles | TransferData


@dataclass(frozen=True, kw_only=True, slots=True)
class WordsConfig:
    """Which words are grounded, and what is written of them."""

    vectors: str
    """The source: any file of word vectors, below ``data.root``."""

    max_words: int = 10_000
    """Most frequent words of the captions that are learned from."""

    min_count: int = 1
    """How often the captions must have such a word."""

    without_vector: Literal["drop", "unknown"] = "unknown"
    """Words that the source lacks are dropped from captions, or start as its word "unknown"."""

    export: Literal["source", "captions"] = "source"
    """Words in a checkpoint: those of the ``source`` or of the ``captions``; ``mcse words ground`` makes others."""

    similarity: str | None = None
    """Word-similarity sets to evaluate on while training: a folder or a file, below ``data.root``."""

    def __post_init__(self) -> None:
        for key in ("max_words", "min_count"):
            if getattr(self, key) < 1:
                raise ValueError(f"words.{key}: must be 1 or more, got {getattr(self, key)}")
