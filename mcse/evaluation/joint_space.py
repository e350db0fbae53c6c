"""Captions and images in one joint space: their data, their rows, and the rank at which each finds the other.

I images, C captions, Q queries, D width, F feature width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import CaptionTable, load_captions
from mcse.data.images.features import FeatureStore, captions_to_features, join_equal_rows, open_features
from mcse.data.images.names import find_all
from mcse.data.images.sources import ImageSource, open_images
from mcse.data.images.tables import open_image_table
from mcse.data.source_variants import CaptionedTable
from mcse.evaluation.encoding import check_rows, encode_in_turns
from mcse.evaluation.suite import SuiteOptions
from mcse.files import digest_of
from mcse.metrics.retrieval import Ranks, best_ranks, median_rank, recall_at
from mcse.types import Encoder, FeatureTextEncoder, FloatArray, ImageTextEncoder, Sample

RECALLS = (1, 5, 10)

_IMAGES_AT_ONCE, _PIXELS_AT_ONCE = 1024, 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionedImages:
    """Images with one caption or more each, and where they or their features stand.

    Args:
        captions: All of them, image after image.
        image_C: The image, from 0, that each caption belongs to.
        store: Holds the images' features, or the images themselves, and may hold more.
        feature_I: Row of each image in the store.
        source: What the captions were read from.
    """

    captions: tuple[str, ...]
    image_C: NDArray[np.int64]
    store: FeatureStore | ImageSource
    feature_I: NDArray[np.int64]
    source: str

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.feature_I)

    @property
    def image_names(self) -> tuple[str, ...]:
        """As the store calls them; their rows where it has no names."""
        names = self.store.names
        return tuple(f"row {row}" if names is None else names[row] for row in self.feature_I.tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundRanks:
    """The rank at which each query's first right target stands, the image that the query is of, how many targets."""

    rank_Q: Ranks
    image_Q: NDArray[np.int64]
    targets: int

    @property
    def metrics(self) -> dict[str, float]:
        """Recalls in percent and the median rank."""
        recalls = {f"recall@{k}": recall_at(self.rank_Q, k) for k in RECALLS}
        return {**recalls, "median_rank": median_rank(self.rank_Q)}


def load_captioned_images(captions: str, *, features: str | None, images: str | None = None) -> CaptionedImages:
    """Captions with their images, in any layout that training reads; images without captions are left out.

    Args:
        captions: File, folder or hub data set, with ``::SPLIT`` where it has splits.
        features: Store of the images' features.
        images: File that lists the images to use; without ``features`` the folder of the images themselves.

    Raises:
        FileNotFoundError: One of them is not there.
        ValueError: One of them cannot be read, images are missing or have no features, or there are no captions.
    """
    for flag, name in (("--features", features), ("--images", images)):
        if name is not None and not Path(name).exists():
            raise FileNotFoundError(f"{flag}: nothing at {name}")
    store: FeatureStore | ImageSource
    if features is None:
        assert images is not None
        table, store = load_captions(captions), open_images(images)
        feature_I = _places(table, store, images)
    else:
        table = load_captions(captions, images=None if images is None else Path(images))
        store = open_features(Path(features))
        table, feature_I = join_equal_rows(table, captions_to_features(table, store), store)
    return _captioned(table, store, feature_I)


def captioned_table(config: CaptionedTable, *, root: Path, key: str, features: str | None = None) -> CaptionedImages:
    """The images of a table with their captions.

    Args:
        config: The table and its columns.
        root: Where relative paths start.
        key: For messages.
        features: Store of the images' features, in place of the images.

    Raises:
        FileNotFoundError: One of them is not there.
        ValueError: A row that cannot be read, or an image without features.
    """
    opened = open_image_table(config, root=root, key=key)
    table, store = (
        opened.captions(),
        opened.images(must_be_there=True) if features is None else open_features(Path(features)),
    )
    if isinstance(store, FeatureStore):
        table, feature_I = join_equal_rows(table, captions_to_features(table, store), store)
        return _captioned(table, store, feature_I)
    return _captioned(table, store, _places(table, store, opened.source))


