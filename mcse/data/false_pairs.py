"""Captions with images for the matching task: beside every true pair, pairs that do not belong together.

B captions a process, K false pairs for each.
"""

from __future__ import annotations

import numpy as np
import torch

from mcse.data.seeds import Draw
from mcse.data.streams import PairStream
from mcse.types import MatchBatch, PairBatch, TokenBatch


class MatchStream:
    """True pairs of a ``PairStream``, and ``negatives`` false ones for each.

    A false pair keeps the caption or the image, with equal chances, and takes the other from a caption of another
    image, drawn from all the data. Draws go by seed, step and place in the global batch, not by process.

    Args:
        pairs: The true pairs.
        negatives: K, at least 1 (the article does not state it).
        seed: Names the draws.

    Raises:
        ValueError: There is one image only, so that no pair can be false.
    """

    def __init__(self, pairs: PairStream, *, negatives: int, seed: int) -> None:
        self._image_of_caption = pairs.image_of_caption[np.arange(len(pairs.captions))]
        if len(np.unique(self._image_of_caption)) < 2:
            raise ValueError("data.captions: false pairs need two images or more")
        self.pairs, self.negatives, self.seed = pairs, negatives, seed

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in one pass over the captions."""
        return self.pairs.steps_per_epoch

    def batch(self, step: int) -> MatchBatch:
        """This process's pairs of ``step``."""
        share = self.pairs.sampler.share
        index_B = self.pairs.sampler.index(step)
        drawn = [
            self._false_pair(int(index), step=step, place=share.rank * share.batch_size + row, turn=turn)
            for row, index in enumerate(index_B)
            for turn in range(self.negatives)
        ]
        caption_P, image_P = (np.array(part, dtype=np.int64) for part in zip(*drawn, strict=True))
        false = PairBatch(
            caption=TokenBatch.padded(self.pairs.captions.ids(caption_P), pad_id=self.pairs.pad_id),
            image_BF=torch.from_numpy(self.pairs.images.rows(image_P)),
            image_id_B=torch.from_numpy(image_P),
        )
        return MatchBatch(true=self.pairs.batch(step), false=false)

    def _false_pair(self, index: int, *, step: int, place: int, turn: int) -> tuple[int, int]:
        """A caption and an image; one of them is ``index``'s own."""
        generator = np.random.default_rng([self.seed, Draw.FALSE_PAIRS, step, place, turn])
        image_of_caption = self._image_of_caption
        while True:
            other = int(generator.integers(len(image_of_caption)))
            if image_of_caption[other] != image_of_caption[index]:
                break
        if generator.random() < 0.5:
            return index, int(image_of_caption[other])
        return other, int(image_of_caption[index])
