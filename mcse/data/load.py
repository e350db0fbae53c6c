"""A run's captions, images and dev pairs, found, checked and tokenised as its ``data`` keys say.

The captions a seed selects do not depend on whether their images are read, so that SimCSE on captions and MCSE see
identical batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcse.data.captions.table import CaptionTable, load_captions, select_captions, select_images
from mcse.data.config import CaptionDataConfig, DataConfig, DataRoot, MaskedDataConfig
from mcse.data.controls import assign_images, captions_of_images, choose_pairs
from mcse.data.controls_config import ControlsConfig
from mcse.data.images.features import FeatureStore, join_equal_rows, open_features
from mcse.data.images.pixels import FindBad, PixelRows
from mcse.data.images.sources import find_bad_images, open_images
from mcse.data.images.tables import ImageTable, open_image_table
from mcse.data.images.training import NamedImages
from mcse.data.load_sentences import left_out_files
from mcse.data.named_columns import digest_of_source
from mcse.data.sentences.tokens import TokenTable, tokenise
from mcse.data.shards.pairs import CaptionsOfPairs, PairRows, ShardImages, unusable_samples
from mcse.data.shards.tars import ShardSet, open_shards
from mcse.data.source_variants import (
    Features,
    FileCaptions,
    Folder,
    HubCaptions,
    ImageColumn,
    PairedFeatures,
    PairedFolder,
    PairedTable,
    PerImage,
    ScoredTable,
    ShardCaptions,
    Table,
    TableCaptions,
)
from mcse.data.streams import (
    Order,
    RowNumbers,
    Sampler,
    ShardSampler,
    Share,
    TeacherColumn,
    TokenRows,
)
from mcse.data.table_config import TableDataConfig
from mcse.data.teacher_rows import StoredTeachers, TextsColumn
from mcse.data.test_sets.contamination import (
    NEAR_MEASURE,
    near_duplicates,
    normalise,
    sts_test_sentences,
)
from mcse.data.test_sets.sts import (
    ScoredPairs,
    find_senteval,
    load_hub_dev,
    load_scored_pairs,
    load_scored_table,
    load_stsbenchmark,
)
from mcse.files import digest_of, sha256_file
from mcse.reading import say_first
from mcse.types import DataFile, Tokenizer, TrainingText

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tokenised captions; ``image_of_caption`` are rows of the images (of the caption file where none are read).

    ``is_wrong`` says which of them a control made wrong; ``None`` where each caption has its own image.
    ``num_left_out``: images that could not be read. ``texts`` are the captions, where
    they are in memory. ``order`` draws captions, given the process's share and a seed. ``facts`` are for the start of a
    run, as ``captions_used`` has them.
    """

    captions: TokenRows
    image_of_caption: RowNumbers
    num_images: int
    num_left_out: int
    texts: tuple[str, ...]
    files: tuple[DataFile, ...]
    order: Callable[[Share, int], Order]
    facts: Mapping[str, str]
    is_wrong: NDArray[np.bool_] | None = None

    def teacher_rows(self, teachers: StoredTeachers | None) -> TeacherColumn | None:
        """The rows that stored teachers give the captions.

        Raises:
            ValueError: A store lacks some; names it.
        """
        if teachers is None:
            return None
        source = self.files[0].path
        if isinstance(self.captions, CaptionsOfPairs):
            return TextsColumn(teachers, self.captions.texts, source)
        texts = self.texts
        return teachers.column(lambda: texts, digest=digest_of(*texts), number=len(texts), source=source)


