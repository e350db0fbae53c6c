"""The regularities suite: does an image, without one colour word and with another, lie near images of that colour?

Q questions, I images, W words, D joint width, K images found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcse.evaluation.colour_swaps import ColourSwaps, swaps_by_captions, swaps_by_contents
from mcse.evaluation.encoding import check_rows
from mcse.evaluation.joint_space import (
    CaptionedImages,
    drawn_by_image,
    images_digest,
    images_of_options,
    joint_encoder,
    joint_image_rows,
)
from mcse.evaluation.row_forms import AS_THEY_ARE
from mcse.evaluation.suite import PreparedSuite, Subject, Suite, SuiteOptions, data_digest
from mcse.metrics.regularities import Marks, Positions, arithmetic_row, nearest, precision_at, rerank
from mcse.types import Column, FeatureTextEncoder, FloatArray, Sample, ScoreKey, SuiteScores

K = 4
"""How many of the images found are looked at, as the paper shows them."""

RERANKED = 8
"""How many are found and sorted anew by their centroid: more than ``K``, and few, since most must be right."""

_TITLES = {
    "arithmetic": "image − old + new",
    "reranked": "the same, reranked",
    "no_arithmetic": "image alone",
    "random_words": "image − random + random",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images, and questions about them."""

    images: CaptionedImages
    swaps: ColourSwaps


def score_regularities(subject: Subject, gallery: Gallery) -> SuiteScores:
    """Precision at ``K`` of the arithmetic, of it reranked, and of both controls.

    Raises:
        ValueError: The encoder has no joint space, or the features are of another tower.
        UndefinedScoreError: Rows that are not finite, or words that cancel an image.
    """
    if subject.form != AS_THEY_ARE:
        raise ValueError("its arithmetic is of rows as they are; --dims and --rows are for other suites")
    encoder = joint_encoder(subject.encoder)
    images, swaps = gallery.images, gallery.swaps
    image_ID = joint_image_rows(encoder, images)
    row_of, unknown = _word_rows(encoder, swaps)
    samples: dict[ScoreKey, Sample] = {}
    scores: dict[ScoreKey, float] = {}
    for task, found_QK in _found(image_ID, swaps, row_of).items():
        key = _key(task)
        precision_Q = precision_at(found_QK, swaps.right_QI, k=K)
        samples[key] = drawn_by_image(precision_Q, swaps.image_Q)
        scores[key] = float(precision_Q.mean())
        scores[key.with_metric("precision@1")] = float(precision_at(found_QK, swaps.right_QI, k=1).mean())
        scores[key.with_metric("pairs")] = len(swaps)
    scores[_key("chance")] = _chance(swaps.right_QI)
    return SuiteScores(
        scores=scores,
        protocols=_protocols(gallery, unknown),
        columns=tuple(Column(label=title, key=_key(task)) for task, title in _TITLES.items()),
        samples=samples,
    )


def prepare_regularities(options: SuiteOptions) -> PreparedSuite:
    """Reads captions, features and, where named, contents, and draws the questions.

    Raises:
        FileNotFoundError: One of the files is not there.
        ValueError: A file is not given or cannot be read, or no question can be asked of these images.
    """
    images = images_of_options(options, suite="regularities")
    if options.contents is None:
        swaps = swaps_by_captions(images.captions, images.image_C, k=K)
    else:
        swaps = swaps_by_contents(Path(options.contents), images.image_names, images.captions, k=K)
    gallery = Gallery(images=images, swaps=swaps)
    asked = data_digest((), swaps.image_Q.tolist(), swaps.old, swaps.new, swaps.random_words, swaps.right_QI.tobytes())
    summary = f"{len(swaps):,} colour swaps on {len(images):,} images"
    digest = images_digest(images, "regularities", asked, K, RERANKED)
    return PreparedSuite(summary=summary, digest=digest, score=lambda subject: score_regularities(subject, gallery))