def _captioned(table: CaptionTable, store: FeatureStore | ImageSource, feature_I: NDArray[np.int64]) -> CaptionedImages:
    kept = [number for number, several in enumerate(table.captions) if several]
    if not kept:
        raise ValueError(f"--captions: no captions in {table.source}")
    return CaptionedImages(
        captions=tuple(caption for number in kept for caption in table.captions[number]),
        image_C=np.repeat(np.arange(len(kept)), [len(table.captions[number]) for number in kept]),
        store=store,
        feature_I=feature_I[kept],
        source=table.source,
    )


def images_of_options(options: SuiteOptions, *, suite: str) -> CaptionedImages:
    """What the command line names.

    Raises:
        FileNotFoundError: Captions, features or list of images are not there.
        ValueError: ``--captions`` or ``--features`` is not given, or a file cannot be read.
    """
    is_folder = options.images is not None and Path(options.images).is_dir()
    if is_folder and options.features:
        raise ValueError(
            f"--images {options.images} is the folder of the images themselves: leave out --features, or name a file "
            "that lists images"
        )
    given = {"--captions": options.captions, "--features": options.features or is_folder}
    if lacking := [flag for flag, value in given.items() if not value]:
        raise ValueError(
            f"{suite} needs {' and '.join(lacking)}: --captions and --features say which captions and image features "
            "to use, --images may list the images of a split, or name the folder of the images instead of --features"
        )
    assert options.captions is not None
    return load_captioned_images(options.captions, features=options.features, images=options.images)


class NoJointSpaceError(ValueError):
    """The encoder cannot compare captions with images."""


def joint_encoder(encoder: Encoder) -> FeatureTextEncoder:
    """The encoder, if it has a joint space of captions and images.

    Raises:
        NoJointSpaceError: It has none.
    """
    if isinstance(encoder, FeatureTextEncoder) and getattr(encoder, "has_image_heads", True):
        return encoder
    title = getattr(encoder, "name", "") or "the encoder"
    raise NoJointSpaceError(f"{title} has no image heads, so captions and images have no space in common")


def joint_image_rows(encoder: FeatureTextEncoder, images: CaptionedImages) -> FloatArray:
    """(I, D) unit rows of the images in the joint space.

    Raises:
        NoJointSpaceError: The images are no features, and the encoder takes features alone.
        ValueError: Features of another image tower, an image that cannot be read, or not one unit row an image.
        UndefinedScoreError: Rows that are not finite.
    """
    store = images.store
    if isinstance(store, FeatureStore):
        store.check_tower(getattr(encoder, "image_tower", None))
        image_ID: FloatArray = np.concatenate(
            [
                encoder.encode_image_features(store.rows(images.feature_I[start : start + _IMAGES_AT_ONCE]))
                for start in range(0, len(images), _IMAGES_AT_ONCE)
            ]
        )
    else:
        image_ID = _pixel_rows(encoder, store, images.feature_I)
    check_rows(image_ID, images.image_names, label="images")
    return image_ID


def _pixel_rows(encoder: FeatureTextEncoder, source: ImageSource, place_I: NDArray[np.int64]) -> FloatArray:
    if not isinstance(encoder, ImageTextEncoder):
        title = getattr(encoder, "name", "") or "the encoder"
        raise NoJointSpaceError(f"{title} takes stored features alone, not images: name their store by --features")

    def encode(own: list[str]) -> FloatArray:
        blocks = [own[start : start + _PIXELS_AT_ONCE] for start in range(0, len(own), _PIXELS_AT_ONCE)]
        rows = [encoder.encode_images([source.load(int(place)) for place in block]) for block in blocks]
        return np.concatenate(rows)

    return encode_in_turns(encode, [str(place) for place in place_I.tolist()], label="images")