def load_pairs(
    config: DataConfig | CaptionDataConfig,
    tokenizer: Tokenizer,
    *,
    controls: ControlsConfig,
    seed: int,
    images: NamedImages | ShardImages | None,
) -> Pairs:
    """The training captions, and the image that each is shown with under ``controls``.

    Args:
        config: The ``data`` keys.
        tokenizer: Of the text encoder.
        controls: Which images, how many pairs.
        seed: Draws captions, pairs and controls.
        images: Matched by name, or those of the captions' shards; ``None`` reads captions alone.

    Raises:
        ValueError: Images are missing or, where there are no names, counts are unequal.
    """
    source = config.captions
    assert source is not None
    if isinstance(source, ShardCaptions):
        assert images is None or isinstance(images, ShardImages)
        return _load_shard_pairs(config, source, tokenizer, controls=controls, seed=seed, images=images)
    assert not isinstance(images, ShardImages)
    matched = captions_to_images(config, source, images)
    captions, own, shown = select_pairs(config, source, matched, controls=controls, seed=seed)
    if captions:
        _say_first(matched, captions[0], int(own[0]))
    return Pairs(
        captions=tokenise_captions(captions, tokenizer, max_length=config.max_length),
        image_of_caption=shown,
        num_images=len(np.unique(own)),
        num_left_out=matched.num_left_out,
        texts=tuple(captions),
        files=caption_files(config, source, matched.table, captions),
        order=lambda share, seed: Sampler(len(captions), share, seed=seed, name="data.captions"),
        facts=captions_used(source.per_image, matched.table),
        is_wrong=None if shown is own else shown != own,
    )


def _say_first(matched: MatchedCaptions, caption: str, row: int) -> None:
    """The first caption with its own image, by its name where it has one."""
    names, image = matched.table.image_names, int(np.flatnonzero(matched.row_of_image == row)[0])
    name = f"number {image + 1}" if names is None else names[image]
    say_first(matched.table.source, {"caption": caption, "image": name})


def open_caption_shards(config: DataRoot, source: ShardCaptions) -> ShardSet:
    """The tars of ``source``.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: One is damaged, or there is no caption in them.
    """
    try:
        return open_shards(source.shards, root=config.folder)
    except FileNotFoundError as error:
        raise config.absent(source.shards, str(error)) from None


def _load_shard_pairs(
    config: DataConfig | CaptionDataConfig,
    source: ShardCaptions,
    tokenizer: Tokenizer,
    *,
    controls: ControlsConfig,
    seed: int,
    images: ShardImages | None,
) -> Pairs:
    """``load_pairs`` out of tars; nothing but a control keeps a number a pair in memory."""
    shards = open_caption_shards(config, source) if images is None else images.shards
    known = sts_test_sentences(config.tests)
    dropped = unusable_samples(shards, images, on_bad_image=source.on_bad, known=known, normalise=normalise)
    rows = PairRows(shards, mode=source.per_image, seed=seed, dropped=dropped)
    counts = np.diff(shards.first)
    image_of_caption: RowNumbers = rows
    is_wrong = None
    chosen, first = None, rows.shard_first
    if controls.num_images is not None:
        chosen = captions_of_images(rows[np.arange(len(rows))], controls.num_images, seed=seed)
    if controls.num_pairs is not None:
        pool = np.arange(len(rows)) if chosen is None else chosen
        chosen = pool[choose_pairs(len(pool), controls.num_pairs, seed=seed)]
    if chosen is not None:
        image_of_caption, first = rows[chosen], np.searchsorted(chosen, first)
    if controls.images is not True or controls.wrong_images:
        own = rows[np.arange(len(rows)) if chosen is None else chosen]
        image_of_caption = assign_images(own, controls.images, seed=seed, wrong_images=controls.wrong_images)
        is_wrong = image_of_caption != own
    captions = CaptionsOfPairs(rows, tokenizer, max_length=config.max_length, chosen=chosen)

    def order(share: Share, seed: int) -> Order:
        if source.window is not None:
            return ShardSampler(first, share, seed=seed, name="data.captions", window=source.window)
        return Sampler(len(captions), share, seed=seed, name="data.captions")

    path = str(config.folder / source.shards)
    text = TrainingText(reader="shards", source=path, tests=config.tests)
    return Pairs(
        captions=captions,
        image_of_caption=image_of_caption,
        num_images=len(shards) - len(dropped) if chosen is None else len(np.unique(rows[chosen])),
        num_left_out=len(dropped),
        texts=(),
        files=(DataFile("captions", path, shards.digest, text), *left_out_files(config.tests)),
        order=order,
        facts=_drawn(len(rows), int(counts.sum() - counts[dropped].sum())),
        is_wrong=is_wrong,
    )


