"""The retrieval suite: image ↔ sentence in the joint space, and sentence → sentence among the captions of one image.

I images, C captions, Q queries, D width, F feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcse.data.captions.table import load_captions
from mcse.data.images.features import FeatureStore, captions_to_features, open_features
from mcse.data.test_sets.contamination import normalise
from mcse.distributed import gather_arrays, rank, world_size
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, data_digest
from mcse.evaluation.uncertainty import add_intervals, replicate_all
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.retrieval import TIE, Ranks, best_ranks, median_rank, recall_at
from mcse.types import Column, FeatureTextEncoder, FloatArray, Sample, SuiteScores

RECALLS = (1, 5, 10)

_ARROWS = {"image_to_text": "image→text", "text_to_image": "text→image", "sentence_to_sentence": "sentence→sentence"}
_JOINT = ("image_to_text", "text_to_image")
_IMAGES_AT_ONCE = 1024
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionedImages:
    """Images with one caption or more each, and where their features stand.

    Args:
        captions: All of them, image after image.
        image_C: The image, from 0, that each caption belongs to.
        store: Holds the images' features, and may hold more.
        feature_I: Row of each image in the store.
        source: What the captions were read from.
    """

    captions: tuple[str, ...]
    image_C: NDArray[np.int64]
    store: FeatureStore
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


def load_captioned_images(captions: str, *, features: str, images: str | None = None) -> CaptionedImages:
    """Captions with their images' features, in any layout that training reads; images without captions are left out.

    Args:
        captions: File, folder or hub data set, with ``::SPLIT`` where it has splits.
        features: Store of the images' features.
        images: File that lists the images to use.

    Raises:
        FileNotFoundError: One of them is not there.
        ValueError: One of them cannot be read, images have no features, or there are no captions.
    """
    for flag, name in (("--features", features), ("--images", images)):
        if name is not None and not Path(name).exists():
            raise FileNotFoundError(f"{flag}: nothing at {name}")
    table = load_captions(captions, images=None if images is None else Path(images))
    store = open_features(Path(features))
    feature_I = captions_to_features(table, store)
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
    given = {"--captions": options.captions, "--features": options.features}
    if lacking := [flag for flag, value in given.items() if not value]:
        raise ValueError(
            f"{suite} needs {' and '.join(lacking)}: --captions and --features say which captions and image features "
            "to judge on, --images may list the images of a split"
        )
    assert options.captions is not None
    assert options.features is not None
    return load_captioned_images(options.captions, features=options.features, images=options.images)


def score_retrieval(subject: Subject, images: CaptionedImages, *, batch_size: int = 64, folds: int = 1) -> SuiteScores:
    """Recalls, median ranks and their sum, as far as the encoder has what they need; ``absent`` says what it lacks.

    Args:
        subject: The encoder and its rows.
        images: What it is judged on.
        batch_size: Captions a forward pass.
        folds: Parts of the images, of which each is searched by itself in image ↔ text.

    Raises:
        ValueError: Features that the encoder was not trained on, or not one unit row a caption and image.
        UndefinedScoreError: Rows that are not finite, or nothing can be scored at all.
    """
    found: dict[str, FoundRanks] = {}
    absent: dict[str, str] = {}
    encoder = subject.encoder
    if isinstance(encoder, FeatureTextEncoder) and getattr(encoder, "has_image_heads", True):
        found |= joint_ranks(encoder, images, batch_size=batch_size, folds=folds)
    else:
        title = getattr(encoder, "name", "") or "the encoder"
        reason = f"{title} has no image heads, so captions and images have no space in common"
        absent |= dict.fromkeys([f"retrieval.{task}" for task in (*_JOINT, "rsum")], reason)
    try:
        found["sentence_to_sentence"] = sentence_ranks(subject, images)
    except UndefinedScoreError as error:
        if not found:
            raise
        absent["retrieval.sentence_to_sentence"] = str(error)
    return _suite_scores(found, images, absent=absent, seen=subject.seen, folds=folds)


def joint_ranks(
    encoder: FeatureTextEncoder, images: CaptionedImages, *, batch_size: int = 64, folds: int = 1
) -> dict[str, FoundRanks]:
    """``image_to_text``, where the best of an image's captions counts, and ``text_to_image``.

    With ``folds`` the images, in their order, are parted in so many; a query is compared with its own part alone.

    Raises:
        ValueError: Features of another image tower, or not one unit row of equal width a caption and image.
        UndefinedScoreError: Rows that are not finite.
    """
    image_ID = joint_image_rows(encoder, images)
    caption_CD = encode_captions(encoder, images.captions, batch_size=batch_size)
    return pair_ranks(caption_CD, image_ID, image_C=images.image_C, folds=folds)


def joint_image_rows(encoder: FeatureTextEncoder, images: CaptionedImages) -> FloatArray:
    """(I, D) unit rows of the images in the joint space.

    Raises:
        ValueError: Features of another image tower, or not one unit row an image.
        UndefinedScoreError: Rows that are not finite.
    """
    images.store.check_tower(getattr(encoder, "image_tower", None))
    image_ID: FloatArray = np.concatenate(
        [
            encoder.encode_image_features(images.store.rows(images.feature_I[start : start + _IMAGES_AT_ONCE]))
            for start in range(0, len(images), _IMAGES_AT_ONCE)
        ]
    )
    check_rows(image_ID, images.image_names, label="images")
    return image_ID


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


def sentence_ranks(subject: Subject, images: CaptionedImages) -> FoundRanks:
    """Each caption asks for another caption of its image, by the encoder's own rows of sentences.

    A caption that stands twice with its image counts once: it would find itself. Captions without a second one of
    their image are targets and no queries.

    Raises:
        UndefinedScoreError: No image has two different captions, or the encoder's rows are not finite or all the same.
    """
    several = zip(images.image_C.tolist(), images.captions, strict=True)
    image, captions = zip(*dict.fromkeys(several), strict=True)
    image_C = np.array(image)
    query_Q = np.flatnonzero(np.bincount(image_C)[image_C] > 1)
    if not len(query_Q):
        raise UndefinedScoreError(f"no image of {images.source} has two different captions")
    row_CD = subject.rows.unit(captions)
    rank_Q = best_ranks(row_CD[query_Q], row_CD, group_Q=image_C[query_Q], group_T=image_C, own_Q=query_Q)
    return FoundRanks(rank_Q=rank_Q, image_Q=image_C[query_Q], targets=len(image_C) - 1)


def prepare_retrieval(options: SuiteOptions) -> PreparedSuite:
    """Reads captions and matches them with the images' features.

    Raises:
        FileNotFoundError: Captions, features or list of images are not there.
        ValueError: ``--captions`` or ``--features`` is not given, a file cannot be read, or images lack features.
    """
    images = images_of_options(options, suite="retrieval")

    def run(subject: Subject) -> SuiteScores:
        return score_retrieval(subject, images, batch_size=options.batch_size, folds=options.folds)

    if options.folds > len(images):
        raise ValueError(f"--folds: {options.folds} parts of {len(images)} images")
    parts = f" in {options.folds} folds" if options.folds > 1 else ""
    summary = f"{len(images):,} images with {len(images.captions):,} captions{parts}"
    return PreparedSuite(summary=summary, digest=images_digest(images, "retrieval", options.folds), run=run)


SUITE = Suite(
    name="retrieval",
    version=2,
    needs="captions by --captions and their images' features by --features; --images FILE picks the split, "
    "--folds N parts it; image ↔ sentence needs a checkpoint with image heads",
    prepare=prepare_retrieval,
)


def encode_captions(encoder: FeatureTextEncoder, captions: tuple[str, ...], *, batch_size: int) -> FloatArray:
    """(C, D) rows of the joint space; every distinct caption once, by one of the processes.

    Raises:
        ValueError: Not one unit row a caption.
        UndefinedScoreError: Rows that are not finite.
    """
    distinct = list(dict.fromkeys(captions))
    turns = [distinct]
    if world_size() > 1 and len(distinct) >= world_size():
        turns = [distinct[start :: world_size()] for start in range(world_size())]
        row_ND = gather_arrays(encoder.encode_captions(turns[rank()], batch_size=batch_size))
    else:
        row_ND = encoder.encode_captions(distinct, batch_size=batch_size)
    in_turn = [caption for turn in turns for caption in turn]
    check_rows(row_ND, in_turn, label="captions")
    index = {caption: number for number, caption in enumerate(in_turn)}
    rows: FloatArray = row_ND[[index[caption] for caption in captions]]
    return rows


def check_rows(row_ND: FloatArray, names: Sequence[str], *, label: str) -> None:
    """Refuses what are not unit rows, one for each of ``names``; rows of zeros pass.

    Raises:
        ValueError: Another shape or norm.
        UndefinedScoreError: Rows that are not finite.
    """
    if row_ND.ndim != 2 or len(row_ND) != len(names):
        raise ValueError(f"the encoder returned shape {row_ND.shape} for {len(names)} {label}, expected one row each")
    norm_N = np.sqrt(np.einsum("nd,nd->n", row_ND, row_ND, dtype=np.float64))
    broken = np.flatnonzero(~np.isfinite(norm_N))
    if len(broken):
        which = f"{len(broken)} of {len(names)} {label}, first {names[broken[0]]!r}"
        raise UndefinedScoreError(f"the encoder gave NaN or infinite rows in the joint space for {which}")
    stretched = np.flatnonzero((norm_N > 0) & (np.abs(norm_N - 1) > _UNIT_TOLERANCE))
    if len(stretched):
        which = f"{len(stretched)} of {len(names)} {label}, first {names[stretched[0]]!r}"
        norm = f"{norm_N[stretched[0]]:g}"
        raise ValueError(f"the encoder gave rows of other than unit norm ({norm}) in the joint space for {which}")


def _suite_scores(
    found: Mapping[str, FoundRanks],
    images: CaptionedImages,
    *,
    absent: Mapping[str, str],
    seen: frozenset[str] | None,
    folds: int,
) -> SuiteScores:
    samples: dict[str, Sample] = {}
    scores: dict[str, dict[str, float]] = {}
    for task, ranks in found.items():
        scores[task] = _metrics(ranks)
        samples |= {f"retrieval.{task}.{metric}": sample for metric, sample in _samples(ranks).items()}
    if set(_JOINT) <= found.keys():
        samples["retrieval.rsum.score"] = _rsum_sample(*(found[task] for task in _JOINT))
        scores["rsum"] = {"score": sum(scores[task][f"recall@{k}"] for task in _JOINT for k in RECALLS)}
    return SuiteScores(
        scores={"retrieval": add_intervals(scores, replicate_all(samples, {}), suite="retrieval")},
        protocols=_protocols(images, seen=seen, folds=folds),
        columns=_columns(scores),
        absent=absent,
        samples=samples,
    )


def _metrics(ranks: FoundRanks) -> dict[str, float]:
    recalls = {f"recall@{k}": recall_at(ranks.rank_Q, k) for k in RECALLS}
    sizes = {"pairs": len(ranks.rank_Q), "queries": len(ranks.rank_Q), "targets": ranks.targets}
    return {**recalls, "median_rank": median_rank(ranks.rank_Q), **sizes}


def _samples(ranks: FoundRanks) -> dict[str, Sample]:
    samples = {f"recall@{k}": drawn_by_image(100.0 * (ranks.rank_Q <= k), ranks.image_Q) for k in RECALLS}
    samples["median_rank"] = Sample(statistic="median", value_P=ranks.rank_Q.astype(np.float64))
    return samples


def drawn_by_image(value_Q: NDArray[np.floating], image_Q: NDArray[np.int64]) -> Sample:
    """One item an image, scaled so that their mean is that of the queries.

    The captions of an image are right or wrong together more often than others, so they are drawn together, and within
    the images that have as many, so that a draw has as many queries as the data.
    """
    _, place_Q, count_I = np.unique(image_Q, return_inverse=True, return_counts=True)
    total_I = np.bincount(place_Q, weights=value_Q)
    return Sample(statistic="mean", value_P=total_I * len(count_I) / len(value_Q), group_P=count_I)


def _rsum_sample(to_text: FoundRanks, to_image: FoundRanks) -> Sample:
    """One item an image: its part in all six recalls, which rise and fall together."""
    parts = [
        drawn_by_image(100.0 * (ranks.rank_Q[:, None] <= np.array(RECALLS)).sum(1), ranks.image_Q)
        for ranks in (to_text, to_image)
    ]
    return Sample(statistic="mean", value_P=parts[0].value_P + parts[1].value_P, group_P=parts[1].group_P)


def _columns(scores: Mapping[str, object]) -> tuple[Column, ...]:
    columns = [
        Column(label=f"{_ARROWS[task]} R@{k}", suite="retrieval", task=task, metric=f"recall@{k}")
        for task in _JOINT
        if task in scores
        for k in RECALLS
    ]
    if "rsum" in scores:
        columns.append(Column(label="rsum", suite="retrieval", task="rsum", metric="score"))
    if (task := "sentence_to_sentence") in scores:
        columns.append(Column(label=f"{_ARROWS[task]} R@1", suite="retrieval", task=task, metric="recall@1"))
    return tuple(columns)


def _protocols(images: CaptionedImages, *, seen: frozenset[str] | None, folds: int) -> dict[str, str]:
    size = f"{len(images):,} images with {len(images.captions):,} captions of {images.source}"
    protocols = {
        "retrieval": f"{size}; a rank is one more than the wrong targets at least as similar as the best right one "
        f"(within {TIE:g}), so that ties count against the encoder; median rank: the smallest K with "
        f"recall@K of 50 or more; rsum: sum of the six recalls of image ↔ text{_in_folds(folds)}",
        "retrieval.sentence_to_sentence": "each caption asks for another, different one of its image among all "
        "captions but itself; rows of encode, not of the joint space",
        "retrieval intervals": "95 % percentile bootstrap, 1,000 draws of images with all their captions; of median "
        "ranks, draws of queries",
    }
    if seen is not None:
        known = sum(normalise(caption) in seen for caption in images.captions)
        protocols["retrieval seen"] = f"{known:,} of the captions stand in the model's training text"
    return protocols


def _in_folds(folds: int) -> str:
    if folds == 1:
        return ""
    return f"; image ↔ text in {folds} folds of images in their order, each searched by itself, ranks pooled"


def images_digest(images: CaptionedImages, *settings: object) -> str:
    """Of the captions and feature rows that are used, whatever files they stand in, and of settings."""
    content = hashlib.sha256(json.dumps([images.captions, images.image_C.tolist()]).encode())
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        content.update(images.store.rows(images.feature_I[start : start + _IMAGES_AT_ONCE]).tobytes())
    return data_digest((), content.hexdigest(), images.store.tower, *settings)