SUITE = Suite(
    name="regularities",
    version=1,
    needs="captions by --captions, their images or features as for retrieval; --contents "
    "FILE says what the images truly show, else their captions do; a checkpoint with image heads",
    prepare=prepare_regularities,
)


def _key(task: str) -> ScoreKey:
    return ScoreKey("regularities", task, f"precision@{K}")


def _found(image_ID: FloatArray, swaps: ColourSwaps, row_of: Mapping[str, FloatArray]) -> dict[str, Positions]:
    """What each way to ask finds, (Q, K) by task; of the reranked (Q, ``RERANKED``)."""
    own_Q, right_QI = swaps.image_Q, swaps.right_QI
    top = min(RERANKED, len(image_ID) - 1)
    swapped_QD = _queries(image_ID, own_Q, list(zip(swaps.old, swaps.new, strict=True)), row_of)
    random_QD = _queries(image_ID, own_Q, swaps.random_words, row_of)

    def ask(query_QD: FloatArray, top: int) -> Positions:
        return nearest(query_QD, image_ID, top=top, own_Q=own_Q, right_QN=right_QI)

    wide_QK = ask(swapped_QD, top)
    return {
        "arithmetic": wide_QK[:, :K],
        "reranked": rerank(wide_QK, image_ID, right_QN=right_QI),
        "no_arithmetic": ask(image_ID[own_Q], K),
        "random_words": ask(random_QD, K),
    }


def _queries(
    image_ID: FloatArray, own_Q: Positions, words: Sequence[tuple[str, str]], row_of: Mapping[str, FloatArray]
) -> FloatArray:
    """(Q, D) unit rows: image, minus the first word of each pair, plus the second."""
    return np.stack(
        [
            arithmetic_row(image_ID[image], minus_WD=row_of[minus][None], plus_WD=row_of[plus][None])
            for image, (minus, plus) in zip(own_Q.tolist(), words, strict=True)
        ]
    )


def _word_rows(encoder: FeatureTextEncoder, swaps: ColourSwaps) -> tuple[dict[str, FloatArray], list[str]]:
    """Unit rows of all words as sentences of one word, and the words that the encoder does not know (rows of zeros)."""
    drawn = [word for pair in swaps.random_words for word in pair]
    words = sorted({*swaps.old, *swaps.new, *drawn})
    row_WD = encoder.encode_captions(words)
    check_rows(row_WD, words, label="words")
    is_known_W = np.linalg.norm(row_WD, axis=1) > 0
    unknown = [word for word, is_known in zip(words, is_known_W, strict=True) if not is_known]
    return dict(zip(words, row_WD, strict=True)), unknown


def _chance(right_QI: Marks) -> float:
    """Precision × 100 of images drawn blindly; the question's own is none of them."""
    return float(100 * right_QI.sum(1).mean() / (right_QI.shape[1] - 1))


def _protocols(gallery: Gallery, unknown: Sequence[str]) -> dict[str, str]:
    images, swaps = gallery.images, gallery.swaps
    protocols = {
        "regularities": f"{len(swaps):,} questions on {len(images):,} images of {images.source}: an image, minus the "
        "word of a colour, plus that of another, every row and the query of unit length; the images by their cosine "
        f"with it, without the image itself; right: {swaps.rule}; each question has at least {K} right images; of "
        "equal cosines wrong images come first",
        "regularities.reranked": f"the {RERANKED} nearest, sorted anew by their cosine with their centroid; the first "
        f"{K} count",
        "regularities.no_arithmetic": "the same questions, asked by the image alone",
        "regularities.random_words": "the same questions, with two words that the captions have five times or more, "
        "and that are no colours, drawn once for each question and the same for every model",
        "regularities.chance": "images drawn blindly",
        "regularities intervals": "95 % percentile bootstrap, 1,000 draws of images with all their questions",
    }
    if unknown:
        protocols["regularities unknown"] = f"words without a row, which change nothing: {', '.join(unknown[:20])}"
    return protocols