def _places(table: CaptionTable, source: ImageSource, folder: str) -> NDArray[np.int64]:
    if table.image_names is None:
        raise ValueError(
            f"{table.source} has no image names, so nothing says which image of {folder} is whose; give captions with "
            "names, or stored features (--features)"
        )
    return find_all(table.image_names, source.names, where=table.source, problem=f"are not in {folder}")


def encode_captions(encoder: FeatureTextEncoder, captions: tuple[str, ...], *, batch_size: int) -> FloatArray:
    """(C, D) rows of the joint space; every distinct caption once, by one of the processes.

    Raises:
        ValueError: Not one unit row a caption.
        UndefinedScoreError: Rows that are not finite.
    """
    distinct = list(dict.fromkeys(captions))
    row_ND = encode_in_turns(
        lambda own: encoder.encode_captions(own, batch_size=batch_size), distinct, label="captions"
    )
    check_rows(row_ND, distinct, label="captions")
    index = {caption: number for number, caption in enumerate(distinct)}
    rows: FloatArray = row_ND[[index[caption] for caption in captions]]
    return rows


def pair_ranks(
    caption_CD: FloatArray, image_ID: FloatArray, *, image_C: NDArray[np.int64], folds: int = 1
) -> dict[str, FoundRanks]:
    """``image_to_text`` and ``text_to_image`` of unit rows; captions stand image after image, as ``image_C`` says.

    Raises:
        ValueError: Fewer images than ``folds``.
        UndefinedScoreError: Rows that are not finite.
    """
    if not 1 <= folds <= len(image_ID):
        raise ValueError(f"--folds must be 1 to {len(image_ID)}, the number of images, got {folds}")
    to_text, to_image, targets = [], [], []
    for image_J in np.array_split(np.arange(len(image_ID)), folds):
        own_C = np.flatnonzero((image_C >= image_J[0]) & (image_C <= image_J[-1]))
        caption, image, group = caption_CD[own_C], image_ID[image_J], image_C[own_C]
        to_text.append(best_ranks(image, caption, group_Q=image_J, group_T=group))
        to_image.append(best_ranks(caption, image, group_Q=group, group_T=image_J))
        targets.append((len(own_C), len(image_J)))
    captions, images = max(targets)
    return {
        "image_to_text": FoundRanks(rank_Q=np.concatenate(to_text), image_Q=np.arange(len(image_ID)), targets=captions),
        "text_to_image": FoundRanks(rank_Q=np.concatenate(to_image), image_Q=image_C, targets=images),
    }


def drawn_by_image(value_Q: NDArray[np.floating], image_Q: NDArray[np.int64]) -> Sample:
    """One item an image, scaled so that their mean is that of the queries.

    The captions of an image are right or wrong together more often than others, so they are drawn together, and within
    the images that have as many, so that a draw has as many queries as the data.
    """
    _, place_Q, count_I = np.unique(image_Q, return_inverse=True, return_counts=True)
    total_I = np.bincount(place_Q, weights=value_Q)
    return Sample(statistic="mean", value_P=total_I * len(count_I) / len(value_Q), group_P=count_I)


def images_digest(images: CaptionedImages, *settings: object) -> str:
    """Of the captions and feature rows that are used, whatever files they come from, and of settings."""
    store, tower = images.store, None
    if isinstance(store, FeatureStore):
        tower, starts = store.tower, range(0, len(images), _IMAGES_AT_ONCE)
        blocks = (store.rows(images.feature_I[start : start + _IMAGES_AT_ONCE]) for start in starts)
        parts = [digest_of(block.tobytes()) for block in blocks]
    else:
        parts = [store.digest(place) for place in images.feature_I.tolist()]
    return digest_of(json.dumps([images.captions, images.image_C.tolist()]), *parts, repr((tower, *settings)))