@dataclass(frozen=True, slots=True)
class MatchedCaptions:
    """Captions by image, the row of each image, and how many images were left out as unreadable."""

    table: CaptionTable
    row_of_image: NDArray[np.int64]
    num_left_out: int


def captions_to_images(config: DataRoot, source: Table, images: NamedImages | None) -> MatchedCaptions:
    """The captions of ``source``, and where their images stand; ``None`` counts the captions' own images.

    Raises:
        ValueError: As for ``load_pairs``.
    """
    listed = load_caption_table(config, source)
    # Matched before anything is dropped: files without names match by order and count.
    table, row_of_image = (listed, np.arange(len(listed))) if images is None else images.match(listed)
    num_left_out = len(listed) - len(table)
    if isinstance(images, FeatureStore):
        table, row_of_image = join_equal_rows(table, row_of_image, images)
    return MatchedCaptions(table, row_of_image, num_left_out)


def select_pairs(
    config: DataConfig | CaptionDataConfig,
    source: Table,
    matched: MatchedCaptions,
    *,
    controls: ControlsConfig,
    seed: int,
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Captions to train on, the row of each one's own image, and of the image that it is shown with."""
    captions, image_of_caption = select_captions(matched.table, mode=source.per_image, seed=seed)
    clean = np.flatnonzero(clean_images(matched.table, config.tests)[image_of_caption])
    if controls.num_images is not None:
        clean = clean[captions_of_images(image_of_caption[clean], controls.num_images, seed=seed)]
    kept = clean[choose_pairs(len(clean), controls.num_pairs, seed=seed)]
    own = matched.row_of_image[image_of_caption[kept]]
    shown = assign_images(own, controls.images, seed=seed, wrong_images=controls.wrong_images)
    return [captions[row] for row in kept], own, shown


def captions_used(per_image: PerImage, table: CaptionTable) -> dict[str, str]:
    """For the start of a run: how many captions of how many ``data.captions.per_image`` draws, if not all."""
    return {} if per_image == "all" else _drawn(sum(map(bool, table.captions)), table.num_captions)


def _drawn(number: int, offered: int) -> dict[str, str]:
    if number == offered:
        return {}
    return {"captions drawn": f"{number:,} of {offered:,}, one an image (data.captions.per_image: all takes every one)"}


def tokenise_captions(captions: Sequence[str], tokenizer: Tokenizer, *, max_length: int) -> TokenTable:
    """Ids of captions, computed once and found again by their text."""
    rows = ((caption,) for caption in captions)
    return tokenise(
        rows,
        tokenizer,
        columns=1,
        max_length=max_length,
        digest=digest_of(*captions),
        expected=lambda: len(captions),
        source="captions",
    )


def load_caption_table(config: DataRoot, source: Table) -> CaptionTable:
    """Captions by image, of the images that ``source.images`` lists."""
    images = None if source.images is None else config.folder / source.images
    if images is not None and not images.is_file():
        raise config.absent(str(source.images), f"data.captions.images: no file at {images}")
    if isinstance(source, TableCaptions):
        table = _open_table(config, source.table, "data.captions.table").captions()
        return table if images is None else select_images(table, images)
    given = _caption_source(config, source)
    try:
        return load_captions(given, images=images)
    except FileNotFoundError:
        name = given.partition("::")[0]
        raise config.absent(
            name, f"data.captions: no file at {config.folder / name}, and no hub dataset {name!r}"
        ) from None


def load_features(config: DataRoot, source: Features) -> FeatureStore:
    """The features of ``source``.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    path = config.folder / source.features
    if not path.exists():
        reason = f"data.images.features: nothing at {path} ('mcse extract-features' makes them from images)"
        raise config.absent(source.features, reason)
    store = open_features(path)
    if isinstance(source, PairedFeatures):
        store.on_bad = source.on_bad
    return store


def open_pixels(
    config: DataRoot,
    source: Folder | PairedTable,
    preprocess: Callable[[Image.Image], Tensor],
    *,
    find_bad: FindBad = find_bad_images,
) -> PixelRows:
    """The images of ``source``, as the image tower's ``preprocess`` gives them.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It holds no images.
    """
    if isinstance(source, PairedTable):
        opened = _open_table(config, source.table, "data.images.table")
        return PixelRows(opened.images(), preprocess, origin=opened.source, on_bad=source.on_bad, find_bad=find_bad)
    name, _, split = source.folder.partition("::")
    path = config.folder / name
    origin = (str(path) if path.exists() else name) + (f"::{split}" if split else "")
    try:
        on_bad = source.on_bad if isinstance(source, PairedFolder) else "error"
        return PixelRows(open_images(origin), preprocess, origin=origin, on_bad=on_bad, find_bad=find_bad)
    except FileNotFoundError:
        reason = f"data.images.folder: no folder at {path}, and no hub dataset {name!r}"
        raise config.absent(name, reason) from None


def load_dev_pairs(config: DataConfig | TableDataConfig | MaskedDataConfig) -> ScoredPairs:
    """The scored pairs that select the best checkpoint: STS-B dev, or the file that ``data.sts`` names."""
    if isinstance(config.sts, ScoredTable):
        return load_scored_table(config.sts, root=config.folder, key="data.sts")
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


def clean_images(table: CaptionTable, tests: str | None) -> NDArray[np.bool_]:
    """Which images have no caption, the unused ones included, among the STS test sentences of a folder."""
    known = sts_test_sentences(tests)
    texts = [[normalise(caption) for caption in several] if known else [] for several in table.captions]
    clean = [not any(text in known for text in several) for several in texts]
    if known:
        nearly = near_duplicates(known)
        near = sum(is_clean and any(map(nearly.holds, several)) for several, is_clean in zip(texts, clean, strict=True))
        logger.warning("%s: dropped %d images whose captions occur in STS test files", table.source, clean.count(False))
        logger.warning("%s: %d images kept have a caption that is %s", table.source, near, NEAR_MEASURE)
    return np.asarray(clean)


def caption_files(
    config: DataConfig | CaptionDataConfig, source: Table, table: CaptionTable, captions: Sequence[str]
) -> tuple[DataFile, ...]:
    """What was read, with digests: the files, or the captions themselves where they came from no file."""
    images = None if source.images is None else str(config.folder / source.images)
    if isinstance(source, TableCaptions):
        opened = _open_table(config, source.table, "data.captions.table")
        text = TrainingText(
            reader="image_table",
            source=opened.source,
            images=images,
            tests=config.tests,
            columns=(opened.image, opened.caption),
            skips_empty=source.table.empty_rows == "skip",
            line_breaks=source.table.line_breaks,
        )
        return (
            DataFile("captions", opened.source, digest_of_source(opened.source), text),
            *left_out_files(config.tests),
        )
    text = TrainingText(reader="captions", source=_caption_source(config, source), images=images, tests=config.tests)
    files = [DataFile("captions", str(path), sha256_file(path), text) for path in table.files]
    return (
        *(files or [DataFile("captions", table.source, digest_of(*captions), text)]),
        *left_out_files(config.tests),
    )


def _open_table(config: DataRoot, table: ImageColumn, key: str) -> ImageTable:
    try:
        return open_image_table(table, root=config.folder, key=key)
    except FileNotFoundError as error:
        raise config.absent(table.path, str(error)) from None


def _caption_source(config: DataRoot, source: FileCaptions | HubCaptions) -> str:
    """What ``load_captions`` is asked for: a path or a hub dataset, with its split."""
    if isinstance(source, HubCaptions):
        return source.hub
    name, separator, split = source.file.partition("::")
    path = config.folder / name
    return (str(path) if path.exists() else name) + separator + split
