"""A run's training text and images, found, checked and tokenised as its ``data`` keys say.

The captions a seed selects do not depend on whether their images are read, so that SimCSE on captions and MCSE see
identical batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcse.data.captions.table import CaptionTable, load_captions, select_captions
from mcse.data.config import ControlsConfig, DataConfig
from mcse.data.controls import assign_images, choose_pairs
from mcse.data.images.features import FeatureStore, captions_to_features, open_features, without_skipped
from mcse.data.images.pixels import FindBad, PixelRows, captions_to_pixels
from mcse.data.images.sources import find_bad_images, open_images
from mcse.data.sentences.files import TokenTable, open_sentences, tokenise
from mcse.data.sentences.streaming import StreamedSentences, open_texts
from mcse.data.shards.pairs import PairRows, ShardCaptions, ShardImages, unusable_samples
from mcse.data.shards.tars import ShardSet, open_shards
from mcse.data.streams import Order, RowNumbers, Sampler, ShardSampler, Share, TokenMasker, TokenRows
from mcse.data.test_sets.contamination import normalise, test_sentences
from mcse.data.test_sets.sts import (
    SICK_ALL_SPLITS,
    STS_TASKS,
    ScoredPairs,
    find_senteval,
    load_hub_dev,
    load_scored_pairs,
    load_sts,
    load_stsbenchmark,
)
from mcse.files import digest_of, sha256_file
from mcse.types import DataFile, Tokenizer, TrainingText

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sentences:
    """Tokenised sentences and where they came from."""

    table: TokenTable
    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tokenised captions; ``image_of_caption`` are rows of the images (of the caption file where none are read).

    ``num_left_out``: images without captions here because nobody could read them. ``texts`` are the captions, where
    they are in memory. ``order`` draws captions, given the process's share and a seed.
    """

    captions: TokenRows
    image_of_caption: RowNumbers
    num_images: int
    num_left_out: int
    texts: tuple[str, ...]
    files: tuple[DataFile, ...]
    order: Callable[[Share, int], Order]


