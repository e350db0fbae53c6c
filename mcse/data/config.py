"""What a run reads and in which order: the keys ``data``, ``words``, ``mix`` and ``controls``. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

_SHUFFLE_WINDOW = 65_536

ImageControl = Literal[True, "shuffled_images", "shuffled_pairs", "random"]

Splitting: TypeAlias = Literal["words", "spaces"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read. Relative paths start at ``root``, by default the environment variable ``MCSE_DATA``.

    ``sentences``: text file, SimCSE's supervised CSV, ``hf://datasets/OWNER/NAME/FILE``, or a hub dataset.
    With ``streaming`` it is a text or parquet file, a glob or a folder of such, or a hub dataset, read as training goes
    on, without a copy, in parts permuted by epoch and ``shuffle_window`` sentences at a time.
    ``captions``, ``features``: any caption source, and the stored features of its images; supersets are legal.
    ``images``: a file listing the images to use. ``image_folder``: the images themselves, a folder searched to any
    depth or a hub dataset, to train from pixels. ``on_bad_image``: whether images that cannot be read, now or when
    the features were extracted, stop the run or lose their captions.
    Shards: ``captions`` may be tars in WebDataset's layout (``pairs-{000..099}.tar``, a glob, or a folder of tars) that
    hold captions with images or feature rows; ``shuffle`` then says whether all pairs are permuted (8 bytes a pair in
    memory) or ``shards`` and, within them, ``shuffle_window`` rows at a time, in constant memory.
    ``captions_per_image``: one drawn at random, once, or all of them. ``max_length``: tokens a training sentence keeps.
    ``decontaminate``: drop sentences, and images any of whose captions, occur in the STS test files.
    ``sts``: SentEval's folder, or a file of scored pairs to select by; by default the folder below ``root``, else the
    hub's.
    """

    root: Path | None = None
    sentences: str | None = None
    streaming: bool = False
    captions: str | None = None
    features: str | None = None
    images: str | None = None
    image_folder: str | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    captions_per_image: Literal["one", "all"] = "one"
    shuffle: Literal["global", "shards"] = "global"
    shuffle_window: int = _SHUFFLE_WINDOW
    max_length: int = 32
    decontaminate: bool = False
    sts: str | None = None

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(f"data.max_length: must hold a token and two special ones, got {self.max_length}")
        if self.sentences is None and self.captions is None:
            raise ValueError("data.sentences, data.captions: give at least one of them")
        if self.shuffle_window < 1:
            raise ValueError(f"data.shuffle_window: must be 1 or more, got {self.shuffle_window}")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuses keys of shards and streams where there are none, and keys that shards do not have."""
        if self.captions_are_shards:
            for key in ("features", "images", "image_folder"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"data.{key}: {getattr(self, key)!r} would do nothing, since data.captions are shards, which "
                        "hold their own images"
                    )
        elif self.shuffle != "global":
            raise ValueError(f"data.shuffle: {self.shuffle!r} would do nothing, since data.captions are not shards")
        if self.shuffle_window != _SHUFFLE_WINDOW and self.shuffle == "global" and not self.streaming:
            raise ValueError(
                f"data.shuffle_window: {self.shuffle_window} would do nothing, since data.shuffle is 'global' and "
                "data.streaming is false"
            )
        if self.streaming and self.sentences is None:
            raise ValueError("data.streaming: true would do nothing, since there is no data.sentences")

    @property
    def captions_are_shards(self) -> bool:
        """Whether ``captions`` are tars."""
        return self.captions is not None and is_shards(self.captions, root=self.folder)

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))

    def absent(self, given: str, reason: str) -> FileNotFoundError:
        """The error that ``reason`` tells, with where the search for a relative path began."""
        if Path(given).is_absolute():
            return FileNotFoundError(reason)
        start = "" if self.root is not None else " (neither data.root nor MCSE_DATA is set)"
        if self.root is None and "MCSE_DATA" in os.environ:
            start = " (from the environment variable MCSE_DATA)"
        return FileNotFoundError(f"{reason}; relative paths start at data.root = {self.folder}{start}")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointDataConfig(DataConfig):
    """The keys of ``DataConfig``, and the images that select the checkpoint.

    ``dev_images``: how many of the images are held out, drawn by the seed; or a file that lists them; or a split of
    ``captions``, such as ``"::val"``; ``null`` holds out none, for runs without ``train.select_by``. They are not
    trained on.
    """

    dev_images: int | str | None = None

    def __post_init__(self) -> None:
        # A slotted dataclass is another class than the one that super() without arguments means.
        DataConfig.__post_init__(self)
        if isinstance(self.dev_images, int) and self.dev_images < 2:
            raise ValueError(f"data.dev_images: must be 2 or more, got {self.dev_images}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlsConfig:
    """``images``: true images, or a control of ``assign_images``; ``num_pairs``: a random subset of captions."""

    images: ImageControl = True
    num_pairs: int | None = None

    def __post_init__(self) -> None:
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ValueError(f"controls.num_pairs: must be 1 or more, got {self.num_pairs}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MixConfig:
    """How paired batches are spread among text-only batches.

    ``mcse``: the published schedule, from the numbers of batches. ``every``: each ``pair_every``-th step is paired,
    beginning with the first; short runs need it, because the published schedule spreads pairs thinly: every
    33rd step of Wiki1M with Flickr30k.
    """

    schedule: Literal["mcse", "every"] = "mcse"
    pair_every: int = 2

    def __post_init__(self) -> None:
        if self.pair_every < 2:
            raise ValueError(f"mix.pair_every: must be 2 or more, so that sentences get a turn; got {self.pair_every}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordsConfig:
    """Which words, and what is written of them. Relative paths start at ``data.root``.

    ``vectors``: the source, any file of word vectors. ``max_words``, ``min_count``: the captions' most frequent words.
    ``without_vector``: words that the source lacks are dropped from captions, or start as its word "unknown".
    ``ground``: whether words of the captions are grounded from their ``original`` rows, one map for all, or ``tuned``.
    ``export``: a checkpoint holds the grounded vectors of the whole ``source`` or of the ``captions``' words; ``mcse
    words ground`` makes the others. ``similarity``: word-similarity sets judged in training, a folder or a file.
    """

    vectors: str
    max_words: int = 10_000
    min_count: int = 1
    without_vector: Literal["drop", "unknown"] = "unknown"
    ground: Literal["original", "tuned"] = "original"
    export: Literal["source", "captions"] = "source"
    similarity: str | None = None

    def __post_init__(self) -> None:
        for key in ("max_words", "min_count"):
            if getattr(self, key) < 1:
                raise ValueError(f"words.{key}: must be 1 or more, got {getattr(self, key)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggedConfig:
    """What a tagger reads. Relative paths start at ``root``, by default the environment variable ``MCSE_DATA``.

    ``train``, ``dev``: CoNLL files. ``features``: stored regions of their images; ``image_folder``: the images
    themselves, for a tower inside the step; neither: text alone. ``max_length``: tokens of a part; a longer tweet is
    cut between entities into parts, each with its image.
    """

    train: str
    dev: str
    root: Path | None = None
    features: str | None = None
    image_folder: str | None = None
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise ValueError(f"data.max_length: must hold a token and two special ones, got {self.max_length}")
        if self.features is not None and self.image_folder is not None:
            raise ValueError("data.features, data.image_folder: give one of them, or neither for text alone")

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))

    def path(self, key: Literal["train", "dev", "features", "image_folder"]) -> Path:
        """The path that a key names.

        Raises:
            FileNotFoundError: Nothing is there.
        """
        given = getattr(self, key)
        assert given is not None
        path: Path = self.folder / given
        if not path.exists():
            raise FileNotFoundError(f"data.{key}: nothing at {path}; relative paths start at data.root = {self.folder}")
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageDataConfig:
    """What a language model reads. Relative paths start at ``root``, by default the environment variable ``MCSE_DATA``.

    ``sentences``: a text file, plain or gzip, one sentence a line, or a pattern of such files (``news/*.txt``).
    ``dev``: another such file to judge by; without it the first ``dev_sentences`` sentences of ``sentences`` are held
    out. ``max_sentences``: how many are trained on, all by default. ``splitting``: ``words`` parts marks from words,
    ``spaces`` takes tokenised text as it is. ``vocabulary_size`` and ``min_count``: which words are predicted; others
    count as the unknown word, but are read by their characters all the same. ``unroll``: places a step
    back-propagates through. ``fresh_share``: share of sentences that are read from a zero state, not from where the
    sentence before them ended; 0 as published. A model that always carries on meets the zero state of a sentence by
    itself for the first time when it is used.
    """

    sentences: str
    root: Path | None = None
    dev: str | None = None
    dev_sentences: int = 1000
    max_sentences: int | None = None
    splitting: Splitting = "words"
    vocabulary_size: int | None = None
    min_count: int = 1
    unroll: int = 20
    fresh_share: float = 0.0

    def __post_init__(self) -> None:
        for key in ("dev_sentences", "max_sentences", "vocabulary_size", "min_count", "unroll"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"data.{key}: must be 1 or more, got {value}")
        if not 0 <= self.fresh_share <= 1:
            raise ValueError(f"data.fresh_share: must be in [0, 1], got {self.fresh_share}")

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationDataConfig:
    """What a translation model reads. Relative paths start at ``root``, by default the variable ``MCSE_DATA``.

    ``source``, ``target``, ``dev_source``, ``dev_target``: text files, plain or gzip, aligned by line. ``vectors``: the
    word vectors that the source is read through. ``max_length``: longer pairs, in words of either side, are left out.
    ``min_count`` and ``vocabulary_size``: which target words are predicted. ``max_pairs``: how many are trained on.
    ``lower_case``: the source is lower-cased even if the vectors have capitals. ``shuffled_targets``: the control in
    which every source gets another's translation.
    """

    source: str
    target: str
    dev_source: str
    dev_target: str
    vectors: str
    root: Path | None = None
    max_length: int = 50
    min_count: int = 1
    vocabulary_size: int | None = 50_000
    max_pairs: int | None = None
    lower_case: bool = False
    shuffled_targets: bool = False

    def __post_init__(self) -> None:
        for key in ("max_length", "min_count", "vocabulary_size", "max_pairs"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"data.{key}: must be 1 or more, got {value}")

    def path(self, key: str) -> Path:
        """Where a file of this configuration is.

        Raises:
            FileNotFoundError: It is not there.
        """
        folder = self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))
        given = Path(getattr(self, key))
        path = given if given.is_absolute() else folder / given
        if not path.is_file():
            raise FileNotFoundError(f"data.{key}: no file at {path}; relative paths start at data.root or MCSE_DATA")
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledDataConfig:
    """What is labelled. Relative paths start at ``root``, by default the environment variable ``MCSE_DATA``.

    Tagging: ``train``, ``dev`` and ``test`` are CoNLL files. Classification: ``transfer`` names one of SentEval's tasks
    that come in three parts, SST2, or in two, TREC, of which a tenth of the training part is then held out as dev.
    ``max_train``: how many sentences are trained on, drawn by the seed; all by default.
    """

    root: Path | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    transfer: Literal["SST2", "TREC"] | None = None
    max_train: int | None = None

    def __post_init__(self) -> None:
        files = [self.train, self.dev, self.test]
        if (self.transfer is None) != all(file is not None for file in files) or (self.transfer and any(files)):
            raise ValueError("data: give train, dev and test for tagging, or transfer for classification")
        if self.max_train is not None and self.max_train < 1:
            raise ValueError(f"data.max_train: must be 1 or more, got {self.max_train}")

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.root if self.root is not None else Path(os.environ.get("MCSE_DATA", "."))


def is_shards(source: str, *, root: Path) -> bool:
    """Whether ``source`` names tars: by its ending, or as a folder that holds some."""
    if source.endswith((".tar", ".tar.gz", ".tgz")):
        return True
    folder = root / source
    return folder.is_dir() and any(folder.glob("*.tar"))
