"""Tagged tweets with their images: cut to the tokenizer's length, joined by the images' names, and batched.

B tweets of a batch, W words, T tokens, R regions, F region width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mcse.data.conll import TaggedTexts, check_types
from mcse.data.controls import assign_images
from mcse.data.controls_config import ImageControl
from mcse.data.images.names import ABSENT, find_names
from mcse.data.images.training import NamedImages
from mcse.data.seeds import Draw
from mcse.data.streams import ImageRows, SampledStream, Sampler
from mcse.text.tags import TagSet, repair_tags
from mcse.text.word_pieces import FastTokenizer, Part, cut_words
from mcse.types import FloatArray, TokenBatch, TweetBatch

logger = logging.getLogger(__name__)


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
    tokenizer: FastTokenizer,
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


def tweets_to_images(texts: TaggedTexts, images: NamedImages | None) -> NDArray[np.int64]:
    """The row of each text's image, ``ABSENT`` where it has none that can be used; says how many in a warning.

    Raises:
        ValueError: Not a single image was found, which is a wrong file.
    """
    row_N = np.full(len(texts), ABSENT, dtype=np.int64)
    if images is None:
        return row_N
    origin = images.origin
    if images.names is None:
        raise ValueError(f"{origin}: no image names, so nothing says whose regions these are")
    # Two tweets may show one image, so names are matched once each.
    wanted = sorted({text.image for text in texts.texts if text.image is not None})
    found = find_names(wanted, images.names, where=f"{texts.path} against {origin}")
    row_of = dict(zip(wanted, found.tolist(), strict=True))
    bad = images.unreadable([row for row in row_of.values() if row != ABSENT])
    row_of = {name: ABSENT if row in bad else row for name, row in row_of.items()}
    row_N[:] = [ABSENT if text.image is None else row_of[text.image] for text in texts.texts]
    missing = int((row_N == ABSENT).sum())
    if missing == len(texts):
        first = wanted[0] if wanted else None
        raise ValueError(f"{origin}: holds none of the {len(texts)} images of {texts.path}, first {first!r}")
    if missing:
        logger.warning("%s: %d of %d texts have no usable image in %s", texts.path, missing, len(texts), origin)
    return row_N


def control_images(
    image_row_N: NDArray[np.int64], control: ImageControl, *, seed: int, wrong_images: float = 0.0
) -> NDArray[np.int64]:
    """``assign_images`` among the texts that have an image."""
    row_N = image_row_N.copy()
    has_N = row_N != ABSENT
    if has_N.any():
        row_N[has_N] = assign_images(row_N[has_N], control, seed=seed, wrong_images=wrong_images)
    return row_N


class TweetStream(SampledStream):
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
                f"loss.matching.num_swapped: {num_swapped} swapped tweets of {share.global_batch_size} "
                f"(train.batch_size {share.batch_size}): both must be even, and the first no more than the second"
            )
        self.tweets, self.images, self.sampler, self.pad_id = tweets, images, sampler, pad_id
        self.num_swapped, self.seed, self.blank = num_swapped, seed, blank

    def batch(self, step: int) -> TweetBatch:
        """This process's tweets of ``step``."""
        chosen = [self.tweets[row] for row in self.sampler.index(step)]
        row_B = np.asarray([tweet.image_row for tweet in chosen], dtype=np.int64)
        first = TokenBatch.padded([tweet.part.first_W for tweet in chosen])
        image_BF = self._images(row_B)
        return TweetBatch(
            tokens=TokenBatch.padded([tweet.part.id_T for tweet in chosen], pad_id=self.pad_id),
            first_BW=first.input_ids_BT,
            word_mask_BW=first.attention_mask_BT.bool(),
            tag_BW=TokenBatch.padded([tweet.tag_W for tweet in chosen]).input_ids_BT,
            has_image_B=torch.from_numpy(row_B != ABSENT),
            image_id_B=torch.from_numpy(row_B),
            partner_B=torch.from_numpy(self._partners(row_B, step=step)),
            image_BF=None if image_BF is None else torch.from_numpy(image_BF),
        )

    def _images(self, row_B: NDArray[np.int64]) -> FloatArray | None:
        """(B, …) feature rows or pixels, zeros where a tweet has no image."""
        if self.images is None:
            return None
        has_B = row_B != ABSENT
        found = self.images.rows(row_B[has_B]) if has_B.any() else np.zeros((0, *self.blank), dtype=np.float32)
        block = np.zeros((len(row_B), *found.shape[1:]), dtype=np.float32)
        block[has_B] = found
        return block

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