def load_sentences(config: DataConfig, tokenizer: Tokenizer) -> Sentences:
    """The training sentences of ``data.sentences``."""
    assert config.sentences is not None
    try:
        opened = open_sentences(config.sentences, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(config.sentences, str(error)) from error
    tests = tests_folder(config)
    known = sts_test_sentences(tests)

    def rows() -> Iterator[tuple[str, ...]]:
        dropped = 0
        for row in opened.rows():
            if known and any(normalise(sentence) in known for sentence in row):
                dropped += 1
                continue
            yield row
        if known:
            logger.warning("%s: dropped %d sentences that stand in STS test files", opened.source, dropped)

    digest = opened.digest + (f"-without-{digest_of(*sorted(known))}" if known else "")
    table = tokenise(rows(), tokenizer, columns=opened.columns, max_length=config.max_length, digest=digest)
    text = TrainingText(reader="sentences", source=opened.source, tests=tests)
    return Sentences(table, (DataFile("sentences", opened.source, opened.digest, text),))


def stream_sentences(
    config: DataConfig, tokenizer: Tokenizer, *, share: Share, seed: int, pad_id: int, masker: TokenMasker | None
) -> tuple[StreamedSentences, tuple[DataFile, ...]]:
    """The training sentences of ``data.sentences``, read as training goes on."""
    assert config.sentences is not None
    try:
        texts = open_texts(config.sentences, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(config.sentences, str(error)) from error
    tests = tests_folder(config)
    known = sts_test_sentences(tests)
    stream = StreamedSentences(
        texts,
        tokenizer,
        share,
        seed=seed,
        window=config.shuffle_window,
        max_length=config.max_length,
        pad_id=pad_id,
        masker=masker,
        wanted=(lambda sentence: normalise(sentence) not in known) if known else bool,
    )
    text = TrainingText(reader="stream", source=texts.source, tests=tests)
    return stream, (DataFile("sentences", texts.source, texts.digest, text),)


def load_pairs(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    controls: ControlsConfig,
    seed: int,
    images: FeatureStore | PixelRows | ShardImages | None,
) -> Pairs:
    """The training captions, and the image that each is shown with under ``controls``.

    Args:
        config: The ``data`` keys.
        tokenizer: Of the text encoder.
        controls: Which images, how many pairs.
        seed: Draws captions, pairs and controls.
        images: Matched by name; ``None`` reads captions alone.

    Raises:
        ValueError: Images without images or, where there are no names, unequal counts.
    """
    if config.captions_are_shards:
        assert not isinstance(images, FeatureStore | PixelRows)
        return _load_shard_pairs(config, tokenizer, controls=controls, seed=seed, images=images)
    assert not isinstance(images, ShardImages)
    matched = captions_to_images(config, images)
    table = matched.table
    captions, image_of_caption = select_captions(table, mode=config.captions_per_image, seed=seed)
    clean = np.flatnonzero(clean_images(table, tests_folder(config))[image_of_caption])
    kept = clean[choose_pairs(len(clean), controls.num_pairs, seed=seed)]
    captions = [captions[row] for row in kept]
    image_of_caption = matched.row_of_image[image_of_caption[kept]]
    return Pairs(
        captions=tokenise_captions(captions, tokenizer, max_length=config.max_length),
        image_of_caption=assign_images(image_of_caption, controls.images, seed=seed),
        num_images=len(np.unique(image_of_caption)),
        num_left_out=matched.num_left_out,
        texts=tuple(captions),
        files=caption_files(config, table, captions),
        order=lambda share, seed: Sampler(len(captions), share, seed=seed, name="data.captions"),
    )


def open_caption_shards(config: DataConfig) -> ShardSet:
    """The tars of ``data.captions``.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: One is damaged, or there is no caption in them.
    """
    assert config.captions is not None
    try:
        return open_shards(config.captions, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(config.captions, str(error)) from None


def _load_shard_pairs(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    controls: ControlsConfig,
    seed: int,
    images: ShardImages | None,
) -> Pairs:
    """``load_pairs`` out of tars; nothing but a control keeps a number a pair in memory."""
    shards = images.shards if images is not None else open_caption_shards(config)
    tests = tests_folder(config)
    dropped = unusable_samples(
        shards,
        images,
        on_bad_image=config.on_bad_image,
        known=sts_test_sentences(tests),
        normalise=normalise,
    )
    rows = PairRows(shards, mode=config.captions_per_image, seed=seed, dropped=dropped)
    image_of_caption: RowNumbers = rows
    chosen, first = None, rows.shard_first
    if controls.num_pairs is not None:
        chosen = choose_pairs(len(rows), controls.num_pairs, seed=seed)
        image_of_caption, first = rows[chosen], np.searchsorted(chosen, first)
    if controls.images is not True:
        own = rows[np.arange(len(rows)) if chosen is None else chosen]
        image_of_caption = assign_images(own, controls.images, seed=seed)
    captions = ShardCaptions(rows, tokenizer, max_length=config.max_length, chosen=chosen)
    window = config.shuffle_window

    def order(share: Share, seed: int) -> Order:
        if config.shuffle == "shards":
            return ShardSampler(first, share, seed=seed, name="data.captions", window=window)
        return Sampler(len(captions), share, seed=seed, name="data.captions")

    source = str(config.folder / str(config.captions))
    text = TrainingText(reader="shards", source=source, tests=tests)
    return Pairs(
        captions=captions,
        image_of_caption=image_of_caption,
        num_images=len(shards) - len(dropped) if chosen is None else len(np.unique(rows[chosen])),
        num_left_out=len(dropped),
        texts=(),
        files=(DataFile("captions", source, shards.digest, text),),
        order=order,
    )


@dataclass(frozen=True, slots=True)
class MatchedCaptions:
    """Captions by image, the row of each image's image, and how many images were left out as unreadable."""

    table: CaptionTable
    row_of_image: NDArray[np.int64]
    num_left_out: int


def captions_to_images(config: DataConfig, images: FeatureStore | PixelRows | None) -> MatchedCaptions:
    """The captions of ``data.captions``, and where their images stand; ``None`` counts the captions' own images.

    Raises:
        ValueError: As for ``load_pairs``.
    """
    listed = load_caption_table(config)
    # Matched before anything is dropped: files without names match by order and count.
    table, row_of_image = _to_images(listed, images, config)
    return MatchedCaptions(table, row_of_image, len(listed) - len(table))


def tokenise_captions(captions: Sequence[str], tokenizer: Tokenizer, *, max_length: int) -> TokenTable:
    """Ids of captions, computed once and found again by their text."""
    rows = ((caption,) for caption in captions)
    return tokenise(rows, tokenizer, columns=1, max_length=max_length, digest=digest_of(*captions))


def load_caption_table(config: DataConfig) -> CaptionTable:
    """Captions by image, of the images that ``data.images`` lists."""
    source, images = _caption_source(config)
    if images is not None and not images.is_file():
        raise config.absent(str(config.images), f"data.images: no file at {images}")
    try:
        return load_captions(source, images=images)
    except FileNotFoundError:
        given = str(config.captions).partition("::")[0]
        reason = f"data.captions: no file at {config.folder / given}, and no hub dataset {given!r}"
        raise config.absent(given, reason) from None


def load_features(config: DataConfig) -> FeatureStore:
    """The features of ``data.features``.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    assert config.features is not None
    path = config.folder / config.features
    if not path.exists():
        reason = f"data.features: nothing at {path} ('mcse extract-features' makes them from images)"
        raise config.absent(config.features, reason)
    return open_features(path)


def open_pixels(
    config: DataConfig, preprocess: Callable[[Image.Image], Tensor], *, find_bad: FindBad = find_bad_images
) -> PixelRows:
    """The images of ``data.image_folder``, as the image tower's ``preprocess`` gives them.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It holds no images.
    """
    assert config.image_folder is not None
    source, _, split = config.image_folder.partition("::")
    path = config.folder / source
    origin = (str(path) if path.exists() else source) + (f"::{split}" if split else "")
    try:
        return PixelRows(open_images(origin), preprocess, origin=origin, find_bad=find_bad)
    except FileNotFoundError:
        reason = f"data.image_folder: no folder at {path}, and no hub dataset {source!r}"
        raise config.absent(source, reason) from None


def load_dev_pairs(config: DataConfig) -> ScoredPairs:
    """The scored pairs that select the best checkpoint: STS-B dev, or the file that ``data.sts`` names."""
    if config.sts is not None:
        path = config.folder / config.sts
        if path.is_file():
            return load_scored_pairs(path)
        if not path.is_dir():
            raise config.absent(config.sts, f"data.sts: neither a folder nor a file at {path}")
        return load_stsbenchmark(path, split="dev")
    try:
        folder = find_senteval(config.folder)
    except FileNotFoundError as error:
        try:
            return load_hub_dev()
        except FileNotFoundError as absent:
            raise config.absent("", f"{absent}; {error}") from absent
    return load_stsbenchmark(folder, split="dev")


def store_digest(store: FeatureStore) -> str:
    """A name for the content of a feature store."""
    digests = [sha256_file(path) for path in store.files]
    return digests[0] if len(digests) == 1 else digest_of(*digests)


def _to_images(
    table: CaptionTable, images: FeatureStore | PixelRows | None, config: DataConfig
) -> tuple[CaptionTable, NDArray[np.int64]]:
    """The captions of images that have an image, and the row of each image's image."""
    if images is None:
        return table, np.arange(len(table))
    if isinstance(images, PixelRows):
        return captions_to_pixels(table, images, on_bad_image=config.on_bad_image)
    table = without_skipped(table, images, on_bad_image=config.on_bad_image)
    return table, captions_to_features(table, images)


def tests_folder(config: DataConfig) -> str | None:
    """Where the STS test files are that ``data.decontaminate`` keeps out of training; ``None`` where it is off."""
    if not config.decontaminate:
        return None
    # A file of scored pairs selects checkpoints; it is not the test set.
    folder = config.folder / config.sts if config.sts is not None else config.folder
    return str(folder if folder.is_dir() else config.folder)


def sts_test_sentences(folder: str | None) -> frozenset[str]:
    """The normalised STS test sentences of a folder, or of the hub where it has none; none at all of ``None``.

    Raises:
        ValueError: An STS test file is absent.
    """
    if folder is None:
        return frozenset()
    try:
        data = load_sts(find_senteval(folder))
    except FileNotFoundError:
        data = load_sts(None)
    found = {task.name for task in data.tasks}
    # The hub's SICK-R of 9,927 pairs holds SentEval's 4,927.
    found |= {"SICKRelatedness"} if SICK_ALL_SPLITS in found else set()
    if lacking := [name for name in STS_TASKS if name not in found]:
        why = data.absent[lacking[0]]
        raise ValueError(f"data.decontaminate: needs all STS test files, and {lacking[0]} is absent: {why}")
    return test_sentences(data.tasks)


def clean_images(table: CaptionTable, tests: str | None) -> NDArray[np.bool_]:
    """Which images have no caption, the unused ones included, among the STS test sentences of a folder."""
    known = sts_test_sentences(tests)
    clean = [not any(normalise(caption) in known for caption in several) for several in table.captions]
    if known:
        logger.warning("%s: dropped %d images whose captions stand in STS test files", table.source, clean.count(False))
    return np.asarray(clean)


def caption_files(config: DataConfig, table: CaptionTable, captions: Sequence[str]) -> tuple[DataFile, ...]:
    """What was read, with digests: the files, or the captions themselves where they came from no file."""
    source, images = _caption_source(config)
    text = TrainingText(
        reader="captions", source=source, images=None if images is None else str(images), tests=tests_folder(config)
    )
    files = [DataFile("captions", str(path), sha256_file(path), text) for path in table.files]
    return tuple(files) or (DataFile("captions", table.source, digest_of(*captions), text),)


def _caption_source(config: DataConfig) -> tuple[str, Path | None]:
    """What ``load_captions`` is asked for: a path or a hub dataset, with its split, and the file of images."""
    assert config.captions is not None
    source, separator, split = config.captions.partition("::")
    path = config.folder / source
    images = config.folder / config.images if config.images is not None else None
    return (str(path) if path.exists() else source) + separator + split, images
