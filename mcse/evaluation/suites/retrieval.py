"""The retrieval suite: image ↔ sentence in the joint space, and sentence → sentence among the captions of one image.

I images, C captions, Q queries, D width, F feature width.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mcse.data.test_sets.contamination import normalise
from mcse.evaluation.joint_space import (
    RECALLS,
    CaptionedImages,
    FoundRanks,
    NoJointSpaceError,
    drawn_by_image,
    encode_captions,
    images_digest,
    images_of_options,
    joint_encoder,
    joint_image_rows,
    pair_ranks,
)
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions
from mcse.metrics.correlation import UndefinedScoreError
from mcse.metrics.retrieval import TIE, best_ranks
from mcse.types import Column, Sample, ScoreKey, SuiteScores

_ARROWS = {"image_to_text": "image→text", "text_to_image": "text→image", "sentence_to_sentence": "sentence→sentence"}
_JOINT = ("image_to_text", "text_to_image")


def score_retrieval(subject: Subject, images: CaptionedImages, *, batch_size: int = 64, folds: int = 1) -> SuiteScores:
    """Recalls, median ranks and their sum, as far as the encoder has what they need; ``absent`` says what it lacks.

    Of ``image_to_text`` the best of an image's captions counts.

    Args:
        subject: The encoder and its rows.
        images: What it is evaluated on.
        batch_size: Captions a forward pass.
        folds: Parts of the images, in their order; in image ↔ text a query is compared with its own part alone.

    Raises:
        ValueError: Features that the encoder was not trained on, or not one unit row a caption and image.
        UndefinedScoreError: Rows that are not finite, or nothing can be scored at all.
    """
    found: dict[str, FoundRanks] = {}
    absent: dict[str, str] = {}
    try:
        encoder = joint_encoder(subject.encoder)
        image_ID, caption_CD = subject.form.joint(
            joint_image_rows(encoder, images), encode_captions(encoder, images.captions, batch_size=batch_size)
        )
        found |= pair_ranks(caption_CD, image_ID, image_C=images.image_C, folds=folds)
    except NoJointSpaceError as error:
        absent |= dict.fromkeys([f"retrieval.{task}" for task in (*_JOINT, "rsum")], str(error))
    try:
        found["sentence_to_sentence"] = sentence_ranks(subject, images)
    except UndefinedScoreError as error:
        if not found:
            raise
        absent["retrieval.sentence_to_sentence"] = str(error)
    samples = {
        _key(task, metric): sample for task, ranks in found.items() for metric, sample in _samples(ranks).items()
    }
    scores = {_key(task, metric): value for task, ranks in found.items() for metric, value in _metrics(ranks).items()}
    if set(_JOINT) <= found.keys():
        rsum = _key("rsum", "score")
        samples[rsum] = _rsum_sample(*(found[task] for task in _JOINT))
        scores[rsum] = sum(scores[_key(task, f"recall@{k}")] for task in _JOINT for k in RECALLS)
    return SuiteScores(
        scores=scores,
        protocols=_protocols(images, seen=subject.seen, folds=folds),
        columns=_columns(scores),
        absent=absent,
        samples=samples,
    )


def sentence_ranks(subject: Subject, images: CaptionedImages) -> FoundRanks:
    """Each caption asks for another caption of its image, by the encoder's own rows of sentences.

    A caption that is given twice with its image counts once: it would find itself. Captions without a second one of
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

    def score(subject: Subject) -> SuiteScores:
        return score_retrieval(subject, images, batch_size=options.batch_size, folds=options.folds)

    if options.folds > len(images):
        raise ValueError(f"--folds: {options.folds} parts of {len(images)} images")
    parts = f" in {options.folds} folds" if options.folds > 1 else ""
    summary = f"{len(images):,} images with {len(images.captions):,} captions{parts}"
    digest = images_digest(images, "retrieval", options.folds)
    return PreparedSuite(summary=summary, digest=digest, score=score, is_joint=True)


SUITE = Suite(
    name="retrieval",
    version=4,
    needs="captions by --captions and their images by --images FOLDER, or their features by --features, of which "
    "--images FILE picks the split; --folds N parts it; image ↔ sentence needs a checkpoint with image heads",
    prepare=prepare_retrieval,
)


def _key(task: str, metric: str) -> ScoreKey:
    return ScoreKey("retrieval", task, metric)


def _metrics(ranks: FoundRanks) -> dict[str, float]:
    return {**ranks.metrics, "pairs": len(ranks.rank_Q), "queries": len(ranks.rank_Q), "targets": ranks.targets}


def _samples(ranks: FoundRanks) -> dict[str, Sample]:
    samples = {f"recall@{k}": drawn_by_image(100.0 * (ranks.rank_Q <= k), ranks.image_Q) for k in RECALLS}
    _, place_Q, count_I = np.unique(ranks.image_Q, return_inverse=True, return_counts=True)
    samples["median_rank"] = Sample(
        statistic="median", value_P=ranks.rank_Q.astype(np.float64), group_P=count_I[place_Q], cluster_P=place_Q
    )
    return samples


def _rsum_sample(to_text: FoundRanks, to_image: FoundRanks) -> Sample:
    """One item an image: its part in all six recalls, which rise and fall together."""
    parts = [
        drawn_by_image(100.0 * (ranks.rank_Q[:, None] <= np.array(RECALLS)).sum(1), ranks.image_Q)
        for ranks in (to_text, to_image)
    ]
    return Sample(statistic="mean", value_P=parts[0].value_P + parts[1].value_P, group_P=parts[1].group_P)


def _columns(scores: Collection[ScoreKey]) -> tuple[Column, ...]:
    labels = {_key(task, f"recall@{k}"): f"{_ARROWS[task]} R@{k}" for task in _JOINT for k in RECALLS}
    labels[_key("rsum", "score")] = "rsum"
    labels[_key("sentence_to_sentence", "recall@1")] = f"{_ARROWS['sentence_to_sentence']} R@1"
    return tuple(Column(label=label, key=key) for key, label in labels.items() if key in scores)


def _protocols(images: CaptionedImages, *, seen: frozenset[str] | None, folds: int) -> dict[str, str]:
    size = f"{len(images):,} images with {len(images.captions):,} captions of {images.source}"
    protocols = {
        "retrieval": f"{size}; a rank is one more than the wrong targets at least as similar as the best right one "
        f"(within {TIE:g}), so that ties count against the encoder; median rank: the smallest K with "
        f"recall@K of 50 or more; rsum: sum of the six recalls of image ↔ text{_in_folds(folds)}",
        "retrieval.sentence_to_sentence": "each caption asks for another, different one of its image among all "
        "captions but itself; rows of encode, not of the joint space",
        "retrieval intervals": "95 % percentile bootstrap, 1,000 draws of images with all their captions",
    }
    if seen is not None:
        known = sum(normalise(caption) in seen for caption in images.captions)
        protocols["retrieval seen"] = f"{known:,} of the captions are in the model's training text"
    return protocols


def _in_folds(folds: int) -> str:
    if folds == 1:
        return ""
    return f"; image ↔ text in {folds} folds of images in their order, each searched by itself, ranks pooled"
